"""Monotone rational-quadratic splines, elementwise, with the logarithm of their derivative: the scalar bijections of neural
spline flows (Durkan et al. 2019, arXiv:1906.04032), on the line and on the circle.

A spline passes through K + 1 knots (x_k, y_k) with the derivatives d_k > 0; between two of them it is the ratio of quadratics
of `dlkit.functional.spline_bins`. Here the bin that a point falls in is searched, and where a compiler is at work in
`dlkit.functional.unrolled_splines`.

Every function is differentiable twice (once where it is compiled), and computes in float32 what comes in half precision.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.functional import unrolled_splines
from dlkit.functional.derivatives import differentiably, written_out
from dlkit.functional.spline_bins import DERIVATIVE_SHIFT, Bin, confined, derivative, differentiate, root, spans, within

MOST_UNROLLED = 12  # bins; 16 take the compiler twice as long as the search by gathering


def rational_quadratic(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The spline from [-bound, bound] to itself, and the identity outside: linear tails, d_0 = d_K = 1.

    Args:
        x: (*shape).
        raw: (*shape, 3K - 1), unbounded: K widths, K heights, K - 1 derivatives at the inner knots; 0 gives the identity.
        bound: where the tails begin.
        inverse: maps back: rational_quadratic(y, raw, bound, inverse=True)[0] = x.

    Returns:
        y and log dy/dx, both (*shape); of the inverse x and log dx/dy.

    Raises:
        ValueError: `raw` does not fit `x`, or `bound` is not positive.
    """
    return spline(*checked(x, raw, bound), bound, inverse)


def inverse_rational_quadratic(y: Tensor, raw: Tensor, bound: float) -> Tensor:
    """rational_quadratic(y, raw, bound, inverse=True)[0], as samples need it: the logarithm is not computed.

    Args:
        y: (*shape).
        raw: (*shape, 3K - 1), as for `rational_quadratic`.
        bound: where the tails begin.

    Returns:
        x, (*shape).

    Raises:
        ValueError: as `rational_quadratic`.
    """
    y, raw = checked(y, raw, bound)
    # A compiler leaves out what is not used by itself.
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return spline(y, raw, bound, True)[0]
    value, rows = y.flatten(), bins_first(raw)
    point, inside = confined(value, rows, bound)
    assert inside is not None  # a line has tails
    at, _ = search(point, rows, bound, True)
    return torch.where(inside, torch.addcmul(at.left, at.width, root(point, at)), value).view_as(y)


def circular_rational_quadratic(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The spline from the circle to itself that keeps -pi fixed, with d_0 = d_K: the circular splines of Rezende et al. 2020
    (arXiv:2002.02428). A flow on the circle adds shifts between them, so that no point is special.

    Args:
        x: (*shape), angles; those outside [-pi, pi) count as the same points of the circle.
        raw: (*shape, 3K), unbounded: K widths, K heights, K derivatives, the first at -pi; 0 gives the identity.
        inverse: maps back.

    Returns:
        y in [-pi, pi) and log dy/dx, both (*shape); of the inverse x and log dx/dy.

    Raises:
        ValueError: `raw` does not fit `x`.
    """
    x, raw = common_type(x, raw)
    size = raw.shape[-1]
    if size < 3 or size % 3 != 0 or raw.shape[:-1] != x.shape:
        raise ValueError(f"raw must be {(*x.shape, '3K')}, not {tuple(raw.shape)}")
    angles = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    y, log_derivative = spline(angles, raw, math.pi, inverse)
    return torch.where(y < math.pi, y, y - 2 * math.pi), log_derivative  # only rounding reaches pi


def checked(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Points and parameters of a spline on the line, in one type.

    Raises:
        ValueError: they do not fit each other, or the bound is not positive.
    """
    if not bound > 0:
        raise ValueError(f"bound must be positive, not {bound}")
    x, raw = common_type(x, raw)
    size = raw.shape[-1]
    if size < 2 or size % 3 != 2 or raw.shape[:-1] != x.shape:
        raise ValueError(f"raw must be {(*x.shape, '3K - 1')}, not {tuple(raw.shape)}")
    return x, raw


def common_type(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their types, at least float32."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, raw.dtype), torch.float32)
    return x.to(dtype), raw.to(dtype)


def bins_first(raw: Tensor) -> Tensor:
    """(*shape, size) -> (size, N), because a reduction over the few bins is several times faster along the first dimension."""
    return raw.flatten(0, -2).t().contiguous() if raw.dim() > 1 else raw.unsqueeze(-1)


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """Splines of points x (*shape), raw (*shape, 3K) of the circle or (*shape, 3K - 1) of the line -> y and log dy/dx."""
    if torch.compiler.is_compiling() and raw.shape[-1] <= 3 * MOST_UNROLLED:
        return unrolled_splines.spline(x, raw.movedim(-1, 0), bound, inverse)
    point, rows = x.flatten(), bins_first(raw)
    if not written_out():
        y, log_derivative, _ = evaluate(point, rows, bound, inverse)
    else:
        # Views, so that a second derivative by one does not go on through the other where one was made of the other.
        y, log_derivative = Spline.apply(point.view_as(point), rows.view_as(rows), bound, inverse)  # pyright: ignore
    return y.view_as(x), log_derivative.view_as(x)


class Search(NamedTuple):
    """What the search for the bins found that their gradients need; (N,) each where nothing else is said."""

    shares: Tensor  # (2, K, N), the softmax of widths and heights
    reached: Tensor  # (K, N), 1 for each bin that lies wholly before the point
    before: Tensor  # (2, N), the sum of those bins' shares
    share: Tensor  # (2, N), of the bin of the point
    knots: Tensor  # (2, N), int64: which are at both ends of that bin
    ends: Tensor  # (2, N), the raw derivatives there


def search(point: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Bin, Search]:
    """The bins of points within the bounds, by operations that autograd knows."""
    bins = (len(raw) + 1) // 3
    circle = len(raw) == 3 * bins
    span, floor = spans(bound, bins)
    shares = torch.softmax(raw[: 2 * bins].view(2, bins, -1), 1)
    with torch.no_grad():
        # Numbers 1 and 0, and not bool, which takes several times longer. Sums under this mask, because the derivative of a
        # cumulative sum would be a flipped, summed and flipped copy.
        first_end, last_end = (floor - bound) / span, (bins * floor - bound) / span
        ends = torch.linspace(first_end, last_end, bins, dtype=point.dtype, device=point.device).unsqueeze(1)
        reached = shares[int(inverse)].cumsum(0).add_(ends).le_(point / span)
        reached[-1].zero_()  # so that rounding leaves no point without a bin
        count = reached.sum(0)
        first = count.long().unsqueeze(0)
        last = first + 1
        knots = torch.cat((first, last.remainder_(bins) if circle else last))
    before = (shares * reached).sum(1)
    left, bottom = torch.add(torch.add(-bound, count, alpha=floor), before, alpha=span).unbind(0)
    share = shares.gather(1, first.expand(2, 1, -1)).squeeze(1)
    width, height = torch.add(floor, share, alpha=span).unbind(0)
    slopes = raw[2 * bins :]
    ends = (slopes if circle else F.pad(slopes, (0, 0, 1, 1))).gather(0, knots)
    d_left, d_right = derivative(ends).unbind(0)
    return Bin(left, bottom, width, height, d_left, d_right), Search(shares, reached, before, share, knots, ends)


def evaluate(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor, tuple[Tensor, Bin, Search]]:
    """Splines of points (N,) by operations that autograd knows, and of the bins, with t first, what their gradients need."""
    point, inside = confined(x, raw, bound)
    at, found = search(point, raw, bound, inverse)
    y, log_derivative, t = within(point, at, inverse)
    if inside is not None:
        y, log_derivative = torch.where(inside, y, x), torch.where(inside, log_derivative, 0.0)
    return y, log_derivative, (t, at, found)


class Spline(torch.autograd.Function):
    """`evaluate` with its derivative written out, in half the time. The second derivative is autograd's of `evaluate`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
        y, log_derivative, (t, at, found) = evaluate(x, raw, bound, inverse)
        ctx.save_for_backward(x, raw, t, *at, *found)
        ctx.bound, ctx.inverse = bound, inverse
        return y, log_derivative

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, raw, t, *pieces = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            outputs = evaluate(x, raw, ctx.bound, ctx.inverse)[:2]
            return *differentiably(outputs, (x, raw), gradients), None, None  # pyright: ignore[reportReturnType]
        at, found = Bin(*pieces[: len(Bin._fields)]), Search(*pieces[len(Bin._fields) :])
        g_value, g_log = gradients
        _, inside = confined(x, raw, ctx.bound)
        if inside is not None:
            real = inside.to(t.dtype)
            g_value, g_log = g_value * real, g_log * real
        g_x, g_at = differentiate(g_value, g_log, at, t, ctx.inverse)
        if inside is not None:
            g_x = g_x + (gradients[0] - g_value)
        return g_x, spread(g_at, found, len(raw), ctx.bound), None, None


def spread(gradient: Bin, found: Search, size: int, bound: float) -> Tensor:
    """The gradient of the raw parameters, (size, N), given that of each point's bin."""
    shares, reached, before, share, knots, ends = found
    bins = shares.shape[1]
    span, _ = spans(bound, bins)
    g_start = torch.stack((gradient.left, gradient.bottom)) * span
    g_size = torch.stack((gradient.width, gradient.height))
    # All parameters' in one tensor. The line has no row for the derivatives at its ends: that of the first knot falls on the
    # last height's, which is written after it, and that of the last is cut off.
    g_raw = torch.empty(3 * bins, reached.shape[1], dtype=shares.dtype, device=shares.device)
    first_slope = 2 * bins if size == 3 * bins else 2 * bins - 1
    g_ends = torch.stack((gradient.d_left, gradient.d_right)) * torch.sigmoid(ends + DERIVATIVE_SHIFT)
    g_raw[first_slope:].zero_().scatter_add_(0, knots, g_ends)
    g_sizes = g_raw[: 2 * bins].view(2, bins, -1)
    g_size = g_size * share * span
    mean = torch.addcmul(g_size, g_start, before)  # of the gradient of the shares, under the shares: softmax takes it away
    torch.addcmul(-mean.unsqueeze(1), g_start.unsqueeze(1), reached, out=g_sizes).mul_(shares)
    g_sizes.scatter_add_(1, knots[:1].expand(2, 1, -1), g_size.unsqueeze(1))
    return g_raw[:size]
