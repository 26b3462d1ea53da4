"""Errors of predicted targets, of which some may be missing."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class TargetErrors(Metric):
    """Mean absolute and root mean squared error of each target, over the examples that have it.

    Args:
        num_targets: how many there are.
    """

    full_state_update = False
    absolute: Tensor
    squared: Tensor
    known: Tensor

    def __init__(self, num_targets: int) -> None:
        super().__init__()
        for name in ("absolute", "squared", "known"):
            self.add_state(name, torch.zeros(num_targets, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, y: Tensor) -> None:
        """Predictions and targets, NaN where one is missing: (batch, targets) each, in the same units."""
        known = ~y.isnan()
        error = torch.where(known, predicted.double() - y.double(), 0.0)
        # Not in place: after a pass in inference mode the sums are tensors that nothing else may write to.
        self.absolute = self.absolute + error.abs().sum(0)
        self.squared = self.squared + error.square().sum(0)
        self.known = self.known + known.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """`mae` and `rmse`, (targets,) each; NaN for a target that no example had."""
        return {"mae": self.absolute / self.known, "rmse": (self.squared / self.known).sqrt()}
