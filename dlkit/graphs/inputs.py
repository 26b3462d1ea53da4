"""What a method of graphs is given: `Graphs`, or torch-geometric's `Data` and `Batch`, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.batches import Graphs, check_bounds, check_edge_index


def as_graphs(batch: Any) -> Graphs:
    """A batch as `Graphs`: itself, or one of torch-geometric's turned into it, its edges sorted by the node that they lead to.

    Of a `Data` or `Batch`, `x`, `edge_index`, `y` and, where it has them, `edge_attr`, `batch` and `u` (graphs, graph_features)
    are taken; a vector `y` of real numbers is one target for each graph or node, and whole numbers become real ones where they
    are features.

    Raises:
        ValueError: it is neither, or has no x or edge_index, or one of another shape.
    """
    if isinstance(batch, Graphs):
        return batch
    from torch_geometric.data import Data

    if not isinstance(batch, Data) or batch.x is None or batch.edge_index is None:
        raise ValueError(
            f"{type(batch).__name__} is no batch of graphs: give dlkit.Graphs, or torch-geometric's Data or Batch with x and "
            f"edge_index"
        )
    check_edge_index(batch.edge_index)
    order = torch.argsort(batch.edge_index[1], stable=True)
    edge_attr, ptr, owner, y, u = (batch.get(name, None) for name in ("edge_attr", "ptr", "batch", "y", "u"))
    x = features(batch.x)
    if ptr is None:
        sizes = torch.tensor([len(x)], device=x.device) if owner is None else owner.bincount()
        ptr = F.pad(sizes.cumsum(0), (1, 0))
    return Graphs(
        x,
        batch.edge_index[:, order],
        x.new_zeros(len(order), 0) if edge_attr is None else features(edge_attr)[order],
        ptr,
        x.new_full((0,), torch.nan) if y is None else features(y) if y.is_floating_point() else y,
        u,
    )


def features(values: Tensor) -> Tensor:
    """(n,) -> (n, 1); (n, features) as it is; of real numbers."""
    values = values if values.is_floating_point() else values.float()
    return values.unsqueeze(1) if values.dim() == 1 else values


def check_graphs(batch: Graphs, node_features: int, edge_features: int, graph_features: int, method: str) -> None:
    """Refuses graphs that a method was not built for.

    What has to be looked at number by number is looked at on the CPU only: on an accelerator the look would make the step wait.

    Raises:
        ValueError: features of another width, that are missing, no real numbers or not finite; bounds that do not fit; an edge
            to or from a node that is not there.
    """
    check_edge_index(batch.edge_index)
    check_bounds(batch.ptr, len(batch.x), "graphs", "nodes")
    counted = [("node", batch.x, node_features, len(batch.x), "nodes")]
    counted.append(("edge", batch.edge_attr, edge_features, batch.edge_index.shape[1], "edges"))
    if graph_features:
        if batch.u is None:
            raise ValueError(f"{method} was built for graphs of {graph_features} features and the batch has no u: give it")
        counted.append(("graph", batch.u, graph_features, len(batch.ptr) - 1, "graphs"))
    for what, values, width, number, things in counted:
        if values.dim() != 2 or values.shape[1] != width:
            raise ValueError(
                f"{method} was built for {what}s of {width} features and was given {tuple(values.shape[1:])}: set "
                f"{what}_features to the data's"
            )
        if not values.is_floating_point():
            raise ValueError(f"the features of {things} are {values.dtype}: give real numbers, float32")
        if len(values) != number:
            raise ValueError(f"the batch has {number} {things} and features of {len(values)}: give a row for each")
        if values.is_cpu and not values.isfinite().all():
            row, column = (~values.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"{what} {row} of the batch has {values[row, column].item()} as feature {column}: fill it in, or drop the graph"
            )
    ends, nodes = batch.edge_index, len(batch.x)
    if ends.is_cpu and ends.numel() and (int(ends.min()) < 0 or int(ends.max()) >= nodes):
        edge = int(((ends < 0) | (ends >= nodes)).any(0).nonzero()[0])
        source, target = ends[:, edge].tolist()
        raise ValueError(
            f"edge {edge} of the batch leads from node {source} to node {target} and there are {nodes} nodes, counted from 0 "
            f"through all its graphs: look at how edges are counted"
        )
