"""Which points lie near one another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def neighbours(positions: Tensor, cutoff: float, box: float | tuple[float, ...] | None = None) -> tuple[Tensor, Tensor]:
    """All pairs of points no further apart than `cutoff`, found by scipy's k-d tree: an edge in both directions for each pair.

    No number of neighbours is too large, and no point is its own neighbour.

    Args:
        positions: (points, dimensions).
        cutoff: the greatest distance, in the unit of the positions.
        box: the periods of a periodic box, one for each dimension or one for all of them; None for open space.

    Returns:
        The edges, (edges, 2), int64, from a point to a point, sorted by the one that they lead to, and then by the other; and
        where the first of them lies as seen from the second, in a periodic box its nearest image: (edges, dimensions), in the
        positions' dtype. Their length is the distance.

    Raises:
        ValueError: positions of another shape or that are not finite, a cutoff that is not above 0, a box of other dimensions,
            or one that is smaller than twice the cutoff, in which a point could be a neighbour of several images of another.
    """
    from scipy.spatial import KDTree

    if positions.dim() != 2 or not positions.shape[1]:
        raise ValueError(f"positions have the shape {tuple(positions.shape)}: give (points, dimensions)")
    if not positions.isfinite().all():
        first = int((~positions.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"point {first} lies at {tuple(positions[first].tolist())}: give finite positions")
    if not 0 < cutoff < float("inf"):
        raise ValueError(f"cutoff={cutoff}: give a distance above 0")
    points = positions.detach().cpu().double().numpy()
    period = None
    if box is not None:
        period = np.array([box] * points.shape[1] if np.ndim(box) == 0 else box, dtype=np.float64)
        if len(period) != points.shape[1]:
            raise ValueError(
                f"box={box} has {len(period)} periods and the points have {points.shape[1]} dimensions: give one each"
            )
        if not np.isfinite(period).all():
            raise ValueError(f"box={box}: give finite periods, or no box for open space")
        if not (period >= 2 * cutoff).all():
            raise ValueError(
                f"box={box} is smaller than twice the cutoff {cutoff}, so that a point would have several images of another "
                f"near it: give a larger box, or a smaller cutoff"
            )
        points = np.mod(points, period)
        points[points >= period] = 0.0  # a negative number too small to be told from 0 is rounded up to the period
    if len(points) < 2:
        return torch.zeros(0, 2, dtype=torch.int64), positions.new_zeros(0, positions.shape[1])
    pairs = KDTree(points, boxsize=period).query_pairs(cutoff, output_type="ndarray").astype(np.int64)
    edges = np.concatenate([pairs, pairs[:, ::-1]])
    edges = edges[np.lexsort((edges[:, 0], edges[:, 1]))]
    seen = points[edges[:, 0]] - points[edges[:, 1]]
    if period is not None:
        seen -= period * np.round(seen / period)
    return torch.from_numpy(edges), torch.from_numpy(seen).to(positions)
