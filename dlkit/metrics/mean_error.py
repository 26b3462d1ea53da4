"""A mean over examples, and how far chance may have moved it."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanWithError(Metric):
    """The mean of independent values and its standard error, s / sqrt(n), s^2 = sum (value - mean)^2 / (n - 1)."""

    full_state_update = False
    number: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("number", "total", "squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """(n,)."""
        values = values.detach().double()
        # Not in place: after a pass in inference mode the sums are tensors that nothing else may write to.
        self.number = self.number + len(values)
        self.total = self.total + values.sum()
        self.squares = self.squares + values.square().sum()

    def compute(self) -> dict[str, Tensor]:
        """`mean` and `error`; NaN of no value, and the error of one too."""
        mean = self.total / self.number
        variance = (self.squares - self.number * mean.square()) / (self.number - 1)
        return {"mean": mean, "error": (variance.clamp(min=0) / self.number).sqrt()}
