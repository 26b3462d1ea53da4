"""The affine map of flows, elementwise, with a bounded log-scale, and the logarithm of its derivative.

    y = x exp(s) + t,    s = raw / (1 + |raw| / 3)

(Dinh et al. 2017, arXiv:1605.08803, equations 7 and 8; there s is tanh times a learned factor). Raw parameters of 0 give the
identity.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dlkit.functional.derivatives import differentiably, written_out

LOG_SCALE_BOUND = 3.0  # A log-scale bends towards +-3, so that no layer alone can overflow or lose its inverse.


def soft_bound(raw: Tensor) -> Tensor:
    """raw / (1 + |raw| / 3): close to the identity at 0, within +-3 everywhere, and no saturated gradient as tanh's."""
    return raw / bend(raw)


def bend(raw: Tensor) -> Tensor:
    """1 + |raw| / 3."""
    return torch.add(1, raw.abs(), alpha=1 / LOG_SCALE_BOUND)


def affine(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The affine map of each element, differentiable twice.

    Args:
        x: (batch, features, *rest).
        raw: (batch, 2 * features, *rest), unbounded: the log-scales before they are bounded, then the shifts.
        inverse: maps back: affine(y, raw, inverse=True)[0] = x.

    Returns:
        y and log dy/dx = s, both (batch, features, *rest); of the inverse x and log dx/dy = -s.
    """
    if not written_out() or x.dtype != raw.dtype:
        return evaluate(x, raw, inverse)
    # Views, so that a second derivative by one does not go on through the other where one was made of the other.
    return Affine.apply(x.view_as(x), raw.view_as(raw), inverse)  # pyright: ignore[reportReturnType]


def affine_value(x: Tensor, raw: Tensor) -> Tensor:
    """affine(x, raw)[0], as samples need it: (batch, features, *rest), (batch, 2 * features, *rest) -> as x."""
    raw_scale, shift = raw.chunk(2, 1)
    # As a power of 2, which a CPU computes in half the time of the exponential: 2^(s / log 2).
    power = raw_scale / torch.add(math.log(2), raw_scale.abs(), alpha=math.log(2) / LOG_SCALE_BOUND)
    return torch.addcmul(shift, x, power.exp2_())


def evaluate(x: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """As `affine`, by operations that autograd knows."""
    raw_scale, shift = raw.chunk(2, 1)
    log_scale = soft_bound(raw_scale)
    if inverse:
        log_scale = -log_scale
        return (x - shift) * torch.exp(log_scale), log_scale
    return torch.addcmul(shift, x, torch.exp(log_scale)), log_scale


class Affine(torch.autograd.Function):
    """`evaluate` with its derivative written out, which for small batches takes less time. The second one is autograd's.

    With p = 1 + |raw| / 3: s = raw / p and ds/draw = 1 / p^2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raw_scale, shift = raw.chunk(2, 1)
        bent = bend(raw_scale)
        log_scale = raw_scale / bent
        if inverse:
            log_scale = log_scale.neg_()
            scale = torch.exp(log_scale)
            y = (x - shift).mul_(scale)
        else:
            scale = torch.exp(log_scale)
            y = torch.addcmul(shift, x, scale)
        ctx.save_for_backward(x, raw, scale, bent)
        ctx.inverse = inverse
        return y, log_scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, raw, scale, bent = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            return *differentiably(evaluate(x, raw, ctx.inverse), (x, raw), gradients), None  # pyright: ignore[reportReturnType]
        g_y, g_log = gradients
        g_x = g_y * scale
        if ctx.inverse:  # x = (y - t) exp(-s)
            g_shift = -g_x
            g_scale = torch.addcmul(g_log, g_x, x - raw.chunk(2, 1)[1]).neg_()
        else:
            g_scale, g_shift = torch.addcmul(g_log, g_x, x), g_y
        return g_x, torch.cat((g_scale.div_(bent).div_(bent), g_shift), 1), None
