"""What half precision cannot hold."""

from __future__ import annotations

import torch
from torch import Tensor


def single_or_better(x: Tensor) -> Tensor:
    """float64 as it is, anything else in float32: sums of many small numbers, and small differences, are lost in less."""
    return x if x.dtype == torch.float64 else x.float()
