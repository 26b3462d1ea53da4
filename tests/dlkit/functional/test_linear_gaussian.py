"""The closed forms that networks are held against, computed in other ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal

from dlkit.functional.linear_gaussian import largest_angle, pca, pca_mse, probabilistic_pca_nll, wiener_mse


@pytest.fixture
def rows():
    """1,000 rows of six elements for training and 300 for the test, of unequal variances and a mean other than zero."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64) * torch.tensor([2, 1.5, 1, 0.5, 0.3, 0.1]).double()
    x = torch.randn(1300, 6, generator=generator, dtype=torch.float64) @ root.T + 3
    return x[:1000], x[1000:]


def test_pca_is_the_singular_value_decomposition(rows):
    train, test = rows
    mean, axes = pca(train, 2)
    _, _, right = np.linalg.svd((train - train.mean(0)).numpy(), full_matrices=False)
    assert largest_angle(axes, torch.from_numpy(right[:2].T)) < 1e-6
    projector = right[:2].T @ right[:2]
    left_out = (test - mean).numpy() @ (np.eye(6) - projector)
    assert pca_mse(train, test, 2) == pytest.approx((left_out**2).mean(), rel=1e-9)


def test_the_largest_angle_is_scipy_s_and_that_of_a_turn(rows):
    first, second = rows[0][:6, :3], rows[1][:6, :3]
    assert largest_angle(first, second) == pytest.approx(float(subspace_angles(first.numpy(), second.numpy())[0]), rel=1e-9)
    turned = torch.tensor([[math.cos(1e-5)], [math.sin(1e-5)], [0.0]], dtype=torch.float64)
    assert largest_angle(torch.tensor([[1.0], [0.0], [0.0]]), turned) == pytest.approx(1e-5, rel=1e-6)


def test_the_wiener_filter_s_error_is_the_least_of_all_affine_maps(rows):
    """On the training rows the best map is that of least squares over many noisy copies of them."""
    train, _ = rows
    noise, copies = 0.8, 400
    clean = train.repeat(copies, 1)
    noisy = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    design = torch.cat([noisy, torch.ones(len(noisy), 1, dtype=torch.float64)], 1)
    residual = clean - design @ torch.linalg.lstsq(design, clean).solution
    assert wiener_mse(train, train, noise) == pytest.approx(float(residual.square().mean()), rel=0.01)


def test_the_wiener_filter_s_error_on_other_rows_is_that_of_its_map(rows):
    train, test = rows
    mean, covariance = train.mean(0), torch.cov(train.T, correction=0)
    wiener = covariance @ torch.linalg.inv(covariance + 0.64 * torch.eye(6, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    errors = [
        (test - mean - (test - mean + 0.8 * torch.randn(test.shape, generator=generator, dtype=torch.float64)) @ wiener.T)
        for _ in range(2000)
    ]
    assert wiener_mse(train, test, 0.8) == pytest.approx(float(torch.stack(errors).square().mean()), rel=0.01)


def test_probabilistic_pca_is_a_gaussian_with_its_covariance(rows):
    """W W' + sigma^2 I keeps the first eigenvalues and gives the others their mean (Tipping and Bishop 1999, equation 8)."""
    train, test = rows
    values, vectors = np.linalg.eigh(np.cov(train.numpy().T))
    values[:4] = values[:4].mean()
    density = multivariate_normal(train.mean(0).numpy(), vectors * values @ vectors.T)
    assert probabilistic_pca_nll(train, test, 2) == pytest.approx(-density.logpdf(test.numpy()).mean(), rel=1e-9)
