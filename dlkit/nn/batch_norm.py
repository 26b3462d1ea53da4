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
    """

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
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class BatchNorm1d(SharedStatistics, nn.BatchNorm1d):
    """Of vectors, (batch, channels)."""


class BatchNorm2d(SharedStatistics, nn.BatchNorm2d):
    """Of pictures, (batch, channels, height, width)."""
