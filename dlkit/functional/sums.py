"""The law of a sum of independent whole numbers, from their own laws."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dlkit.batches import padded

NEVER = -1e9  # the logarithm of what has no chance; of infinity the derivative of logsumexp would be NaN


def log_law_of_sums(log_p: Tensor, ptr: Tensor) -> Tensor:
    """log P(m_1 + ... + m_n = s) of each group of independent m_i in 0 .. V - 1: their laws' convolution, in logarithms.

    (p_1 * ... * p_n)(s), one member after the other: p(s) <- sum_v p_i(v) p(s - v). The sum of no members is 0.

    Args:
        log_p: (members, V), log P(m_i = v), the members of all groups one behind the other.
        ptr: (groups + 1,), int64, their bounds.

    Returns:
        (groups, n (V - 1) + 1), where n is the size of the largest group; -infinity at sums that a smaller one cannot have.
    """
    values = log_p.shape[1]
    members, real = padded(log_p, ptr)
    nothing = torch.arange(values, device=log_p.device) == 0  # padding is 0 for certain
    members = torch.where(real.unsqueeze(2), members, torch.where(nothing, 0.0, NEVER).to(log_p))
    law = log_p.new_zeros(len(ptr) - 1, 1)
    for member in members.flip(2).unbind(1):
        before = F.pad(law, (values - 1, values - 1), value=NEVER).unfold(1, values, 1)
        law = (before + member.unsqueeze(1)).logsumexp(2)
    possible = torch.arange(law.shape[1], device=law.device) <= (values - 1) * ptr.diff().unsqueeze(1)
    return law.masked_fill(~possible, -torch.inf)
