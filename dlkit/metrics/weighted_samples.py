"""WeightedSamples: a model's samples with their importance weights, of all batches and processes together."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class WeightedSamples(Metric):
    """Keeps log-weights, and what was observed of each sample, until what they say together is asked for."""

    full_state_update = False
    log_weights: Any
    seen: Any

    def __init__(self) -> None:
        super().__init__()
        self.add_state("log_weights", [], dist_reduce_fx="cat")
        self.add_state("seen", [], dist_reduce_fx="cat")

    def update(self, log_weights: Tensor, seen: Tensor) -> None:
        """log_weights: (n,); seen: (n, numbers)."""
        self.log_weights.append(log_weights.detach().double())
        self.seen.append(seen.detach().double())

    def compute(self) -> tuple[Tensor, Tensor]:
        """All log-weights, (N,), and all that was seen, (N, numbers)."""
        return dim_zero_cat(self.log_weights), dim_zero_cat(self.seen)
