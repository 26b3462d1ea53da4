"""Batch normalisation whose batch is that of all processes, so that two of them train what one does with twice the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlkit.functional.precision import single_or_better
from dlkit.processes import sum_of_all, world


class SharedStatistics(nn.modules.batchnorm._BatchNorm):
    """y = gamma (x - mean) / sqrt(var + eps) + beta with a channel's mean and variance over the batch of all processes.

    Ioffe and Szegedy 2015 (arXiv:1502.03167, algorithm 1). DistributedDataParallel would leave each process the statistics of
    its own share, and `torch.nn.SyncBatchNorm`, which does not, is for GPUs alone. In a single process, and in evaluation,
    this is torch's own.

    Args:
        channels: axis 1 of what it is given.
        affine: whether gamma and beta are learned; otherwise they are 1 and 0.
    """

    momentum: float

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and world()[1] > 1:
            return self.normalize_together(input)  # pyright: ignore[reportCallIssue, reportArgumentType, reportReturnType]
        return super().forward(input)

    @torch.compiler.disable  # which would have to trace the messages between processes
    def normalize_together(self, input: Tensor) -> Tensor:
        """Normalises by the statistics of all processes, each of which has to come here."""
        self._check_input_dim(input)
        x = single_or_better(input)
        axes, own = [axis for axis in range(x.dim()) if axis != 1], x.numel() // x.shape[1]
        # One process may be dealt sets without members, of which there is no mean.
        variance, mean = torch.var_mean(x, axes, correction=0) if own else (x.sum(axes), x.sum(axes))
        # In one message: E[x^2] - E[x]^2 loses digits where the mean is large, which float64 has to spare.
        mean, variance = mean.double(), variance.double()
        sums = sum_of_all(own * torch.stack([torch.ones_like(mean), mean, mean.square() + variance]))
        count, mean = sums[0].detach(), sums[1] / sums[0].detach()
        variance = sums[2] / count - mean.square()
        self.remember(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        offset = (self.bias if self.affine else 0) - mean * scale
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(offset.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape)).to(input.dtype)

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the statistics that evaluation uses towards a batch's: (channels,) each, the variance without bias."""
        self.get_buffer("num_batches_tracked").add_(1)
        for name, found in (("running_mean", mean), ("running_var", variance)):
            statistic = self.get_buffer(name)
            statistic.lerp_(found.to(statistic), self.momentum)


class BatchNorm1d(SharedStatistics, nn.BatchNorm1d):
    """Of vectors, (batch, channels)."""


class BatchNorm2d(SharedStatistics, nn.BatchNorm2d):
    """Of pictures, (batch, channels, height, width)."""
