"""MixtureModes and ClassModes: how many modes of the data a generator reaches, and how evenly."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


def kl_to_uniform(counts: Tensor) -> Tensor:
    """KL(p || uniform) = sum_i p_i ln(p_i K) in nats, p_i = counts_i / sum(counts), 0 ln 0 = 0; NaN for no counts.

    Args:
        counts: (K,).
    """
    p = counts.double() / counts.sum()
    return (torch.xlogy(p, p).sum() + math.log(len(p))).clamp_min(0)


class MixtureModes(Metric):
    """Modes reached, share of good samples and evenness, for samples of a mixture of equal round Gaussians.

    A sample belongs to its nearest mean (Euclidean) and is of high quality if it lies closer to it than radius * std.
    Lin et al. 2018 (PacGAN, arXiv:1712.04086), section 4, as their published code counts: 8 modes on a ring or 25 on a
    grid, 2500 samples, radius 3. Real samples in 2-D have high_quality 1 - exp(-9/2) = .989, not 1.

    Their code logs the entropy H of the high-quality samples over the modes; `kl` is ln(modes) - H, of those same counts.

    Args:
        means: (modes, d), the means of the mixture.
        std: standard deviation of every component in every dimension.
        radius: how many standard deviations away a sample may lie.

    Raises:
        ValueError: means that are no matrix, a std or a radius that is not positive, or samples of another dimension.
    """

    full_state_update = False
    means: Tensor
    counts: Tensor
    total: Tensor

    def __init__(self, means: Tensor, std: float, radius: float = 3.0) -> None:
        super().__init__()
        if means.ndim != 2 or len(means) == 0:
            raise ValueError(f"means has the shape (modes, d), got {tuple(means.shape)}: give one row for each mode")
        if not (std > 0 and radius > 0):
            raise ValueError(f"std={std} and radius={radius} must be positive: no sample lies within {std * radius} of a mean")
        self.std = std
        self.radius = radius
        self.register_buffer("means", means.detach().clone(), persistent=False)
        self.add_state("counts", torch.zeros(len(means), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """x: (n, d), samples; a sample that is not finite counts as one of low quality."""
        if x.ndim != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(
                f"MixtureModes takes samples of the shape (n, {self.means.shape[1]}), got {tuple(x.shape)}: flatten them"
            )
        x = x.detach().double()
        distances, nearest = torch.cdist(x, self.means.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
        near = nearest[distances < self.radius * self.std]
        self.counts += torch.bincount(near, minlength=len(self.counts))
        self.total += len(x)

    def compute(self) -> dict[str, Tensor]:
        """Scalars of all samples.

        Returns:
            "modes": modes with at least one high-quality sample; "high_quality": share of such samples; "kl": KL in nats
            from the distribution of the high-quality samples over the modes to the uniform one, between 0 and ln(modes);
            NaN if there is none.
        """
        return {
            "modes": (self.counts > 0).sum().float(),
            "high_quality": self.counts.sum().float() / self.total,
            "kl": kl_to_uniform(self.counts).float(),
        }


class ClassModes(Metric):
    """Modes reached and evenness, for samples that a classifier has assigned to modes (stacked MNIST has 1000).

    A mode counts from its first sample on; KL(p || uniform) in nats, p the distribution of the samples over the modes.
    Lin et al. 2018 (PacGAN, arXiv:1712.04086), section 4, with 26 000 samples. n real samples have a KL of about
    (num_modes - 1) / (2 n), .02 there: 0 is out of reach. Asking the classifier for a confidence gives other numbers.

    Args:
        num_modes: how many modes there are.

    Raises:
        ValueError: num_modes below 1, or an index that is no integer from 0 to num_modes - 1.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_modes: int) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes={num_modes} must be at least 1")
        self.num_modes = num_modes
        self.add_state("counts", torch.zeros(num_modes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """indices: (n,), int64, the mode of each sample."""
        if indices.is_floating_point() or indices.ndim != 1:
            raise ValueError(
                f"ClassModes takes integers of the shape (n,), got {indices.dtype} {tuple(indices.shape)}: "
                "give logits.argmax(1)"
            )
        if len(indices) and (indices.min() < 0 or indices.max() >= self.num_modes):
            raise ValueError(
                f"mode {int(indices.min())} or {int(indices.max())} is not in 0 ... {self.num_modes - 1}: set num_modes higher"
            )
        self.counts += torch.bincount(indices, minlength=self.num_modes)

    def compute(self) -> dict[str, Tensor]:
        """Scalars of all samples: "modes", and "kl" in nats, between 0 and ln(num_modes)."""
        return {"modes": (self.counts > 0).sum().float(), "kl": kl_to_uniform(self.counts).float()}
