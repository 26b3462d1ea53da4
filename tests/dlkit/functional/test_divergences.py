"""The KL against Monte Carlo and torch.distributions; the laws of the importance-weighted bound."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dlkit.functional.divergences import importance_bound, kl_to_standard_normal

STANDARD = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


def test_kl_equals_torch_distributions():
    mean, log_sigma = torch.randn(2, 50, 7, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, log_sigma.exp()), STANDARD)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_sigma), expected)


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 1.0), (1.0, 0.5), (-2.0, 0.1), (0.3, 3.0)])
def test_kl_equals_its_monte_carlo_estimate(mean, sigma):
    posterior = Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64))
    z = posterior.sample((400_000,))
    ratios = posterior.log_prob(z) - STANDARD.log_prob(z)
    kl = kl_to_standard_normal(posterior.loc, posterior.scale.log())
    error = ratios.std().item() / math.sqrt(len(z))
    assert abs(ratios.mean().item() - kl.item()) <= 5 * error + 1e-12


def test_kl_is_zero_for_the_standard_normal_alone_and_never_negative():
    mean, log_sigma = torch.randn(2, 10_000, dtype=torch.float64) * 0.1
    assert kl_to_standard_normal(torch.zeros(3), torch.zeros(3)).tolist() == [0.0] * 3
    assert (kl_to_standard_normal(mean, log_sigma) > 0).all()


def test_kl_keeps_every_dimension_apart():
    mean, log_sigma = torch.zeros(4, 3), torch.zeros(4, 3)
    mean[2, 1] = 2.0
    expected = torch.zeros(4, 3)
    expected[2, 1] = 2.0
    assert torch.equal(kl_to_standard_normal(mean, log_sigma), expected)


def test_the_bound_of_one_sample_is_its_weight():
    log_weights = torch.randn(1, 20, dtype=torch.float64)
    torch.testing.assert_close(importance_bound(log_weights), log_weights[0])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_the_bound_is_the_logarithm_of_the_mean_weight(dim):
    log_weights = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(importance_bound(log_weights, dim), log_weights.exp().mean(dim).log())


def test_the_bound_ignores_the_order_of_the_samples():
    log_weights = torch.randn(50, 6, dtype=torch.float64)
    torch.testing.assert_close(importance_bound(log_weights[torch.randperm(50)]), importance_bound(log_weights))


def test_equal_weights_give_their_value_however_many():
    torch.testing.assert_close(importance_bound(torch.full((37, 2), -1.25)), torch.full((2,), -1.25))


def test_a_constant_factor_of_the_weights_shifts_the_bound_even_far_from_zero():
    log_weights = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(importance_bound(log_weights - 5000), importance_bound(log_weights) - 5000)


def test_the_bound_tightens_with_more_samples_and_stays_below_the_evidence():
    """Weights whose mean is known: log w ~ N(-s^2 / 2, s^2), so that E[w] = 1 and log p(x) = 0."""
    sizes, spread = (1, 2, 5, 50), 1.5
    log_weights = spread * torch.randn(50, 40_000, dtype=torch.float64) - spread**2 / 2
    bounds = [importance_bound(log_weights[:size]).mean().item() for size in sizes]
    assert bounds[0] == pytest.approx(-(spread**2) / 2, abs=0.03)
    gaps = [after - before for before, after in pairwise(bounds)]
    assert min(gaps) > 0.05  # twenty standard errors
    assert -0.1 < bounds[-1] < 0
