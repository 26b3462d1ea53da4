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
    bins = (size + 1) // 3
    sizes, slopes = bins_first(raw).split((2 * bins, bins - 1))
    flat = x.flatten()
    # Confined before the spline, since `where` would let NaN of its overflow outside into the gradients. The bounds themselves
    # count as tails, which have the same value and derivative there.
    confined = flat.clamp(-bound, bound)
    inside = confined.abs() < bound
    y, log_derivative = spline(confined, sizes, F.pad(slopes, (0, 0, 1, 1)), bound, inverse)
    y, log_derivative = torch.where(inside, y, flat), torch.where(inside, log_derivative, 0.0)
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
    sizes, slopes = bins_first(raw).split((2 * size // 3, size // 3))
    angles = torch.remainder(x.flatten() + math.pi, 2 * math.pi) - math.pi
    y, log_derivative = spline(angles, sizes, torch.cat((slopes, slopes[:1])), math.pi, inverse)
    y = torch.where(y < math.pi, y, y - 2 * math.pi)  # only rounding reaches pi
    return y.view_as(x), log_derivative.view_as(x)


def common_type(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their types, at least float32."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, raw.dtype), torch.float32)
    return x.to(dtype), raw.to(dtype)


def bins_first(raw: Tensor) -> Tensor:
    """(*shape, size) -> (size, N), because a reduction over the few bins is several times faster along the first dimension."""
    return raw.flatten(0, -2).t().contiguous() if raw.dim() > 1 else raw.unsqueeze(-1)


def spline(x: Tensor, sizes: Tensor, slopes: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """The spline at points of [-bound, bound].

    Args:
        x: (N,).
        sizes: (2K, N), raw widths and heights.
        slopes: (K + 1, N), raw derivatives at all knots.

    Returns:
        y and log dy/dx, both (N,); of the inverse x and log dx/dy.
    """
    bins = len(sizes) // 2
    uniform = 2 * bound * FLOOR / bins
    sizes = torch.softmax(sizes.unflatten(0, (2, bins)), 1) * (2 * bound * (1 - FLOOR)) + uniform
    with torch.no_grad():
        # The first knot is not compared, nor the last, so that rounding leaves no point without a bin.
        reached = x >= sizes[int(inverse)].cumsum(0).sub_(bound)
        reached[-1] = False
        index = reached.sum(0, keepdim=True)
        reached = reached.to(x.dtype)
    # Sums under a mask: the derivative of a cumulative sum would be a flipped, summed and flipped copy.
    left, bottom = ((sizes * reached).sum(1) - bound).unbind(0)
    width, height = sizes.gather(1, index.expand(2, 1, -1)).squeeze(1).unbind(0)
    ends = slopes.gather(0, torch.cat((index, index + 1)))
    d_left, d_right = (F.softplus(ends + DERIVATIVE_SHIFT) + DERIVATIVE_FLOOR).unbind(0)

    t = (x - bottom) / height if inverse else (x - left) / width
    with torch.no_grad():
        excess = t - t.clamp(0, 1)  # of rounding, at a knot
    t = t - excess  # and not `clamp`, which has no derivative there
    slope = height / width
    if inverse:
        # The root from the end of the bin where nothing cancels: the mirrored bin has 1 - t, 1 - u and -p.
        u, p = t, torch.lerp(d_left, -d_right, t)
        from_left = p > 0
        rise = 2 * slope * torch.where(from_left, u, 1 - u)
        root = torch.sqrt(p * p + 4 * slope * slope * u * (1 - u))
        fraction = rise / (rise + torch.where(from_left, p, -p) + root)  # no `abs`, which has derivative 0 at p = 0
        t = torch.where(from_left, fraction, 1 - fraction)
    a, b = torch.lerp(d_left, slope, t), torch.lerp(slope, d_right, t)
    m, d = torch.lerp(a, b, t), torch.lerp(b, a, t)
    ratio = slope / d
    log_derivative = torch.log(m * ratio * ratio)
    if inverse:
        return torch.addcmul(left, width, t), -log_derivative
    return torch.addcmul(bottom, height * t, a / d), log_derivative
