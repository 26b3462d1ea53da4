"""Edges, and the layer that lets the nodes at their ends act on each other, with a network for what is said along an edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.batches import check_edge_index
from dlkit.functional.segments import segment_sizes, segment_sum


class SortedEdges:
    """Edges between nodes, and sums over those that lead to the same node.

    Where as many lead to every node, as in a complete graph, what lies at edges is looked at as (nodes, degree, *), so that
    sums need no index.

    Args:
        edge_index: (2, edges), int64: an edge leads from node `edge_index[0]` to node `edge_index[1]`; sorted by the latter.
        num_nodes: how many nodes there are.

    Raises:
        ValueError: another shape or type, a node that is not there, edges in another order. On an accelerator only shape and
            type are looked at.

    Attributes:
        source, target: (edges,), int64.
        degree: how many edges lead to every node; None where they differ.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        check_edge_index(edge_index)
        if edge_index.is_cpu and edge_index.numel():
            least, most = int(edge_index.min()), int(edge_index.max())
            if least < 0 or most >= num_nodes:
                raise ValueError(f"edge_index names node {least if least < 0 else most}, and there are {num_nodes} nodes")
            if (edge_index[1].diff() < 0).any():
                raise ValueError("edge_index is not sorted by the node that edges lead to: sort its columns by edge_index[1]")
        self.source, self.target = edge_index.unbind()
        self.num_nodes = num_nodes
        self.sizes = segment_sizes(self.target, num_nodes)
        even, rest = divmod(edge_index.shape[1], max(num_nodes, 1))
        self.degree = even if even and not rest and bool((self.sizes == even).all()) else None

    @classmethod
    def complete(cls, graphs: int, nodes: int, device: torch.device | None = None) -> SortedEdges:
        """From each node of a graph to each other one, for graphs of as many nodes each, at least 2, one behind the other."""
        edges = cls.__new__(cls)
        target = torch.arange(nodes, device=device).unsqueeze(1)
        source = torch.arange(nodes - 1, device=device)
        source = source + (source >= target)  # which leaves out the node itself
        begin = nodes * torch.arange(graphs, device=device).view(-1, 1, 1)
        edges.source = (begin + source).flatten()
        edges.target = (begin + target).expand(-1, -1, nodes - 1).flatten()
        edges.num_nodes, edges.degree = graphs * nodes, nodes - 1
        edges.sizes = torch.full((edges.num_nodes,), edges.degree, device=device)
        return edges

    def __len__(self) -> int:
        return len(self.source)

    def at_source(self, values: Tensor) -> Tensor:
        """What the node has from which an edge leads: (nodes, *) -> (edges, *)."""
        return values.index_select(0, self.source)  # whose gradient is summed faster than that of values[source]

    def plus_target(self, values: Tensor, nodes: Tensor) -> Tensor:
        """Values of edges and those of the node that each leads to, added: (edges, k), (nodes, k) -> (edges, k)."""
        if self.degree is None:
            return values + nodes.index_select(0, self.target)
        return (values.view(self.num_nodes, self.degree, -1) + nodes.unsqueeze(1)).flatten(0, 1)

    def sum(self, values: Tensor) -> Tensor:
        """Over the edges that lead to a node, 0 where there are none: (edges, k) -> (nodes, k)."""
        if self.degree is None:
            return segment_sum(values, self.target, self.num_nodes)
        return values.view(self.num_nodes, self.degree, -1).sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """Likewise."""
        if self.degree is not None:
            return self.sum(values) / self.degree
        return self.sum(values) / self.sizes.clamp(min=1).unsqueeze(1).to(values.dtype)


class EdgeMessages(nn.Module):
    """m_ij = phi_e(h_i, h_j, a_ij), with phi_e two linear layers, each followed by SiLU, for the edge from j to i.

    The first layer's W [h_i, h_j, a_ij] = W_i h_i + W_j h_j + W_a a_ij: what nodes contribute is computed once for each node
    and not for each edge.

    Args:
        size: features of a node.
        edge_features: of an edge.
        message_size: features of a message, and hidden units.
    """

    def __init__(self, size: int, edge_features: int, message_size: int) -> None:
        super().__init__()
        self.parts = (size, size, edge_features)
        self.first = nn.Linear(sum(self.parts), message_size)
        self.second = nn.Linear(message_size, message_size)

    def forward(self, h: Tensor, edge_attr: Tensor, edges: SortedEdges) -> Tensor:
        """h: (nodes, size); edge_attr: (edges, edge_features) -> (edges, message_size).

        Raises:
            ValueError: other shapes.
        """
        wanted = ((edges.num_nodes, self.parts[0]), (len(edges), self.parts[2]))
        given = (tuple(h.shape), tuple(edge_attr.shape))
        if given != wanted:
            raise ValueError(f"features of nodes and edges are {given[0]} and {given[1]}: give {wanted[0]} and {wanted[1]}")
        of_target, of_source, of_edge = self.first.weight.split(self.parts, 1)
        hidden = edges.at_source(F.linear(h, of_source)) + F.linear(edge_attr, of_edge)
        hidden = edges.plus_target(hidden, F.linear(h, of_target, self.first.bias))
        return F.silu(self.second(F.silu(hidden)))


class InteractionLayer(nn.Module):
    """h_i <- h_i + phi_h(h_i, sum_j m_ij), m_ij = phi_e(h_i, h_j, a_ij) (Gilmer et al. 2017, arXiv:1704.01212).

    The form that Satorras et al. 2021 (arXiv:2102.09844, Table 1) compare theirs with; in the main an interaction network
    (Battaglia et al. 2016, arXiv:1612.00222). phi_h is two linear layers with SiLU between them.

    Args:
        size: features of a node, of a message, and hidden units.
        edge_features: of an edge.
    """

    def __init__(self, size: int, edge_features: int) -> None:
        super().__init__()
        self.messages = EdgeMessages(size, edge_features, size)
        self.update = nn.Sequential(nn.Linear(2 * size, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, h: Tensor, edge_attr: Tensor, edges: SortedEdges) -> Tensor:
        """h: (nodes, size); edge_attr: (edges, edge_features) -> (nodes, size)."""
        received = edges.sum(self.messages(h, edge_attr, edges))
        return h + self.update(torch.cat([h, received], 1))
