"""torch-geometric's graphs, for `GraphData`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datamodules.columns import Columns
from datamodules.graph_checks import check_graphs
from datamodules.ragged import Ragged
from datamodules.sets import bounds

if TYPE_CHECKING:
    from torch_geometric.data import Data

FIELDS = ("x", "edge_index", "edge_attr", "y", "u")


def from_pyg(graphs: Sequence[Data], node_level: bool = False) -> Columns:
    """The columns of a list of torch-geometric's `Data`, as `GraphData.load()` gives them for each part:

        class Mine(GraphData):
            node_features, edge_features, num_classes = 7, 4, 2

            def load(self):
                return {"train": from_pyg(training_graphs), "test": from_pyg(test_graphs)}

    Args:
        graphs: each with `x` (nodes, features), `edge_index` (2, edges) in both directions, `edge_attr` (edges, features) where
            edges have features, and `y`: a class index, a row of targets, or either for each node; perhaps `u` (1, features).
        node_level: whether `y` has an entry for each node.

    Raises:
        ValueError: no graphs, a graph without a field that it needs, a field of another width than in the first graph, or what
            `check_graphs` refuses.
    """
    if not graphs:
        raise ValueError("there are no graphs: give at least one")
    fields = [name for name in FIELDS if getattr(graphs[0], name, None) is not None]
    absent = {"x", "edge_index", "y"}.difference(fields)
    if absent:
        raise ValueError(f"graph 0 has no {' and no '.join(sorted(absent))}: give each graph x, edge_index and y")
    kept = []
    for number, graph in enumerate(graphs):
        found: dict[str, Tensor] = {name: row_of(graph, name, number, node_level) for name in fields}
        for name, value in found.items():
            expected = kept[0][name] if kept else value
            if (value.dim(), value.shape[1:]) != (expected.dim(), expected.shape[1:]) and name != "edge_index":
                raise ValueError(
                    f"graph {number} has {name} of shape {tuple(value.shape)} and graph 0 of {tuple(expected.shape)}: give all "
                    f"graphs features of the same width"
                )
        pairs = [("edge_attr", found["edge_index"].shape[1], "edges")] if "edge_attr" in found else []
        for name, count, what in [*pairs, ("y", len(found["x"]) if node_level else 1, "nodes" if node_level else "graph")]:
            if len(found[name]) != count:
                raise ValueError(
                    f"graph {number} has {count} {what} and {len(found[name])} entries of {name!r}: give one for each"
                )
        kept.append(found)
    together = {name: torch.cat([found[name] for found in kept], int(name == "edge_index")) for name in fields}
    sizes = {name: [found[name].shape[int(name == "edge_index")] for found in kept] for name in ("x", "edge_index")}
    columns = from_collated(together, {name: bounds(torch.tensor(each)) for name, each in sizes.items()}, node_level)
    u = columns["u"].shape[1] if "u" in columns else 0
    check_graphs(columns, columns["x"].values.shape[1], columns["edge_attr"].values.shape[1], u)
    return columns


def row_of(graph: Data, name: str, number: int, node_level: bool) -> Tensor:
    """A field of a graph, with as many dimensions as every graph's must have.

    Raises:
        ValueError: it is absent, or the edges are not (2, edges).
    """
    value = getattr(graph, name, None)
    if value is None:
        raise ValueError(f"graph {number} has no {name} and graph 0 has: give it to all graphs or to none")
    if name == "edge_index" and (value.dim() != 2 or len(value) != 2):
        raise ValueError(f"graph {number} has an edge_index of shape {tuple(value.shape)}: give (2, edges)")
    if name == "u" or (name == "y" and not node_level):
        return value.reshape(1, -1) if value.is_floating_point() else value.reshape(-1)
    return value.unsqueeze(1) if value.dim() == 1 and (name != "y" or value.is_floating_point()) else value


def from_collated(fields: Mapping[str, Any], slices: Mapping[str, Any], node_level: bool = False) -> Columns:
    """The columns of graphs one behind the other, each with its nodes counted from 0, as torch-geometric keeps a data set.

    Args:
        fields: "x", "edge_index", "y" and perhaps "edge_attr" and "u" of all graphs.
        slices: where each graph begins in "x" and in "edge_index", and where the last one ends.
        node_level: whether "y" has an entry for each node.
    """
    sizes, number_of_edges = slices["x"].diff(), slices["edge_index"].diff()
    edge_attr = fields.get("edge_attr")
    if edge_attr is None:
        edge_attr = torch.zeros(int(number_of_edges.sum()), 0)
    y = fields["y"].float() if fields["y"].is_floating_point() else fields["y"].long()
    x = Ragged(fields["x"].float(), sizes)
    # Sorted by graph last: an edge that leads out of its graph stays with it, to be told.
    ends = fields["edge_index"].T.long()
    graph = torch.repeat_interleave(torch.arange(len(sizes)), number_of_edges)
    order = torch.argsort(ends[:, 0], stable=True)
    order = order[torch.argsort(ends[order, 1], stable=True)]
    order = order[torch.argsort(graph[order], stable=True)]
    columns = {
        "x": x,
        "edges": Ragged(ends[order], number_of_edges),
        "edge_attr": Ragged(edge_attr.float()[order], number_of_edges),
        "y": Ragged(y, sizes) if node_level else y,
    }
    if "u" in fields:
        columns["u"] = fields["u"].float()
    return columns
