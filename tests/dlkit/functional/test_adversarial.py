"""Every objective against its formula in probabilities, its optimum and its gradients; the penalties in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dlkit.functional.adversarial import (
    OBJECTIVES,
    clip_weights,
    gradient_penalty,
    input_gradient,
    interpolates,
    objective,
    slopes,
    squared_norms,
)


def log(probability):
    return torch.log(probability).mean()


def log_discriminator(logits):
    return log(torch.sigmoid(logits))


def log_rest(logits):
    return log(1 - torch.sigmoid(logits))


def hinge(margin):
    return torch.maximum(torch.zeros_like(margin), margin).mean()


# The critic's loss and the generator's, as the papers write them: D(x) is a probability.
FORMULAS = {
    "minimax": (
        lambda real, fake: -(log_discriminator(real) + log_rest(fake)),
        lambda real, fake: log_rest(fake),
    ),
    "non-saturating": (
        lambda real, fake: -(log_discriminator(real) + log_rest(fake)),
        lambda real, fake: -log_discriminator(fake),
    ),
    "least-squares": (
        lambda real, fake: ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
        lambda real, fake: ((fake - 1) ** 2).mean() / 2,
    ),
    "hinge": (
        lambda real, fake: hinge(1 - real) + hinge(1 + fake),
        lambda real, fake: -fake.mean(),
    ),
    "wasserstein": (
        lambda real, fake: fake.mean() - real.mean(),
        lambda real, fake: -fake.mean(),
    ),
    "relativistic": (
        lambda real, fake: -log_discriminator(real - fake),
        lambda real, fake: -log_discriminator(fake - real),
    ),
}
every_objective = pytest.mark.parametrize("name", FORMULAS)


def test_every_objective_has_its_formula_here():
    assert set(FORMULAS) == set(OBJECTIVES)


@every_objective
def test_both_losses_equal_the_formula_in_probabilities(name):
    real, fake = 3 * torch.randn(2, 500, dtype=torch.float64)
    losses, (critic, generator) = objective(name), FORMULAS[name]
    torch.testing.assert_close(losses.critic(real, fake), critic(real, fake), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(losses.generator(real, fake), generator(real, fake), rtol=1e-9, atol=1e-12)


@every_objective
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_losses_and_gradients_are_finite_where_probabilities_would_have_rounded_to_zero(name, size):
    real, fake = torch.full((2, 3), size).requires_grad_(), torch.full((2, 3), -size).requires_grad_()
    for loss in objective(name)[:2]:
        value = loss(real, fake)
        assert value.isfinite()
        for gradient in torch.autograd.grad(value, (real, fake), materialize_grads=True):
            assert gradient.isfinite().all()


@every_objective
def test_only_the_objective_that_says_so_reads_the_real_logits_in_the_generators_loss(name):
    real, fake = torch.randn(2, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(name).generator(real, fake), real, allow_unused=True)
    assert (gradient is not None) == objective(name).pairs


def test_a_critic_that_cannot_tell_pays_2_log_2():
    logits = torch.zeros(7, dtype=torch.float64)
    assert OBJECTIVES["minimax"].critic(logits, logits).item() == pytest.approx(2 * math.log(2), abs=1e-15)
    assert OBJECTIVES["relativistic"].critic(logits, logits).item() == pytest.approx(math.log(2), abs=1e-15)


@pytest.mark.parametrize(
    ("name", "optimum"),
    [("minimax", math.log(3)), ("non-saturating", math.log(3)), ("least-squares", 3 / 4), ("hinge", 1.0)],
)
def test_the_critics_loss_is_least_at_the_optimum_of_two_points_of_known_frequencies(name, optimum):
    """The first point is real three times in four and a fake once in four, the second the other way round: p / q = 3, 1 / 3."""
    other = 1 - optimum if name == "least-squares" else -optimum

    def loss(first, second):
        real, fake = torch.stack([first, first, first, second]), torch.stack([first, second, second, second])
        return objective(name).critic(real, fake)

    best = torch.tensor([optimum, other], dtype=torch.float64)
    least = loss(*best)
    for moved in best + 0.3 * torch.randn(300, 2, dtype=torch.float64):
        assert loss(*moved) >= least - 1e-12  # the hinge is flat in one direction
    assert loss(*(best + 0.1)) > least + 1e-4


def test_the_minimax_generator_stops_learning_from_a_confident_critic_and_the_non_saturating_one_does_not():
    fake = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
    d = torch.sigmoid(fake).item()
    for name, expected in (("minimax", -d), ("non-saturating", -(1 - d))):
        (gradient,) = torch.autograd.grad(objective(name).generator(fake, fake), fake)
        assert gradient.item() == pytest.approx(expected, rel=1e-9)


def test_the_relativistic_players_play_the_same_game_with_the_sides_changed():
    real, fake = torch.randn(2, 50, dtype=torch.float64)
    losses = objective("relativistic")
    torch.testing.assert_close(losses.generator(real, fake), losses.critic(fake, real))
    shifted = losses.critic(real + 7, fake + 7)
    torch.testing.assert_close(shifted, losses.critic(real, fake))
    assert losses.critic(real, fake.flip(0)) != losses.critic(real, fake)  # the examples are paired


def test_an_unknown_objective_is_refused_with_the_names_that_there_are():
    with pytest.raises(ValueError, match=r"unknown objective 'wgan': use one of minimax, .*, relativistic"):
        objective("wgan")


# Penalties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
def test_the_slope_of_a_linear_critic_is_the_norm_of_its_weights_at_every_point(shape):
    w, x = torch.randn(shape), torch.randn(6, *shape).requires_grad_()
    gradient = input_gradient((x * w).flatten(1).sum(1), x)
    assert gradient.shape == x.shape
    torch.testing.assert_close(slopes(gradient), w.norm().expand(6))
    torch.testing.assert_close(squared_norms(gradient), w.square().sum().expand(6))
    torch.testing.assert_close(gradient_penalty(slopes(gradient)), (w.norm() - 1).square())


def test_r1_of_a_quadratic_critic_is_the_mean_of_its_squared_gradient_and_can_be_differentiated():
    matrix = torch.randn(4, 4, dtype=torch.float64)
    matrix = (matrix + matrix.T).requires_grad_()
    x = torch.randn(9, 4, dtype=torch.float64).requires_grad_()
    penalty = squared_norms(input_gradient(0.5 * ((x @ matrix) * x).sum(1), x)).mean()
    torch.testing.assert_close(penalty.double(), (x @ matrix).square().sum(1).mean(), rtol=1e-6, atol=1e-6)
    # The symmetric part of d/dA E|A x|^2 = 2 A E[x x^T].
    (gradient,) = torch.autograd.grad(penalty, matrix)
    expected = 2 * matrix @ (x.T @ x) / 9
    torch.testing.assert_close(gradient, (expected + expected.T) / 2, rtol=1e-6, atol=1e-6)


def test_the_gradient_penalty_of_known_slopes():
    assert gradient_penalty(torch.tensor([0.0, 1.0, 3.0])).item() == pytest.approx((1 + 0 + 4) / 3)


def test_a_flat_critic_has_slope_zero_and_a_finite_derivative():
    w, x = torch.zeros(3, requires_grad=True), torch.randn(5, 3).requires_grad_()
    slope = slopes(input_gradient(x @ w, x))
    assert slope.max() <= 1e-6
    (gradient,) = torch.autograd.grad(gradient_penalty(slope), w)
    assert gradient.isfinite().all()


def test_the_norm_of_a_half_precision_gradient_is_taken_in_single_precision():
    gradient = torch.full((2, 3000), 300.0, dtype=torch.float16)
    assert squared_norms(gradient).dtype == torch.float32
    torch.testing.assert_close(squared_norms(gradient), torch.full((2,), 3000 * 300.0**2))


def test_interpolates_lie_on_the_segments_at_a_uniform_share_drawn_for_each_example():
    real, fake = torch.randn(20_000, 2, 3), torch.randn(20_000, 2, 3) + 5
    between = interpolates(real, fake)
    share = ((between - real) / (fake - real)).flatten(1).double()
    spread = (share.max(1).values - share.min(1).values).median()
    assert spread < 1e-5  # one share for the whole example
    share = share.median(1).values
    assert share.min() > -1e-5 and share.max() < 1 + 1e-5
    assert len(share.unique()) > 19_000  # and another for every example
    assert share.mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert share.var().item() == pytest.approx(1 / 12, abs=0.003)


def test_interpolates_are_leaves_through_which_nothing_flows_back_to_the_generator():
    fake = torch.randn(4, 2, requires_grad=True)
    between = interpolates(torch.randn(4, 2), 2 * fake)
    assert between.is_leaf and between.requires_grad


def test_interpolates_with_fakes_of_half_precision_keep_the_real_examples_precision():
    assert interpolates(torch.randn(4, 2), torch.randn(4, 2).bfloat16()).dtype == torch.float32


def test_clipping_bounds_every_parameter_in_place_and_leaves_buffers_alone():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        network[1].running_mean.fill_(7)
        network[0].weight[0] = torch.tensor([-5.0, 0.002, 5.0])
    places = [parameter.data_ptr() for parameter in network.parameters()]
    clip_weights(network, 0.01)
    torch.testing.assert_close(network[0].weight[0].tolist(), [-0.01, 0.002, 0.01])
    assert max(parameter.abs().max().item() for parameter in network.parameters()) <= 0.01 + 1e-9
    assert [parameter.data_ptr() for parameter in network.parameters()] == places
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in network.parameters())
    assert network[1].running_mean.tolist() == [7.0] * 4
    assert network[1].running_var.tolist() == [1.0] * 4
