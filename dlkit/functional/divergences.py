"""Divergences between densities and the bounds built on them, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL[N(mu, sigma^2) | N(0, 1)] = (mu^2 + sigma^2 - 1) / 2 - log sigma, for each dimension on its own.

    Kingma and Welling 2013 (arXiv:1312.6114), appendix B. Nothing is summed: the caller sums over the latent
    dimensions and averages over the batch, or plots the dimensions apart.

    Args:
        mean: any shape.
        log_sigma: the same shape; the logarithm of the standard deviation.

    Returns:
        The same shape, nats, never negative.
    """
    return 0.5 * (mean.square() + torch.expm1(2 * log_sigma)) - log_sigma


def importance_bound(log_weights: Tensor, dim: int = 0) -> Tensor:
    """L_K = log (1/K) sum_k w_k: Burda et al. 2016 (arXiv:1509.00519), equation 8.

    A lower bound of log p(x) on average that tightens as K grows; K = 1 is the evidence lower bound.

    Args:
        log_weights: log p(x, z_k) - log q(z_k | x), K of them along `dim`.
        dim: the dimension of the importance samples.

    Returns:
        `log_weights` without `dim`, nats.
    """
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])
