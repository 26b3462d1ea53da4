"""Message passing: nodes send messages along edges and take what comes together into their states.

    m_i = sum over edges j -> i of M(h_j, e_ij),    h_i = GRU(m_i, h_i)                  (t = 1 .. T)

Gilmer et al. 2017 (arXiv:1704.01212), section 5: the messages of their edge network are M = A(e_ij) h_j. A matrix of D x D
numbers for each edge makes it slow and large elsewhere; here one is built only where that costs least: see `EdgeNetwork`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dlkit.functional.segments import segment_sizes, segment_sum

Message = Literal["edge_network", "sigmoid"]
Form = Literal["kinds", "factors", "matrices"]
Messenger = Callable[[Tensor], Tensor]  # states (nodes, size) -> messages (edges, size)

LOOKED_AT = 256  # edges that are looked at to see whether many have the same features
MOST_KINDS = 64  # among them
TABLE = 1024  # nodes of a table at the most: larger tensors are slower a number, because memory is


class Edges:
    """The edges of a batch, and what follows from them alone, found once for all rounds.

    Args:
        edge_index: (2, edges), int64: an edge leads from node `edge_index[0]` to `edge_index[1]`. In any order; sums are
            fastest over edges sorted by the node that they lead to.
        edge_attr: (edges, edge_features).
        number: of nodes.
    """

    def __init__(self, edge_index: Tensor, edge_attr: Tensor, number: int) -> None:
        self.source, self.target = edge_index.unbind(0)
        self.attr = edge_attr
        self.number = number

    def __len__(self) -> int:
        return len(self.attr)

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor] | None:
        """Where the same few features are those of many edges, as bonds' are: an edge of each kind, (kinds,), and the kind of
        each edge, (edges,); otherwise None.
        """
        if self.attr.requires_grad or not len(self):  # equal features have gradients of their own
            return None
        # Rows are told apart by a number, which sorts much faster than they do.
        scales = torch.arange(2, 2 + self.attr.shape[1], device=self.attr.device, dtype=torch.float64).sqrt()
        keys = (self.attr.detach().double() * scales).sum(1)
        if len(keys[:: -(-len(keys) // LOOKED_AT)].unique()) > MOST_KINDS:
            return None
        unique, kind = keys.unique(return_inverse=True)
        first = torch.zeros(len(unique), dtype=torch.int64, device=kind.device)
        first.scatter_(0, kind, torch.arange(len(kind), device=kind.device))
        same = torch.equal(self.attr[first].index_select(0, kind), self.attr)  # two rows may share a number by chance
        return (first, kind) if same else None

    @cached_property
    def by_source(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The edges that lead from each node, side by side; there has to be an edge.

        Returns:
            Tables of nodes with about as many edges each, (n,), and of those edges, (n, width), filled up with the number of
            edges, which is no edge's; at most half of a table is filling. And where each edge lies in all tables one behind the
            other, (edges,).
        """
        degree = segment_sizes(self.source, self.number)
        order = torch.argsort(self.source, stable=True)
        first = degree.cumsum(0) - degree
        if self.number * int(degree.max()) <= 2 * len(self):
            groups = [torch.arange(self.number, device=degree.device)]
        else:
            # Degrees between two powers of two go together: as many tables as there are powers, and no loop over nodes.
            power = degree.clamp(min=1).log2().floor() + (degree > 0)
            groups = [(power == each).nonzero().flatten() for each in power.unique().tolist() if each]
        tables = []
        for nodes in (part for group in groups for part in group.split(TABLE)):
            steps = torch.arange(int(degree[nodes].max()), device=degree.device)
            edges = order[(first[nodes].unsqueeze(1) + steps).clamp_(max=len(self) - 1)]
            tables.append((nodes, edges.masked_fill_(steps >= degree[nodes].unsqueeze(1), len(self))))
        laid = torch.cat([edges.flatten() for _, edges in tables])
        place = torch.zeros(len(self) + 1, dtype=torch.int64, device=laid.device)
        place.scatter_(0, laid, torch.arange(len(laid), device=laid.device))
        return tables, place[:-1]


class EdgeNetwork(nn.Module):
    """Messages A(e_ij) h_j, where A(e) is a matrix that a network makes of the edge's features (Gilmer et al. 2017, section 5):

        z = (1, relu(W1 e + b1)),    A(e) = sum_k z_k B_k          (B_0 is the bias)

    as of `torch_geometric.nn.NNConv` with two linear layers. With N nodes, E edges, T rounds and matrices of D x D numbers, the
    same messages can be had in three ways; `form` picks the one with the fewest multiplications:

        "kinds"     C K D D + T N C D D  Where edges have few different rows of features, C: the C products A h_j of each node,
                                         of which an edge takes its own. For bonds, of which there are few kinds.
        "factors"   T (N K D D + E K D)  P_j = (B_0 h_j, .., B_K h_j) of each node, and z_ij . P_j for each of its edges: no
                                         edge has a matrix. For complete graphs, or neighbours within a distance.
        "matrices"  E K D D + T E D D    A of every edge, once for all rounds. For few edges a node, each with its own features,
                                         and only where they take no more memory than the P of all rounds.

    Args:
        edge_features: of an edge; with none, A is a matrix for all edges alike.
        hidden_size: of z.
        in_size: of the states h.
        out_size: of the messages.

    Attributes:
        weight: (1 + hidden_size, in_size, out_size), the B_k.
    """

    def __init__(self, edge_features: int, hidden_size: int, in_size: int, out_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(edge_features, hidden_size) if edge_features else None
        factors = 1 + (hidden_size if edge_features else 0)
        # As linear layers begin; a matrix that is all alone begins with messages as large as the states.
        bound = 1 / math.sqrt(hidden_size) if edge_features else math.sqrt(3 / in_size)
        self.weight = nn.Parameter(torch.empty(factors, in_size, out_size).uniform_(-bound, bound))

    def factors(self, edge_attr: Tensor) -> Tensor:
        """z: (edges, edge_features) -> (edges, 1 + hidden_size)."""
        one = edge_attr.new_ones(len(edge_attr), 1)
        return one if self.hidden is None else torch.cat([one, self.hidden(edge_attr).relu()], 1)

    def matrices(self, edge_attr: Tensor) -> Tensor:
        """A: (edges, edge_features) -> (edges, in_size, out_size)."""
        return (self.factors(edge_attr) @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])

    def form(self, edges: Edges, rounds: int) -> Form:
        """The form of the fewest multiplications."""
        factors, rows, columns = self.weight.shape
        size, wide = rows * columns, factors * columns
        costs: dict[Form, int] = {"factors": rounds * (edges.number * factors * size + len(edges) * wide)}
        if len(edges) * size <= rounds * edges.number * wide:
            costs["matrices"] = len(edges) * (factors + rounds) * size
        if edges.kinds is not None:
            costs["kinds"] = len(edges.kinds[0]) * (factors + rounds * edges.number) * size
        return min(costs, key=lambda name: costs[name])

    def prepare(self, edges: Edges, rounds: int = 1, form: Form | None = None) -> Messenger:
        """What turns the states of the nodes, (nodes, in_size), into messages, (edges, out_size), as often as there are rounds.

        Args:
            edges: of the batch.
            rounds: how often it is going to be used.
            form: None for the cheapest.
        """
        out_size = self.weight.shape[2]
        form = form or self.form(edges, rounds)
        if form == "matrices" or not len(edges):
            matrices = self.matrices(edges.attr)
            return lambda h: torch.bmm(h.index_select(0, edges.source).unsqueeze(1), matrices).squeeze(1)
        if form == "kinds":
            assert edges.kinds is not None
            first, kind = edges.kinds
            every = self.matrices(edges.attr[first]).transpose(0, 1).flatten(1)  # (in_size, kinds * out_size)
            own = edges.source * len(first) + kind
            return lambda h: (h @ every).view(-1, out_size).index_select(0, own)
        tables, place = edges.by_source
        every = self.weight.transpose(0, 1).flatten(1)  # (in_size, (1 + hidden_size) * out_size)
        factors = []
        for _, table in tables:
            # The filling may be any edge, here the last: where it lies nothing is read.
            rows = table.flatten().clamp(max=len(edges) - 1)
            factors.append(self.factors(edges.attr.index_select(0, rows)).view(*table.shape, -1))

        def messages(h: Tensor) -> Tensor:
            parts = []
            for (nodes, _), z in zip(tables, factors, strict=True):
                products = (h.index_select(0, nodes) @ every).unflatten(1, (-1, out_size))
                parts.append(torch.bmm(z, products).flatten(0, 1))
            return torch.cat(parts).index_select(0, place)

        return messages


class MessagePassing(nn.Module):
    """Rounds of messages and updates.

    A node without edges receives 0. "sigmoid" messages are the course's, sigmoid(A(e_ij) f(h_j)) with f(h) = relu(V h + c), and
    those of "edge_network" are A(e_ij) h_j. A virtual node, one to each graph, hears all its nodes and speaks to them, with
    weights of its own: m_i gets W v more, and v = GRU(sum_i U h_i, v), from 0 (Gilmer et al. 2017, section 5.2, "master node").

    Args:
        size: of the states.
        edge_features: of an edge; 0 for none.
        rounds: T.
        hidden_size: of the edge network.
        message: "edge_network" or "sigmoid".
        tied: whether all rounds have the same weights, as in the paper.
        virtual_node: whether there are virtual nodes.

    Raises:
        ValueError: an unknown message, or a size or number below one.
    """

    def __init__(
        self,
        size: int,
        edge_features: int,
        rounds: int,
        hidden_size: int = 128,
        message: Message = "edge_network",
        tied: bool = True,
        virtual_node: bool = False,
    ) -> None:
        super().__init__()
        if message not in get_args(Message):
            raise ValueError(f"unknown message {message!r}: use {' or '.join(map(repr, get_args(Message)))}")
        if min(size, rounds, hidden_size) < 1:
            raise ValueError(f"size={size}, rounds={rounds} and hidden_size={hidden_size}: give at least 1 of each")
        self.rounds = rounds
        self.message: Message = message

        def each(build: Callable[[], nn.Module], rounds: int = rounds) -> nn.ModuleList:
            return nn.ModuleList([build() for _ in range(min(rounds, 1) if tied else rounds)])

        self.networks = each(lambda: EdgeNetwork(edge_features, hidden_size, size, size))
        self.updates = each(lambda: nn.GRUCell(size, size))
        self.projections = each(lambda: nn.Linear(size, size)) if message == "sigmoid" else None
        # It speaks from the second round on, of what it has heard in those before.
        self.hear = each(lambda: nn.Linear(size, size, bias=False), rounds - 1) if virtual_node else None
        self.speak = each(lambda: nn.Linear(size, size, bias=False), rounds - 1) if virtual_node else None
        self.virtual_updates = each(lambda: nn.GRUCell(size, size), rounds - 1) if virtual_node else None

    def forward(self, h: Tensor, edges: Edges, index: Tensor, graphs: int) -> Tensor:
        """States after all rounds: (nodes, size), their edges, the graph of each node (nodes,), and how many graphs -> as h."""
        different = len(self.networks)
        messengers = [network.prepare(edges, self.rounds // different) for network in self.networks]  # pyright: ignore[reportCallIssue]
        virtual = h.new_zeros(graphs, h.shape[1])
        for number in range(self.rounds):
            t = number % different
            sent = h if self.projections is None else self.projections[t](h).relu()
            messages = messengers[t](sent)
            messages = messages if self.message == "edge_network" else messages.sigmoid()
            received = segment_sum(messages, edges.target, len(h)).to(h.dtype)
            if self.speak is not None and number:
                received = received + self.speak[(number - 1) % len(self.speak)](virtual).index_select(0, index)
            if self.hear is not None and self.virtual_updates is not None and number + 1 < self.rounds:
                v = number % len(self.hear)
                virtual = self.virtual_updates[v](segment_sum(self.hear[v](h), index, graphs), virtual)
            h = self.updates[t](received, h)
        return h
