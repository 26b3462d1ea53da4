"""Splines whose bins are written out one after the other, for a compiler.

The same splines as in `dlkit.functional.splines`, by elementwise operations alone: no sum over the bins, no gather, no scatter.
A compiler makes one loop of all of it, and one of its derivative, which searches anew instead of keeping what it found. In
eager mode the many small operations would take longer than the few large ones there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dlkit.functional.spline_bins import Bin, confined, derivative, spans, within


def softmax(rows: Sequence[Tensor]) -> list[Tensor]:
    """Of each point's rows."""
    highest = rows[0]
    for row in rows[1:]:
        highest = torch.maximum(highest, row)
    highest = highest.detach()  # the shares do not depend on it
    weights = [torch.exp(row - highest) for row in rows]
    factor = 1 / sum(weights[1:], weights[0])
    return [weight * factor for weight in weights]


def pick(values: Sequence[Tensor], passed: Sequence[Tensor]) -> Tensor:
    """Of one value for each bin, that of the bin of the point."""
    found = values[0]
    for beyond, value in zip(passed, values[1:], strict=True):
        found = torch.where(beyond, value, found)
    return found


def search(point: Tensor, rows: Sequence[Tensor], bound: float, inverse: bool) -> Bin:
    """The bins of points within the bounds."""
    bins = (len(rows) + 1) // 3
    span, floor = spans(bound, bins)
    nothing = torch.zeros_like(point)
    knots, sizes = [], []
    for shares in softmax(rows[:bins]), softmax(rows[bins : 2 * bins]):
        reached = [nothing]
        for share in shares[:-1]:
            reached.append(reached[-1] + share)
        knots.append([total * span + (number * floor - bound) for number, total in enumerate(reached)])
        sizes.append([share * span + floor for share in shares])
    passed = [point >= knot for knot in knots[int(inverse)][1:]]
    slopes = rows[2 * bins :]
    slopes = [*slopes, slopes[0]] if len(rows) == 3 * bins else [nothing, *slopes, nothing]
    ends = pick(slopes[:-1], passed), pick(slopes[1:], passed)
    return Bin(*(pick(side, passed) for side in (*knots, *sizes)), *(derivative(end) for end in ends))


def evaluate(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """x (*shape), raw (3K, *shape) of the circle or (3K - 1, *shape) of the line -> y and log dy/dx, both (*shape)."""
    point, inside = confined(x, raw, bound)
    y, log_derivative, _ = within(point, search(point, raw.unbind(0), bound, inverse), inverse)
    if inside is None:
        return y, log_derivative
    return torch.where(inside, y, x), torch.where(inside, log_derivative, torch.zeros_like(x))


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """`evaluate`, of which nothing is kept for the derivative: searching anew is faster than writing and reading it."""
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return evaluate(x, raw, bound, inverse)
    return checkpoint(evaluate, x, raw, bound, inverse, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore
