"""The distance against closed forms: shifts, quantiles, an assignment solved by hand of another library."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from dlkit.metrics.wasserstein import Wasserstein


def distance(real, generated, exact_points=2000):
    metric = Wasserstein(exact_points)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return metric.compute().item()


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_shift_costs_its_length(dimension):
    x, shift = torch.randn(300, dimension), torch.arange(1.0, dimension + 1)
    assert distance(x, x[torch.randperm(300)] + shift) == pytest.approx(shift.norm().item(), rel=1e-5)


def test_equal_points_in_another_order_have_distance_zero():
    x = torch.randn(200, 2)
    assert distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6)


def test_two_points_against_three():
    """Unequal numbers: masses 1/2 each against 1/3 each, solved by hand: 1/6 travels from 0 to 1 and 1/3 from 1 to 3."""
    real, generated = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    assert distance(real, generated) == pytest.approx(1 / 6 + 2 / 3)


def test_a_line_in_the_plane_has_the_distance_of_the_line():
    """The network simplex agrees with sorting."""
    real, generated = torch.randn(150, 1), torch.rand(220, 1)
    direction = torch.tensor([[0.6, 0.8]])
    assert distance(real @ direction, generated @ direction) == pytest.approx(distance(real, generated), rel=1e-5)


def test_the_distance_equals_that_of_the_best_assignment():
    real, generated = torch.randn(120, 3), torch.rand(120, 3)
    costs = torch.stack([(generated - x).norm(dim=1) for x in real]).double().numpy()
    rows, columns = linear_sum_assignment(costs)
    assert distance(real, generated) == pytest.approx(costs[rows, columns].mean(), rel=1e-6)


def test_gaussians_have_the_distance_of_theory():
    """N(0, 1) and N(0, 4) on the line: the coupling y = 2x moves E|x| = sqrt(2 / pi)."""
    found = distance(torch.randn(100_000, 1), 2 * torch.randn(100_000, 1))
    assert found == pytest.approx((2 / torch.pi) ** 0.5, abs=0.02)


def test_the_first_points_count_in_the_plane_and_all_of_them_on_the_line():
    x = torch.zeros(40, 2)
    moved = torch.cat([torch.ones(20, 2), torch.full((20, 2), 9.0)])
    assert distance(x, moved, exact_points=20) == pytest.approx(2**0.5)
    assert distance(x, moved, exact_points=40) == pytest.approx(5 * 2**0.5)
    assert distance(x[:, :1], moved[:, :1], exact_points=20) == pytest.approx(5)


@pytest.mark.parametrize("dimension", [1, 2])
def test_several_updates_equal_one_update_and_reset_forgets(dimension):
    real, generated = torch.randn(100, dimension), torch.randn(80, dimension) + 1
    metric = Wasserstein(exact_points=70)
    metric.update(torch.zeros(40, 7), real=True)
    metric.reset()
    for batch in generated.split(30):
        metric.update(batch, real=False)
    for batch in real.split([1, 50, 49]):
        metric.update(batch, real=True)
    assert metric.compute().item() == distance(real, generated, exact_points=70)


def test_two_thousand_points_are_solved():
    assert 0 < distance(torch.randn(2000, 2), torch.randn(2000, 2)) < 0.3


def test_a_mistake_is_named():
    with pytest.raises(ValueError, match="exact_points=0"):
        Wasserstein(0)
    metric = Wasserstein()
    metric.update(torch.zeros(3, 2), real=True)
    with pytest.raises(ValueError, match="3 real and 0 generated examples"):
        metric.compute()
