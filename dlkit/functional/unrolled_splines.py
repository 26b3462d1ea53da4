"""Splines whose bins are written out one after the other, for a compiler.

The same splines as in `dlkit.functional.splines`, by elementwise operations alone: no sum over the bins, no gather, no scatter.
A compiler makes one loop of all of it, and one of its derivative. In eager mode the many small operations would take longer
than the few large ones there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlkit.functional.spline_bins import DERIVATIVE_SHIFT, Bin, confined, derivative, differentiate, spans, within


class Found(NamedTuple):
    """What the search for the bins found; each of the points' shape."""

    number: Tensor  # of the bin, from 0
    before_in_x: Tensor  # the share of all widths that lies before it
    before_in_y: Tensor  # the share of all heights
    share_of_x: Tensor  # its own
    share_of_y: Tensor
    highest_of_x: Tensor  # the shares are exp(raw - highest) * factor
    highest_of_y: Tensor
    factor_of_x: Tensor
    factor_of_y: Tensor
    left: Tensor  # the raw derivatives at its ends
    right: Tensor


def softmax(rows: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Of each point's rows, the highest of these, and by what the exponentials were multiplied."""
    highest = rows[0]
    for row in rows[1:]:
        highest = torch.maximum(highest, row)
    highest = highest.detach()  # the shares do not depend on it
    weights = [torch.exp(row - highest) for row in rows]
    factor = 1 / sum(weights[1:], weights[0])
    return [weight * factor for weight in weights], highest, factor


def pick(values: Sequence[Tensor], passed: Sequence[Tensor]) -> Tensor:
    """Of one value for each bin, that of the bin of the point."""
    found = values[0]
    for beyond, value in zip(passed, values[1:], strict=True):
        found = torch.where(beyond, value, found)
    return found


def search(point: Tensor, rows: Sequence[Tensor], bound: float, inverse: bool) -> Found:
    """The bins of points within the bounds."""
    bins = (len(rows) + 1) // 3
    span, floor = spans(bound, bins)
    nothing = torch.zeros_like(point)
    shares_of_x, highest_of_x, factor_of_x = softmax(rows[:bins])
    shares_of_y, highest_of_y, factor_of_y = softmax(rows[bins : 2 * bins])
    before = []
    for shares in shares_of_x, shares_of_y:
        sums = [nothing]
        for share in shares[:-1]:
            sums.append(sums[-1] + share)
        before.append(sums)
    knots = [share * span + (number * floor - bound) for number, share in enumerate(before[int(inverse)])]
    passed = [point >= knot for knot in knots[1:]]
    slopes = rows[2 * bins :]
    slopes = [*slopes, slopes[0]] if len(rows) == 3 * bins else [nothing, *slopes, nothing]
    return Found(
        number=pick([torch.full_like(point, number) for number in range(bins)], passed),
        before_in_x=pick(before[0], passed),
        before_in_y=pick(before[1], passed),
        share_of_x=pick(shares_of_x, passed),
        share_of_y=pick(shares_of_y, passed),
        highest_of_x=highest_of_x,
        highest_of_y=highest_of_y,
        factor_of_x=factor_of_x,
        factor_of_y=factor_of_y,
        left=pick(slopes[:-1], passed),
        right=pick(slopes[1:], passed),
    )


def placed(found: Found, bound: float, bins: int) -> Bin:
    """The bins that were found."""
    span, floor = spans(bound, bins)
    start = found.number * floor - bound
    return Bin(
        left=found.before_in_x * span + start,
        bottom=found.before_in_y * span + start,
        width=found.share_of_x * span + floor,
        height=found.share_of_y * span + floor,
        d_left=derivative(found.left),
        d_right=derivative(found.right),
    )


def evaluate(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y and log dy/dx; and, stacked, each point's place t in its bin and all of `Found`."""
    point, inside = confined(x, raw, bound)
    found = search(point, raw.unbind(0), bound, inverse)
    y, log_derivative, t = within(point, placed(found, bound, (len(raw) + 1) // 3), inverse)
    if inside is not None:
        y, log_derivative = torch.where(inside, y, x), torch.where(inside, log_derivative, torch.zeros_like(x))
    return y, log_derivative, torch.stack([t, *found])


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """x (*shape), raw (3K, *shape) of the circle or (3K - 1, *shape) of the line -> y and log dy/dx, both (*shape)."""
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return evaluate(x, raw, bound, inverse)[:2]
    return Spline.apply(x, raw, bound, inverse)  # pyright: ignore[reportReturnType]


class Spline(torch.autograd.Function):
    """`evaluate` with its derivative written out, which has none itself.

    Autograd's goes through every step of the search, which makes several loops of a compiler's one and keeps what they share.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
        y, log_derivative, found = evaluate(x, raw, bound, inverse)
        ctx.save_for_backward(x, raw, found)
        ctx.bound, ctx.inverse = bound, inverse
        return y, log_derivative

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, raw, stacked = ctx.saved_tensors
        t, *pieces = stacked.unbind(0)
        found = Found(*pieces)
        g_value, g_log = gradients
        _, inside = confined(x, raw, ctx.bound)
        if inside is not None:
            nothing = torch.zeros_like(x)
            g_value, g_log = torch.where(inside, g_value, nothing), torch.where(inside, g_log, nothing)
        g_x, g_at = differentiate(g_value, g_log, placed(found, ctx.bound, (len(raw) + 1) // 3), t, ctx.inverse)
        if inside is not None:
            g_x = torch.where(inside, g_x, gradients[0])
        return g_x, spread(g_at, found, raw, ctx.bound), None, None


def spread(gradient: Bin, found: Found, raw: Tensor, bound: float) -> Tensor:
    """The gradient of the raw parameters, (size, *shape), given that of each point's bin."""
    bins = (len(raw) + 1) // 3
    number = found.number
    nothing = torch.zeros_like(number)
    g_x = of_shares(gradient.left, gradient.width, found.before_in_x, found.share_of_x, number, bins, bound)
    g_y = of_shares(gradient.bottom, gradient.height, found.before_in_y, found.share_of_y, number, bins, bound)
    g_x, g_y = [g * found.factor_of_x for g in g_x], [g * found.factor_of_y for g in g_y]
    rows = [g * torch.exp(row - found.highest_of_x) for g, row in zip(g_x, raw[:bins], strict=True)]
    rows += [g * torch.exp(row - found.highest_of_y) for g, row in zip(g_y, raw[bins : 2 * bins], strict=True)]
    left = gradient.d_left * torch.sigmoid(found.left + DERIVATIVE_SHIFT)
    right = gradient.d_right * torch.sigmoid(found.right + DERIVATIVE_SHIFT)
    if len(raw) == 3 * bins:  # the circle's first knot is its last one too
        rows.append(torch.where(number == 0, left, nothing) + torch.where(number == bins - 1, right, nothing))
    for knot in range(1, bins):
        rows.append(torch.where(number == knot, left, torch.where(number == knot - 1, right, nothing)))
    return torch.stack(rows)


def of_shares(
    g_start: Tensor, g_size: Tensor, before: Tensor, share: Tensor, number: Tensor, bins: int, bound: float
) -> list[Tensor]:
    """The gradient of each bin's share, less their mean under the shares, which the softmax takes away."""
    span, _ = spans(bound, bins)
    g_start, g_size = g_start * span, g_size * span
    mean = g_start * before + g_size * share
    passed, own, ahead = g_start - mean, g_size - mean, -mean
    return [torch.where(number > bin, passed, torch.where(number == bin, own, ahead)) for bin in range(bins)]
