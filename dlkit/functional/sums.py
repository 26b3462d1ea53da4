"""The law of a sum of independent whole numbers, from their own laws."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def log_law_of_sums(log_p: Tensor, ptr: Tensor) -> Tensor:
    """log P(m_1 + ... + m_n = s) of each group of independent m_i in 0 .. V - 1: their laws' convolution, in logarithms.

    p(s) <- sum_v p_i(v) p(s - v), one member of every group at a time; a group of n members takes n^2 V^2 / 2 additions, and
    none of them is spent on groups that are smaller. The sum of no members is 0.

    Args:
        log_p: (members, V), log P(m_i = v), the members of all groups one behind the other.
        ptr: (groups + 1,), int64, their bounds.

    Returns:
        (groups, n (V - 1) + 1), where n is the size of the largest group; -infinity at sums that a smaller one cannot have.
    """
    values = log_p.shape[1]
    sizes, order = ptr.diff().sort(descending=True, stable=True)
    starts, largest = ptr[:-1][order], int(sizes.max()) if len(sizes) else 0
    places = torch.arange(1, largest + 1, device=sizes.device)
    longer = [*(sizes >= places.unsqueeze(1)).sum(1).tolist(), 0]  # how many groups have a first member, a second, ...
    # The sum of nothing, for all groups; it hangs on the members, so that a batch of empty groups has derivatives, too.
    law = log_p[:0].sum().expand(len(sizes), 1)
    finished = []
    for place, number in enumerate(longer):
        finished.append(F.pad(law[number:], (0, (largest - place) * (values - 1)), value=-torch.inf))
        if number:
            before = F.pad(law[:number], (values - 1, values - 1), value=-torch.inf).unfold(1, values, 1)
            law = (before + log_p[starts[:number] + place].flip(1).unsqueeze(1)).logsumexp(2)
    return torch.cat(finished[::-1])[order.argsort()]
