"""The log-likelihoods against torch.distributions, against integration, and at their best parameters."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal
from torch.func import grad

from dlkit.functional.likelihoods import bernoulli_log_prob, categorical_log_prob, gaussian_log_prob, sum_event

EVENTS = [(7,), (1, 8, 8), (3, 4, 4)]


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("batch", [(5,), (3, 5)], ids=str)
def test_bernoulli_equals_torch_distributions(batch, event):
    logits = 3 * double(*batch, *event)
    x = torch.rand_like(logits).round()
    expected = Independent(Bernoulli(logits=logits), len(event)).log_prob(x)
    torch.testing.assert_close(bernoulli_log_prob(x, logits, len(event)), expected)


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("batch", [(5,), (3, 5)], ids=str)
def test_gaussian_equals_torch_distributions(batch, event):
    x, mean, log_sigma = (double(*batch, *event) for _ in range(3))
    expected = Independent(Normal(mean, log_sigma.exp()), len(event)).log_prob(x)
    torch.testing.assert_close(gaussian_log_prob(x, mean, log_sigma, len(event)), expected)


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("batch", [(5,), (3, 5)], ids=str)
def test_categorical_equals_torch_distributions(batch, event):
    logits = double(*batch, 6, *event)
    levels = torch.randint(0, 6, (*batch, *event))
    expected = Independent(Categorical(logits=logits.movedim(len(batch), -1)), len(event)).log_prob(levels)
    torch.testing.assert_close(categorical_log_prob(levels, logits, len(event)), expected)


def test_one_x_is_broadcast_over_many_parameters():
    """x (batch, *event) against (samples, batch, *event), as importance sampling has it."""
    x, parameters = torch.rand(5, 1, 4, 4, dtype=torch.float64), double(3, 5, 1, 4, 4)
    repeated = x.expand_as(parameters)
    torch.testing.assert_close(bernoulli_log_prob(x, parameters, 3), bernoulli_log_prob(repeated, parameters, 3))
    log_sigma = torch.tensor(-0.3, dtype=torch.float64)
    torch.testing.assert_close(
        gaussian_log_prob(x, parameters, log_sigma, 3), gaussian_log_prob(repeated, parameters, log_sigma, 3)
    )


def test_a_shared_sigma_counts_once_for_each_dimension():
    x, mean = double(4, 9), double(4, 9)
    shared = torch.tensor(0.7, dtype=torch.float64)
    torch.testing.assert_close(gaussian_log_prob(x, mean, shared), gaussian_log_prob(x, mean, shared.expand(4, 9)))


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 1.0), (1.5, 0.3), (-2.0, 2.0)])
def test_the_gaussian_density_integrates_to_one(mean, sigma):
    x = torch.linspace(mean - 12 * sigma, mean + 12 * sigma, 20_001, dtype=torch.float64).unsqueeze(1)
    log_sigma = torch.tensor(math.log(sigma), dtype=torch.float64)
    density = gaussian_log_prob(x, torch.full_like(x, mean), log_sigma).exp()
    assert torch.trapezoid(density, x[:, 0]).item() == pytest.approx(1, abs=1e-9)


def test_bernoulli_sums_to_one_over_all_pictures():
    logits = 2 * double(1, 10)
    pictures = torch.tensor(list(itertools.product([0.0, 1.0], repeat=10)), dtype=torch.float64)
    assert bernoulli_log_prob(pictures, logits).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_categorical_sums_to_one_over_all_pictures():
    logits = double(1, 3, 5)
    pictures = torch.tensor(list(itertools.product(range(3), repeat=5)))
    log_prob = categorical_log_prob(pictures, logits.expand(len(pictures), 3, 5))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_the_best_variance_is_the_mean_squared_error_and_not_twice_it():
    x, mean = double(1000, 4), double(1000, 4)

    def total(log_sigma):
        return gaussian_log_prob(x, mean, log_sigma).sum()

    mse = (x - mean).square().mean()
    assert grad(total)(0.5 * mse.log()).abs().item() < 1e-8
    assert grad(total)(0.5 * (2 * mse).log()).abs().item() > 1
    for other in (0.9, 1.1, 2.0):
        assert total(0.5 * (other * mse).log()) < total(0.5 * mse.log())


def test_the_best_bernoulli_probability_is_the_mean():
    x = torch.rand(500, 3, dtype=torch.float64)

    def total(logits):
        return bernoulli_log_prob(x, logits).sum()

    assert grad(total)(x.mean(0).logit()).abs().max().item() < 1e-8


def test_huge_logits_stay_finite_and_exact():
    logits = torch.tensor([[200.0, -200.0, 200.0]])
    assert bernoulli_log_prob(torch.tensor([[1.0, 0.0, 0.0]]), logits).tolist() == [-200.0]
    assert categorical_log_prob(torch.tensor([[1]]), torch.tensor([[[500.0], [-500.0]]])).tolist() == [-1000.0]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_only_the_event_is_summed(dims):
    value = double(2, 3, 4, 5)
    torch.testing.assert_close(sum_event(value, dims), value.sum(tuple(range(-dims, 0))))
