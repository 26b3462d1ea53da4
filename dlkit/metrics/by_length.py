"""Accuracy against length."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class AccuracyByLength(Metric):
    """The share of right answers among sequences of each length, and that of their most frequent class.

    Args:
        num_classes: how many classes.
        longest: longer sequences count as of this length.
    """

    full_state_update = False
    right: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, longest: int = 64) -> None:
        super().__init__()
        self.longest = longest
        self.add_state("right", torch.zeros(longest + 1), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(longest + 1, num_classes), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, y: Tensor, lengths: Tensor) -> None:
        """Classes given and true, and lengths: (batch,) each."""
        lengths = lengths.to(y.device).clamp(max=self.longest)
        self.right.index_add_(0, lengths, (predicted == y).to(self.right))
        self.seen.index_put_((lengths, y), torch.ones_like(y, dtype=self.seen.dtype), accumulate=True)

    def compute(self) -> dict[str, Tensor]:
        """`length`, `accuracy` and `majority`, of the lengths that were seen, (lengths,) each."""
        counts = self.seen.sum(1)
        length = counts.nonzero().squeeze(1)
        return {
            "length": length,
            "accuracy": self.right[length] / counts[length],
            "majority": self.seen[length].amax(1) / counts[length],
        }
