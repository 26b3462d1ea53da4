"""TUDataset: graphs to be classified, from a text file, by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import data_root
from datamodules.columns import Columns, select
from datamodules.folds import check_folds, stratified_parts
from datamodules.ragged import Ragged
from datamodules.sets import GraphData, bounds, sorted_edges
from datamodules.text_files import read_text

NUM_GENERATED = 400


class TUDataset(GraphData):
    """Graphs of the TU collection (Morris et al. 2020, arXiv:2007.08663), whose nodes have tags: the class is to be told.

    One fold of `num_folds` is the test part, the one behind it the validation part, and the others are the training part. A
    published figure is a mean over the folds: one run for each.

    The file is text, as Xu et al. 2019 (arXiv:1810.00826) give it: the number of graphs in the first line; then for each graph
    a line `nodes class`, and for each of its nodes a line `tag m neighbours` with m neighbours, numbered from 0 in their graph.
    Tags and classes are whole numbers. Each edge stands at both of its nodes. A node's features are a one-hot of its tag.

    Args:
        source: "generated", 400 random trees of 8 to 16 nodes with the tags 0 to 3, of class 1 where two nodes of tag 0 are
            neighbours; or a name, "MUTAG", "PROTEINS", "NCI1", "ENZYMES" or another, of a file `tu_graphs/NAME.txt`; or the
            path of a `.txt` file of your own.
        root: the folder that holds `tu_graphs`; DLKIT_DATA if None.
        fold: which of the folds is the test part, from 0.
        num_folds: how many folds there are.
        batch_size: see `GraphData`.
        split_seed: of the folds, which have nearly the same share of each class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a fold outside its range, a line that is not as said, a part with one class alone.

    Attributes:
        num_classes, class_names: of the classes in the file, in ascending order.
        node_features: how many different tags the file has.
    """

    def __init__(
        self,
        source: str = "generated",
        root: str | None = None,
        fold: int = 0,
        num_folds: int = 10,
        batch_size: int = 32,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, split_seed=split_seed)
        check_folds(fold, num_folds)
        self.source = source
        self.root = root
        self.fold = fold
        self.num_folds = num_folds

    @property
    def path(self) -> Path:
        """The file."""
        if self.source.endswith(".txt"):
            return Path(self.source).expanduser()
        return data_root(self.root) / "tu_graphs" / f"{self.source}.txt"

    @cached_property
    def file(self) -> TaggedGraphs:
        """What the file says."""
        return generated_trees() if self.source == "generated" else read_tagged_graphs(self.path)

    @cached_property
    def classes(self) -> Tensor:
        """The classes of the file, in ascending order."""
        return self.file.y.unique()

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as the file has them."""
        return tuple(map(str, self.classes.tolist()))

    @property
    def node_features(self) -> int:
        """How many different tags there are."""
        return len(self.file.tags.unique())

    def load(self) -> dict[str, Columns]:
        file = self.file
        x = F.one_hot(file.tags.unique(return_inverse=True)[1]).float()
        y = torch.searchsorted(self.classes, file.y)
        edge_attr = Ragged(torch.zeros(len(file.edges.values), 0), file.edges.lengths)
        columns = {"x": Ragged(x, file.sizes), "edges": file.edges, "edge_attr": edge_attr, "y": y}
        parts = stratified_parts(y, self.fold, self.num_folds, self.split_seed, self.source)
        return {name: select(columns, rows) for name, rows in parts.items()}


class TaggedGraphs(NamedTuple):
    """What a file holds.

    Attributes:
        tags: (nodes,), int64.
        sizes: (graphs,), int64, how many nodes each graph has.
        edges: from a node to a node, sorted as batches promise.
        y: (graphs,), int64, the class as the file has it.
    """

    tags: Tensor
    sizes: Tensor
    edges: Ragged
    y: Tensor


def generated_trees() -> TaggedGraphs:
    """The generated graphs, the same each time; see `TUDataset`."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(8, 17, (NUM_GENERATED,), generator=generator)
    graph = torch.repeat_interleave(torch.arange(NUM_GENERATED), sizes)
    nodes, first = torch.arange(len(graph)), bounds(sizes)[graph]
    tags = torch.randint(4, (len(graph),), generator=generator)
    # Every node but the first of a tree hangs on one of those before it.
    above = first + (torch.rand(len(graph), generator=generator) * (nodes - first)).long()
    ends = torch.stack([above, nodes], 1)[nodes > first]
    edges, _ = sorted_edges(*[torch.cat([ends, ends.flip(1)])] * 2)
    y = torch.zeros(NUM_GENERATED, dtype=torch.int64)
    y[graph[ends[(tags[ends] == 0).all(1), 0]]] = 1
    of = graph[edges[:, 1]]
    return TaggedGraphs(tags, sizes, Ragged(edges - bounds(sizes)[of].unsqueeze(1), of.bincount(minlength=NUM_GENERATED)), y)


def read_tagged_graphs(path: Path) -> TaggedGraphs:
    """The graphs of a file; see `TUDataset`.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: naming the line that is not as said.
    """
    lines = whole_numbers(path)
    number, sizes, y, tags, ends = head(path, lines, "graphs", 1)[0], [], [], [], []
    degrees: list[int] = []
    for _ in range(number):
        size, label = head(path, lines, "graph", 2)
        sizes.append(size)
        y.append(label)
        for _ in range(size):
            line, found = next(lines, (0, []))
            if not line:
                raise ValueError(f"{path} ends before the last node of graph {len(sizes) - 1}: get the file again")
            if len(found) < 2 or len(found) != 2 + found[1]:
                raise ValueError(f"{path} line {line} is not `tag m neighbours` with m neighbours: mend the line")
            if any(not 0 <= other < size for other in found[2:]):
                raise ValueError(
                    f"{path} line {line} names a neighbour outside 0 to {size - 1}, the nodes of its graph: mend the line"
                )
            tags.append(found[0])
            degrees.append(found[1])
            ends.extend(found[2:])
    rest = next(lines, None)
    if rest is not None:
        raise ValueError(f"{path} goes on in line {rest[0]} behind the {number} graphs that line 1 announces: mend line 1")
    if not number:
        raise ValueError(f"{path} holds no graphs: give at least one")
    return assemble(*(torch.tensor(values, dtype=torch.int64) for values in (sizes, y, tags, degrees, ends)))


def assemble(sizes: Tensor, y: Tensor, tags: Tensor, degrees: Tensor, ends: Tensor) -> TaggedGraphs:
    """The graphs, from each node's degree and neighbours: an edge leads from a neighbour to the node that names it."""
    graph = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    first = bounds(sizes)[:-1]
    targets = torch.repeat_interleave(torch.arange(len(tags)), degrees)
    of = graph[targets]
    edges = torch.stack([ends + first[of], targets], 1)
    edges, _ = sorted_edges(edges, edges)
    return TaggedGraphs(tags, sizes, Ragged(edges - first[of].unsqueeze(1), torch.bincount(of, minlength=len(sizes))), y)


def whole_numbers(path: Path) -> Iterator[tuple[int, list[int]]]:
    """The number of each line that is not empty, and the whole numbers in it.

    Raises:
        ValueError: something else is in it.
    """
    for line, text in enumerate(read_text(path).splitlines(), 1):
        cells = text.split()
        if not cells:
            continue
        try:
            yield line, list(map(int, cells))
        except ValueError as error:
            raise ValueError(f"{path} line {line} holds {text[:40]!r} and not whole numbers alone: mend the line") from error


def head(path: Path, lines: Iterator[tuple[int, list[int]]], what: str, number: int) -> list[int]:
    """The line above the graphs, or above the nodes of one.

    Raises:
        ValueError: it has not so many numbers, or a count below zero.
    """
    line, found = next(lines, (0, []))
    if not line:
        raise ValueError(f"{path} ends before its last graph: get the file again")
    if len(found) != number or found[0] < 0:
        raise ValueError(
            f"{path} line {line} is not the "
            + ("number of graphs" if what == "graphs" else "line `nodes class` of a graph")
            + ": mend the line"
        )
    return found
