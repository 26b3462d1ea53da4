"""One bin of a monotone rational-quadratic spline (Durkan et al. 2019, arXiv:1906.04032), and its derivative written out.

In a bin of width w, height h and slope s = h / w, with the derivatives d_k and d_{k+1} at its ends, at t = (x - x_k) / w,
equation 4 of the paper reads, with the Bezier averages (1 - t : t)

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
identity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-2
DERIVATIVE_FLOOR = 1e-3
LARGEST = 1e18  # whose square single precision can hold
DERIVATIVE_SHIFT = math.log(math.expm1(1 - DERIVATIVE_FLOOR))


class Bin(NamedTuple):
    """The bin that each point falls in, or the gradient of one; each of the points' shape."""

    left: Tensor  # x_k
    bottom: Tensor  # y_k
    width: Tensor
    height: Tensor
    d_left: Tensor  # the derivative at its left end
    d_right: Tensor


def spans(bound: float, bins: int) -> tuple[float, float]:
    """What all shares make together, and the floor of each bin: a width or a height is span * share + floor."""
    return 2 * bound * (1 - FLOOR), 2 * bound * FLOOR / bins


def derivative(raw: Tensor) -> Tensor:
    """The derivative at a knot, given its raw parameter."""
    return F.softplus(raw + DERIVATIVE_SHIFT) + DERIVATIVE_FLOOR


def confined(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor | None]:
    """Points within the bounds, and which of them are no tail; the circle, whose raw parameters are 3 K, has none: None."""
    if len(raw) % 3 == 0:
        return x, None
    # Confined before the spline, since `where` would let NaN of its overflow outside into the gradients. The bounds themselves
    # count as tails, which have the same value and derivative there.
    point = x.clamp(-bound, bound)
    return point, point.abs() < bound


def locate(point: Tensor, at: Bin, inverse: bool) -> Tensor:
    """The place t in its bin of each point x, or y where it is the inverse that is asked for."""
    left, bottom, width, height, d_left, d_right = at
    t = (point - bottom) / height if inverse else (point - left) / width
    t = t - (t - t.clamp(0, 1)).detach()  # rounding leads out at a knot, where `clamp` alone has no derivative
    if inverse:
        slope = height / width
        # The root from the end of the bin where nothing cancels: the mirrored bin has 1 - t, 1 - u and -p.
        u, p = t, torch.lerp(d_left, -d_right, t)
        with torch.no_grad():
            from_left = p.clone().gt_(0)
        v, twice = 1 - u, slope + slope
        rise = twice * torch.lerp(v, u, from_left)
        root = torch.sqrt(torch.addcmul(p * p, twice * twice, u * v))
        fraction = rise / (rise + torch.lerp(-p, p, from_left) + root)  # no `abs`, which has derivative 0 at p = 0
        t = torch.lerp(1 - fraction, fraction, from_left)
    return t


def root(point: Tensor, at: Bin) -> Tensor:
    """`locate(point, at, inverse=True)` where neither a gradient nor the derivative is asked for: by few operations, in place.

    With q = p / 2 s and r = sqrt(q^2 + u (1 - u)), the root is both u / (u + r + q) and (r - q) / (r - q + 1 - u), hence also
    the sum of their numerators over that of their denominators, in which no sign decides:

        t = (u + r - q) / (1 + 2 r).

    Beside what q's own rounding makes there as in `locate`, its error is a few roundings of 1, and not of t: x = x_k + w t can
    tell no more.
    """
    u = (point - at.bottom).div_(at.height).clamp_(0, 1)
    twice_q = torch.lerp(at.d_left, -at.d_right, u).mul_(at.width).div_(at.height)
    twice_q.clamp_(-LARGEST, LARGEST)  # so that its square does not overflow, whatever a network says
    r = torch.addcmul(u * torch.sub(1, u), twice_q, twice_q, value=0.25).sqrt_()
    return u.add_(r).sub_(twice_q, alpha=0.5).div_(torch.add(1, r, alpha=2))


def within(point: Tensor, at: Bin, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y and log dy/dx of points in their bins, or of the inverse x and log dx/dy; and the place t in the bin."""
    left, bottom, width, height, d_left, d_right = at
    t, slope = locate(point, at, inverse), height / width
    a, b = torch.lerp(d_left, slope, t), torch.lerp(slope, d_right, t)
    m, d = torch.lerp(a, b, t), torch.lerp(b, a, t)
    ratio = slope / d
    log_derivative = torch.log(m * ratio * ratio)
    y = torch.addcmul(left, width, t) if inverse else torch.addcmul(bottom, height * t, a / d)
    if inverse:
        log_derivative = -log_derivative
    return y, log_derivative, t


def differentiate(g_value: Tensor, g_log: Tensor, at: Bin, t: Tensor, inverse: bool) -> tuple[Tensor, Bin]:
    """The gradients of the points and of their bins, given those of `within`'s value and logarithm.

    With the names of this file, the value is v = y_k + h t a / D and the logarithm log M + 2 log s - 2 log D. The inverse has
    the same v, in which t is such that v = y: hence dt = (dy - dv at fixed t) / (dv/dt), with dv/dt = w dy/dx.
    """
    _, _, width, height, d_left, d_right = at
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
    g_width = torch.addcmul(g_width, by_slope, slope, value=-1)
    g_height = torch.addcmul(by_slope, g_bottom, rise)
    return g_x, Bin(g_left, g_bottom, g_width, g_height, g_a * rest, g_b * t)
