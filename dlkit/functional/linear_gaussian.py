"""Closed-form solutions of linear and Gaussian models: what a trained network is held against, on the same data.

Examples are rows, (n, elements), in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pca(train: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """The mean and the first principal axes of the training rows: (elements,), (elements, dimensions)."""
    mean = train.mean(0)
    _, axes = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    return mean, axes.flip(1)[:, :dimensions]


def pca_mse(train: Tensor, test: Tensor, dimensions: int) -> float:
    """Mean squared error per element of PCA's reconstruction of `test`, fitted on `train`."""
    mean, axes = pca(train, dimensions)
    centred = test - mean
    return float((centred - centred @ axes @ axes.T).square().mean())


def wiener_mse(train: Tensor, test: Tensor, noise: float) -> float:
    """Mean squared error per element of the best affine map from x + noise * eps to x, in expectation over eps.

    With mean m and covariance C of the training rows, W = C (C + noise^2 I)^-1 and x^ = m + W (x + noise eps - m), whose
    expected error on a test row is |(I - W)(x - m)|^2 + noise^2 tr(W W').
    """
    mean = train.mean(0)
    covariance = (train - mean).T @ (train - mean) / len(train)
    identity = torch.eye(len(mean), dtype=covariance.dtype)
    wiener = torch.linalg.solve(covariance + noise**2 * identity, covariance).T
    bias = ((test - mean) @ (identity - wiener).T).square().sum(1).mean()
    return float((bias + noise**2 * wiener.square().sum()) / len(mean))


def probabilistic_pca_nll(train: Tensor, test: Tensor, dimensions: int) -> float:
    """-log p of `test` under probabilistic PCA fitted on `train`, in nats: Tipping and Bishop 1999, equation 3."""
    from sklearn.decomposition import PCA

    return -float(PCA(dimensions).fit(train.numpy()).score(test.numpy()))


def largest_angle(first: Tensor, second: Tensor) -> float:
    """The largest principal angle between the column spaces of two (elements, dimensions) matrices, in radians."""
    bases = [torch.linalg.qr(matrix.detach().double().cpu()).Q for matrix in (first, second)]
    # From the sine: the cosine of a small angle rounds to one.
    residual = bases[1] - bases[0] @ (bases[0].T @ bases[1])
    return float(torch.linalg.matrix_norm(residual, 2).clamp(max=1).arcsin())
