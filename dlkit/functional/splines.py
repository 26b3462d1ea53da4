"""Monotone rational-quadratic splines, elementwise, with the logarithm of their derivative: the scalar bijections of neural
spline flows (Durkan et al. 2019, arXiv:1906.04032), on the line and on the circle.

A spline passes through K + 1 knots (x_k, y_k) with the derivatives d_k > 0. In a bin of width w, height h and slope s = h / w,
at t = (x - x_k) / w, equation 4 of the paper reads, with the Bezier averages (1 - t : t)

    a = (1 - t) d_k + t s,   b = (1 - t) s + t d_{k+1},

    y = y_k + h t a / D,   dy/dx = s^2 M / D^2,   M = (1 - t) a + t b,   D = t a + (1 - t) b,

that is without a difference that could cancel: M and D are averages of positive numbers. The inverse (equations 6 to 8 of the
appendix), at u = (y - y_k) / h, is the root

    t = 2 s u / (2 s u + p + sqrt(p^2 + 4 s^2 u (1 - u))),   p = (1 - u) d_k - u d_{k+1}.

The discriminant is b^2 - 4 a c of the paper, rearranged so that it cannot come out negative: rounding makes that of the paper
negative for steep bins, and its root not a number. Where p < 0 the root is taken of the mirrored bin, which gives 1 - t.
Either direction is exact to a few roundings of the bound, times one more than its derivative. Hence f^{-1}(f(x)) = x to that
over the derivative at x, which bins as flat as the floors allow can make large in single precision.

Widths and heights are softmax, mixed with `FLOOR` parts of the uniform distribution (the authors' code: 1e-3 for each bin,
which bounds K); derivatives are softplus, shifted so that 0 gives 1, with the floor `DERIVATIVE_FLOOR`. Hence raw = 0 is the
identity. Every function is differentiable twice, and computes in float32 what comes in half precision.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-2
DERIVATIVE_FLOOR = 1e-3
DERIVATIVE_SHIFT = math.log(math.expm1(1 - DERIVATIVE_FLOOR))


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
    if not bound > 0:
        raise ValueError(f"bound must be positive, not {bound}")
    x, raw = common_type(x, raw)
    size = raw.shape[-1]
    if size < 2 or size % 3 != 2 or raw.shape[:-1] != x.shape:
        raise ValueError(f"raw must be {(*x.shape, '3K - 1')}, not {tuple(raw.shape)}")
    y, log_derivative = spline(x.flatten(), bins_first(raw), bound, inverse)
    return y.view_as(x), log_derivative.view_as(x)


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
    angles = torch.remainder(x.flatten() + math.pi, 2 * math.pi) - math.pi
    y, log_derivative = spline(angles, bins_first(raw), math.pi, inverse)
    y = torch.where(y < math.pi, y, y - 2 * math.pi)  # only rounding reaches pi
    return y.view_as(x), log_derivative.view_as(x)


def common_type(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their types, at least float32."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, raw.dtype), torch.float32)
    return x.to(dtype), raw.to(dtype)


def bins_first(raw: Tensor) -> Tensor:
    """(*shape, size) -> (size, N), because a reduction over the few bins is several times faster along the first dimension."""
    return raw.flatten(0, -2).t().contiguous() if raw.dim() > 1 else raw.unsqueeze(-1)


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """A spline for each point: x (N,), raw (3K, N) of the circle or (3K - 1, N) of the line -> y and log dy/dx, both (N,)."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return evaluate(x, raw, bound, inverse)[:2]
    # Views, so that a second derivative by one does not go on through the other where one was made of the other.
    return Spline.apply(x.view_as(x), raw.view_as(raw), bound, inverse)  # pyright: ignore[reportReturnType]


class Pieces(NamedTuple):
    """Of what a spline's value is made, in the notation of this file; (N,) each where nothing else is said."""

    shares: Tensor  # (2, K, N), the softmax of widths and heights
    reached: Tensor  # (K, N), 1 for each bin that lies wholly before the point
    before: Tensor  # (2, N), the sum of those bins' shares
    share: Tensor  # (2, N), of the bin of the point
    knots: Tensor  # (2, N), int64: which are at both ends of that bin
    ends: Tensor  # (2, N), the raw derivatives there
    width: Tensor
    height: Tensor
    d_left: Tensor
    d_right: Tensor
    t: Tensor
    inside: Tensor | None  # whether it is no tail; None on the circle


def evaluate(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor, Pieces]:
    """As `spline`, by operations that autograd knows, and what `differentiate` needs of it."""
    bins = (len(raw) + 1) // 3
    circle = len(raw) == 3 * bins
    span, floor = 2 * bound * (1 - FLOOR), 2 * bound * FLOOR / bins  # a size is span * share + floor
    # Confined before the spline, since `where` would let NaN of its overflow outside into the gradients. The bounds themselves
    # count as tails, which have the same value and derivative there.
    point = x if circle else x.clamp(-bound, bound)
    inside = None if circle else point.abs() < bound

    shares = torch.softmax(raw[: 2 * bins].unflatten(0, (2, bins)), 1)
    with torch.no_grad():
        # Numbers 1 and 0, and not bool, which takes several times longer. Sums under this mask, because the derivative of a
        # cumulative sum would be a flipped, summed and flipped copy.
        ends = torch.arange(1, bins + 1, dtype=x.dtype, device=x.device).mul_(floor).sub_(bound).div_(span).unsqueeze(1)
        reached = shares[int(inverse)].cumsum(0).add_(ends).le_(point / span)
        reached[-1] = 0  # so that rounding leaves no point without a bin
        count = reached.sum(0)
        first = count.long().unsqueeze(0)
        last = first + 1
        knots = torch.cat((first, last.remainder_(bins) if circle else last))
    before = (shares * reached).sum(1)
    left, bottom = torch.add(count * floor - bound, before, alpha=span).unbind(0)
    share = shares.gather(1, first.expand(2, 1, -1)).squeeze(1)
    width, height = (share * span + floor).unbind(0)
    slopes = raw[2 * bins :]
    ends = (slopes if circle else F.pad(slopes, (0, 0, 1, 1))).gather(0, knots)
    d_left, d_right = (F.softplus(ends + DERIVATIVE_SHIFT) + DERIVATIVE_FLOOR).unbind(0)

    t = (point - bottom) / height if inverse else (point - left) / width
    with torch.no_grad():
        excess = t - t.clamp(0, 1)  # of rounding, at a knot
    t = t - excess  # and not `clamp`, which has no derivative there
    slope = height / width
    if inverse:
        # The root from the end of the bin where nothing cancels: the mirrored bin has 1 - t, 1 - u and -p.
        u, p = t, torch.lerp(d_left, -d_right, t)
        with torch.no_grad():
            from_left = p.clone().gt_(0)
        rise = 2 * slope * torch.lerp(1 - u, u, from_left)
        root = torch.sqrt(p * p + 4 * slope * slope * u * (1 - u))
        fraction = rise / (rise + torch.lerp(-p, p, from_left) + root)  # no `abs`, which has derivative 0 at p = 0
        t = torch.lerp(1 - fraction, fraction, from_left)
    a, b = torch.lerp(d_left, slope, t), torch.lerp(slope, d_right, t)
    m, d = torch.lerp(a, b, t), torch.lerp(b, a, t)
    ratio = slope / d
    log_derivative = torch.log(m * ratio * ratio)
    y = torch.addcmul(left, width, t) if inverse else torch.addcmul(bottom, height * t, a / d)
    if inverse:
        log_derivative = -log_derivative
    if inside is not None:
        y, log_derivative = torch.where(inside, y, x), torch.where(inside, log_derivative, 0.0)
    pieces = Pieces(shares, reached, before, share, knots, ends, width, height, d_left, d_right, t, inside)
    return y, log_derivative, pieces


class Spline(torch.autograd.Function):
    """`evaluate` with its derivative written out, in half the time. The second derivative is autograd's of `evaluate`.

    With the names of this file, the value is v = y_k + h t a / D and the logarithm log M + 2 log s - 2 log D. The inverse has
    the same v, in which t is such that v = y: hence dt = (dy - dv at fixed t) / (dv/dt), with dv/dt = w dy/dx.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
        y, log_derivative, pieces = evaluate(x, raw, bound, inverse)
        ctx.save_for_backward(x, raw, *pieces)
        ctx.bound, ctx.inverse = bound, inverse
        return y, log_derivative

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, raw, *pieces = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            outputs = evaluate(x, raw, ctx.bound, ctx.inverse)[:2]
            wanted = [tensor for tensor in (x, raw) if tensor.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True))
            g_x, g_raw = (next(found) if tensor.requires_grad else None for tensor in (x, raw))
            return g_x, g_raw, None, None
        g_x, g_raw = differentiate(Pieces(*pieces), gradients, len(raw), ctx.bound, ctx.inverse)
        return g_x, g_raw, None, None


def differentiate(
    pieces: Pieces, gradients: tuple[Tensor, ...], size: int, bound: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the raw parameters, (size, N), given those of y and of the logarithm."""
    shares, reached, before, share, knots, ends, width, height, d_left, d_right, t, inside = pieces
    bins = shares.shape[1]
    if inside is None:
        g_value, g_log = gradients
    else:
        real = inside.to(t.dtype)
        g_value, g_log = gradients[0] * real, gradients[1] * real
    if inverse:
        g_log = -g_log
    slope, rest = height / width, 1 - t
    a, b = torch.lerp(d_left, slope, t), torch.lerp(slope, d_right, t)
    m, d = torch.lerp(a, b, t), torch.lerp(b, a, t)

    # The logarithm's, by M and D, hence by a, b and t.
    g_m, g_d = g_log / m, -2 * g_log / d
    g_a, g_b = torch.lerp(g_m, g_d, t), torch.lerp(g_d, g_m, t)
    g_t = (g_m - g_d) * (b - a) + g_a * (slope - d_left) + g_b * (d_right - slope)
    ratio = slope / d
    rate = m * ratio * ratio  # dy/dx
    rise = t * a / d  # value = bottom + height * rise
    if inverse:
        g_x = torch.addcmul(g_t, g_value, width) / (width * rate)
        g_bottom, g_left, g_width = -g_x, g_value, g_value * t
    else:
        g_x = torch.addcmul(g_t / width, g_value, rate)
        g_bottom, g_left, g_width = g_value, -g_x, -g_x * t
    # The value's, at fixed t.
    by_a = g_bottom * height * t / d
    by_d = g_bottom * height * rise / d
    g_a = torch.addcmul(g_a + by_a, by_d, t, value=-1)
    g_b = torch.addcmul(g_b, by_d, rest, value=-1)
    g_slope = 2 * g_log / slope + g_a * t + g_b * rest
    by_slope = g_slope / width
    g_size = torch.stack((torch.addcmul(g_width, by_slope, slope, value=-1), torch.addcmul(by_slope, g_bottom, rise)))
    g_start = torch.stack((g_left, g_bottom))

    # All parameters' in one tensor. The line has no row for the derivatives at its ends: that of the first knot falls on the
    # last height's, which is written after it, and that of the last is cut off.
    g_raw = torch.zeros(3 * bins, len(t), dtype=t.dtype, device=t.device)
    first_slope = 2 * bins if size == 3 * bins else 2 * bins - 1
    g_raw[first_slope:].scatter_add_(0, knots, torch.stack((g_a * rest, g_b * t)) * torch.sigmoid(ends + DERIVATIVE_SHIFT))
    g_sizes = g_raw[: 2 * bins].view(2, bins, -1)
    span = 2 * bound * (1 - FLOOR)
    g_start, g_size = g_start * span, g_size * share * span
    mean = torch.addcmul(g_size, g_start, before)  # of the gradient of the shares, under the shares: softmax takes it away
    torch.addcmul(-mean.unsqueeze(1), g_start.unsqueeze(1), reached, out=g_sizes).mul_(shares)
    g_sizes.scatter_add_(1, knots[:1].expand(2, 1, -1), g_size.unsqueeze(1))
    if inside is not None:
        g_x = g_x + (gradients[0] - g_value)
    return g_x, g_raw[:size]
