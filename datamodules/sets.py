"""SetData and GraphData: the bases of datamodules of sets, and of graphs, of different sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.columns import Columns, TargetData, known_values
from datamodules.graph_checks import check_graphs
from datamodules.loader import Loader
from datamodules.ragged import Ragged
from dlkit.batches import Graphs, Sets


class SetData(TargetData):
    """Sets held in memory.

    A subclass gives `load()`: parts of the columns "x", `Ragged` members; "y", classes (n,), int64, or targets (n, targets),
    float32; and, where something is known of the members, "member_y", `Ragged` (members,), int64.

    Args:
        batch_size: sets a batch and device.
        val_size, split_seed: see `ColumnData`.

    Attributes:
        data_shape: the shape of one member.
        vocab_size: how many tokens there are, where members are tokens; None where they are not.
        num_classes, class_names, num_targets, target_names: see `TargetData`.
    """

    data_shape: tuple[int, ...]
    vocab_size: int | None = None

    def collate(self, part: Columns, rows: Tensor) -> Any:
        x: Ragged = part["x"][rows]
        member_y = part["member_y"][rows].values if "member_y" in part else None
        return Sets(self.members(x.values), bounds(x.lengths), part["y"][rows], member_y)

    def members(self, values: Tensor) -> Tensor:
        """Members as they lie in memory to what methods are given: whole numbers to int64 here."""
        return values if values.is_floating_point() else values.long()

    def serve(self, part: Columns, shuffle: bool, seed: int) -> Loader:
        return Loader(len(part["y"]), lambda rows: self.collate(part, rows), self.batch_size, shuffle, seed)


class GraphData(TargetData):
    """Graphs held in memory.

    A subclass gives `load()`: parts of the columns "x", `Ragged` (nodes, node_features); "edges", `Ragged` (edges, 2), from a
    node to a node of the same graph, counted from 0 in each graph; "edge_attr", `Ragged` (edges, edge_features), in the same
    order; "y", classes (n,) or targets (n, targets), or `Ragged` of either with one entry a node; and perhaps "u", (n,
    graph_features). `sorted_edges` puts the edges into the order that batches promise.

    Args:
        batch_size: graphs a batch and device.
        val_size, split_seed: see `ColumnData`.

    Raises:
        ValueError: at setup, for graphs that `check_graphs` refuses, or a target of which the training part has no value.

    Attributes:
        node_features, edge_features, graph_features: how many of each.
        num_classes, class_names, num_targets, target_names: see `TargetData`.
    """

    node_features: int
    edge_features: int = 0
    graph_features: int = 0

    def divide(self, parts: dict[str, Columns]) -> dict[str, Columns]:
        """The loaded parts with "val" taken out of "train", checked."""
        for name, part in parts.items():
            try:
                self.check(part)
            except ValueError as error:
                raise ValueError(f"{name} part: {error}") from error
        parts = super().divide(parts)
        if self.num_targets:
            known_values(parts["train"]["y"], self.target_names)
        return parts

    def check(self, part: Columns) -> None:
        """Raises ValueError for graphs that no method could use; see `check_graphs`."""
        check_graphs(part, self.node_features, self.edge_features, self.graph_features)

    def collate(self, part: Columns, rows: Tensor) -> Any:
        x, edges, y = part["x"][rows], part["edges"][rows], part["y"][rows]
        ptr = bounds(x.lengths)
        shift = torch.repeat_interleave(ptr[:-1], edges.lengths)
        return Graphs(
            x.values,
            (edges.values.long() + shift.unsqueeze(1)).T.contiguous(),
            part["edge_attr"][rows].values,
            ptr,
            y.values if isinstance(y, Ragged) else y,
            part["u"][rows] if "u" in part else None,
        )

    def serve(self, part: Columns, shuffle: bool, seed: int) -> Loader:
        return Loader(len(part["x"]), lambda rows: self.collate(part, rows), self.batch_size, shuffle, seed)


def bounds(sizes: Tensor) -> Tensor:
    """Where each group begins, and where the last one ends: sizes (groups,) -> (groups + 1,), int64."""
    return F.pad(sizes.cumsum(0), (1, 0))


def sorted_edges(edges: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
    """Edges by the node that they lead to, and then by that from which: (edges, 2), (edges, features) -> the same."""
    order = torch.argsort(edges[:, 0], stable=True)
    order = order[torch.argsort(edges[order, 1], stable=True)]
    return edges[order], edge_attr[order]
