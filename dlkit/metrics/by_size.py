"""Errors against the size of a set."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class ErrorsBySize(Metric):
    """The share of right answers, and the mean of an error, among sets of each size.

    Args:
        largest: larger sets count as of this size.
    """

    full_state_update = False
    seen: Tensor
    right: Tensor
    error: Tensor

    def __init__(self, largest: int = 4096) -> None:
        super().__init__()
        self.largest = largest
        for name in ("seen", "right", "error"):
            self.add_state(name, torch.zeros(largest + 1, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, right: Tensor, error: Tensor, sizes: Tensor) -> None:
        """Whether each set's answer is right, 1 or 0, by how much it errs, and the size of the set: (sets,) each.

        NaN, of a set whose answer cannot be right, makes the share of its size NaN.
        """
        sizes = sizes.clamp(max=self.largest)
        for name, values in (("seen", torch.ones_like(error)), ("right", right), ("error", error)):
            # In float64 again where a method of half precision has taken its measures along, which could not count.
            setattr(self, name, getattr(self, name).double().index_add(0, sizes, values.double()))

    def compute(self) -> dict[str, Tensor]:
        """`size`, `right` and `error`, of the sizes that were seen, (sizes,) each."""
        size = self.seen.nonzero().squeeze(1)
        return {"size": size, "right": self.right[size] / self.seen[size], "error": self.error[size] / self.seen[size]}
