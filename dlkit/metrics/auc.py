"""The area under the ROC curve of a whole pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat


class AUC(BinaryAUROC):
    """The probability that an example of class 1 has a greater score than one of class 0; NaN where a class is missing."""

    def compute(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not len(self.target) or len(dim_zero_cat(self.target).unique()) < 2:
            return torch.tensor(torch.nan, device=self.device)
        return super().compute()
