"""ActiveUnits: how many latent dimensions an encoder uses."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

THRESHOLD = 0.01


class ActiveUnits(Metric):
    """The number of latent dimensions d with Var_x E[z_d | x] > 0.01: Burda et al. 2016 (arXiv:1509.00519), section 4.

    Args:
        latent_dim: how many dimensions there are.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    total_squares: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(latent_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total_squares", torch.zeros(latent_dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, means: Tensor) -> None:
        """means: (batch, latent_dim), the posterior means E[z | x]."""
        means = means.detach().double()
        self.count += len(means)
        self.total += means.sum(0)
        self.total_squares += means.square().sum(0)

    def variances(self) -> Tensor:
        """Var_x E[z_d | x]: (latent_dim,)."""
        mean = self.total / self.count
        return self.total_squares / self.count - mean.square()

    def compute(self) -> Tensor:
        """A count, as a float."""
        return (self.variances() > THRESHOLD).sum().float()
