"""Rings: graphs whose class takes a given number of rounds of message passing to be told."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.columns import Columns
from datamodules.ragged import Ragged
from datamodules.sets import GraphData, bounds, sorted_edges

NUM_TEST = 1000


class Rings(GraphData):
    """Rings of nodes, two of which are marked; the class says how many rounds of message passing it takes to see both at once.

    With T = `rounds`, a ring has n nodes, 4T + 2 <= n <= 6T + 2, drawn before the class is. The shorter way between its marked
    nodes has

        class k = 0 .. T - 1    2k + 1 or 2k + 2 edges,
        class T, "far"          2T + 1 edges or more, up to n / 2,

    and the longer way has 2T + 1 edges at the least in every class. A node has one feature, 1 where it is marked.

    T rounds are needed. After t rounds of message passing the state of a node is a function of what lies within t edges of
    it (colour refinement, Weisfeiler and Leman 1968; Xu et al. 2019, arXiv:1810.00826, Lemma 2): here 2t + 1 nodes in a row. In
    the classes from t on no such row holds both marked nodes, which would have to be 2t edges apart at the most. So in every
    such ring of n nodes two rows have the mark at each place, once from either marked node, and n - 2 (2t + 1) have none: the
    states of the rings of one size in all these classes are the same multiset, whatever the network is, and so is every readout
    of them. T rounds are enough. With t = k + 1 one row holds both of two marked nodes 2k + 2 edges apart, and two hold those
    2k + 1 edges apart, while in the classes above k none does.

    All classes being as frequent, t rounds can be right in (t + 1) / (T + 1) of all rings and no more, to within what a sample
    differs: they know the classes below t, and must guess one of the others.

    Args:
        rounds: T, how many rounds of message passing it takes to tell all classes.
        num_examples: rings drawn for training and validation together; 1,000 more are the test part.
        batch_size, val_size, split_seed: see `GraphData`; the seed is of the rings too.

    Raises:
        ValueError: no rounds or no rings.
    """

    node_features = 1

    def __init__(
        self, rounds: int = 4, num_examples: int = 4000, batch_size: int = 64, val_size: int = 500, split_seed: int = 0
    ) -> None:
        super().__init__(batch_size, val_size, split_seed)
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: give 1 or more")
        if num_examples < 1:
            raise ValueError(f"num_examples={num_examples}: give at least 1")
        self.rounds = rounds
        self.num_classes = rounds + 1
        self.class_names = (*(f"{k + 1} round{'s' if k else ''}" for k in range(rounds)), "far")
        self.num_examples = num_examples

    def load(self) -> dict[str, Columns]:
        seed = 1000 * self.split_seed
        return {"train": self.draw(self.num_examples, seed + 1), "test": self.draw(NUM_TEST, seed + 2)}

    def draw(self, number: int, seed: int) -> Columns:
        """The columns of so many rings, their nodes in random order."""
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: Tensor | int, high: Tensor | int) -> Tensor:
            """Whole numbers from low to high, both included: (number,)."""
            return (low + (high - low + 1) * torch.rand(number, generator=generator, dtype=torch.float64)).long()

        rounds = self.rounds
        sizes = uniform(4 * rounds + 2, 6 * rounds + 2)
        y = uniform(0, rounds)
        apart = torch.where(y < rounds, 2 * y + uniform(1, 2), uniform(2 * rounds + 1, sizes // 2))
        first = bounds(sizes)[:-1]
        ring = torch.repeat_interleave(torch.arange(number), sizes)
        # The name of the node at each place of its ring: random numbers, ranked within the ring.
        names = (ring + torch.rand(len(ring), generator=generator, dtype=torch.float64)).argsort() - first[ring]
        x = torch.zeros(len(ring), 1)
        for place in (torch.zeros_like(apart), apart):
            x[first + names[first + place]] = 1
        places = torch.arange(len(ring)) - first[ring]
        following = names[first[ring] + (places + 1) % sizes[ring]]
        ends = torch.stack([names, following], 1) + first[ring].unsqueeze(1)
        edges, edge_attr = sorted_edges(torch.cat([ends, ends.flip(1)]), torch.zeros(2 * len(ends), 0))
        edges = edges - torch.repeat_interleave(first, 2 * sizes).unsqueeze(1)
        return {"x": Ragged(x, sizes), "edges": Ragged(edges, 2 * sizes), "edge_attr": Ragged(edge_attr, 2 * sizes), "y": y}
