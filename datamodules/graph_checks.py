"""What every part of a `GraphData` is checked for before it is used."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.columns import Columns
from datamodules.ragged import Ragged


def check_graphs(columns: Columns, node_features: int, edge_features: int, graph_features: int = 0) -> None:
    """Refuses graphs that no method could use, or that would be used wrongly in silence.

    Args:
        columns: "x", "edges", "edge_attr", "y" and perhaps "u", as `GraphData` has them.
        node_features, edge_features, graph_features: how many of each are expected.

    Raises:
        ValueError: naming the first graph that is wrong, counted from 0: features of another width or that are not finite, an
            edge that leads to or from no node of its graph, edges in one direction only, edges not sorted by the node that they
            lead to, as many features as there are no edges, as many targets as there are no graphs or nodes.
    """
    x, edges, edge_attr = columns["x"], columns["edges"], columns["edge_attr"]
    check_lengths(columns)
    check_features("node", x.values, node_features, x)
    check_features("edge", edge_attr.values, edge_features, edge_attr)
    if "u" in columns:
        check_features("graph", columns["u"], graph_features)
    check_range(edges, x.lengths)
    check_directions(edges, x)


def check_lengths(columns: Columns) -> None:
    """Raises:
    ValueError: columns do not go together.
    """
    x, edges, edge_attr, y = columns["x"], columns["edges"], columns["edge_attr"], columns["y"]
    for name, column in columns.items():
        if len(column) != len(x):
            raise ValueError(f"there are {len(x)} graphs and {len(column)} entries of {name!r}: give one for each graph")
    pairs = [(edges, edge_attr, "edges", "edge_attr")]
    if isinstance(y, Ragged):
        pairs.append((x, y, "nodes", "y"))
    for one, other, what, name in pairs:
        broken = (one.lengths != other.lengths).nonzero().flatten().tolist()
        if broken:
            first = broken[0]
            raise ValueError(
                f"graph {first} has {int(one.lengths[first])} {what} and {int(other.lengths[first])} entries of {name!r}: give "
                f"one for each"
            )


def check_features(what: str, values: Tensor, width: int, column: Ragged | None = None) -> None:
    """Raises:
    ValueError: features of another width, or that are not finite numbers.
    """
    if values.dim() != 2 or values.shape[1] != width:
        found = values.shape[1] if values.dim() == 2 else f"the shape {tuple(values.shape[1:])} and not a row of"
        raise ValueError(f"each {what} has {found} features and {width} are expected: set {what}_features to what the data has")
    broken = (~values.isfinite()).nonzero()
    if len(broken):
        member, feature = broken[0].tolist()
        value = values[member, feature].item()
        graph = member if column is None else owner(column, member)
        place = f"graph {graph}" if column is None else f"graph {graph} {what} {member - int(column.starts[graph])}"
        raise ValueError(f"{place} has {value} as feature {feature}: fill it in, or drop the graph")


def check_range(edges: Ragged, sizes: Tensor) -> None:
    """Raises:
    ValueError: an edge leads to or from no node of its graph.
    """
    of = torch.repeat_interleave(sizes, edges.lengths).unsqueeze(1)
    broken = ((edges.values < 0) | (edges.values >= of)).any(1).nonzero().flatten().tolist()
    if broken:
        graph = owner(edges, broken[0])
        source, target = edges.values[broken[0]].tolist()
        raise ValueError(
            f"graph {graph} has an edge from {source} to {target} and {int(sizes[graph])} nodes, counted from 0: number the "
            f"nodes of each graph anew"
        )


def check_directions(edges: Ragged, x: Ragged) -> None:
    """Raises:
    ValueError: an edge has no other in the opposite direction, or edges are not in the order that batches promise.
    """
    ends = edges.values.long() + torch.repeat_interleave(x.starts, edges.lengths).unsqueeze(1)
    total = max(len(x.values), 1)
    forward, backward = ends[:, 1] * total + ends[:, 0], ends[:, 0] * total + ends[:, 1]
    broken = (forward.diff() < 0).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the edges of graph {owner(edges, broken[0] + 1)} are not sorted by the node that they lead to: sort them by "
            f"datamodules.sets.sorted_edges"
        )
    broken = (~torch.isin(backward, forward)).nonzero().flatten().tolist()
    if broken:
        source, target = edges.values[broken[0]].tolist()
        raise ValueError(
            f"graph {owner(edges, broken[0])} has an edge from {source} to {target} and none from {target} to {source}: give "
            f"each edge in both directions"
        )


def owner(column: Ragged, member: int) -> int:
    """The graph of a member."""
    return int(torch.searchsorted(column.starts + column.lengths, member, right=True))
