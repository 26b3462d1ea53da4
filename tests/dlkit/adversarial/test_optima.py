"""What a critic has to find: the optimal discriminator of two known densities, the exact Wasserstein distance, its bounds."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.distributions import Normal

import dlkit
from datamodules import Gaussians
from datamodules.loader import Loader
from dlkit.batches import Examples
from dlkit.nn.adversarial import build_critic


class Given:
    """Mixed into a method whose generated examples are given, instead of drawn from its generator."""

    def draw(self, n, labels):
        return self.given[:n]


class GivenGAN(Given, dlkit.GAN):
    pass


class GivenWGAN(Given, dlkit.WGAN):
    pass


def train_critic(method, x, steps, rate):
    """Trains the critic alone, by `critic_loss` on the whole sample, with a step size that falls to zero."""
    optimizer = torch.optim.Adam(method.critic.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss, _ = method.critic_loss(Examples(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


# The optimal discriminator -------------------------------------------------------------------------------------------

REAL, GENERATED = Normal(-0.5, 1.0), Normal(1.0, 0.6)


def quantiles(density, n):
    """The middles of n parts of equal probability: a sample whose means are integrals."""
    return density.icdf((torch.arange(n) + 0.5) / n)[:, None]


def jensen_shannon(real, generated):
    """JSD(p, q) in nats, by the trapezoidal rule."""
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    p, q = real.log_prob(x).exp(), generated.log_prob(x).exp()
    middle = ((p + q) / 2).log()
    terms = [torch.where(density > 0, density * (density.log() - middle), 0) for density in (p, q)]
    return sum(torch.trapezoid(term, x).item() for term in terms) / 2


@pytest.fixture(scope="module")
def discriminator():
    """A GAN whose critic is trained to its optimum between the two densities, and the real sample."""
    torch.manual_seed(0)
    method = GivenGAN((1,), objective="minimax", hidden_dims=(64, 64))
    method.given = quantiles(GENERATED, 1000)
    x = quantiles(REAL, 1000)
    train_critic(method, x, steps=600, rate=1e-2)
    return method, x


def test_the_optimal_discriminator_is_p_over_p_plus_q(discriminator):
    method, _ = discriminator
    x = torch.linspace(-3, 3, 301)
    p, q = REAL.log_prob(x).exp(), GENERATED.log_prob(x).exp()
    where = p + q > 0.05  # fewer than that have not told the critic anything
    assert where.sum() > 200
    found = method.discriminate(x[:, None]).sigmoid()
    torch.testing.assert_close(found[where], (p / (p + q))[where], atol=0.02, rtol=0)


def test_the_value_at_the_optimum_is_twice_the_jensen_shannon_divergence_less_log_4(discriminator):
    method, x = discriminator
    value = -method.critic_loss(Examples(x))[0].item()
    assert value == pytest.approx(2 * jensen_shannon(REAL, GENERATED) - math.log(4), abs=0.01)


# The Wasserstein distance --------------------------------------------------------------------------------------------


CASES = [(3.0, 10.0), (2.0, 1.0), (0.5, 0.5)]  # the distance, and the weight of the penalty


@pytest.fixture(scope="module", params=CASES, ids=str)
def wasserstein(request):
    """A WGAN-GP whose critic is trained to its optimum between a sample and the sample shifted, every point by as much."""
    shift, weight = request.param
    torch.manual_seed(0)
    method = GivenWGAN((1,), penalty_weight=weight, hidden_dims=(32, 32))
    x = torch.randn(512, 1)
    method.given = x + shift
    # On a line a critic that starts out falling where it should rise stays so: the slope 0 is a ridge between the optimum and
    # a false one at W / (2 lambda) - 1, unless the penalty is light.
    method.penalty_weight = shift / 3
    train_critic(method, x, steps=50, rate=1e-2)
    method.penalty_weight = weight
    train_critic(method, x, steps=250, rate=1e-2)
    return method, x, shift, weight


def test_the_gap_over_the_slope_is_the_exact_wasserstein_distance(wasserstein):
    method, x, shift, _ = wasserstein
    exact = wasserstein_distance(x[:, 0].numpy(), method.given[:, 0].numpy())
    assert exact == pytest.approx(shift, rel=1e-5)
    _, terms = method.critic_loss(Examples(x))
    assert (terms["gap_not_w1"] / terms["slope"]).item() == pytest.approx(exact, rel=0.01)


def test_the_gap_itself_is_inflated_by_the_penalty_as_the_optimum_says(wasserstein):
    method, x, shift, weight = wasserstein
    _, terms = method.critic_loss(Examples(x))
    inflated = 1 + shift / (2 * weight)
    assert terms["gap_not_w1"].item() == pytest.approx(shift * inflated, rel=0.01)
    assert terms["slope"].item() == pytest.approx(inflated, rel=0.01)
    assert terms["penalty"].item() == pytest.approx((inflated - 1) ** 2, rel=0.05, abs=0.005)


def test_what_validation_records_as_wasserstein_is_the_distance_and_not_the_gap(wasserstein):
    method, x, shift, weight = wasserstein
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    recorded = trainer.validate(method, Loader.of(Examples(x), len(x)), verbose=False)[0]
    assert recorded["val/wasserstein"] == pytest.approx(shift, rel=0.01)
    assert recorded["val/gap_not_w1"] == pytest.approx(shift * (1 + shift / (2 * weight)), rel=0.01)


# The bounds of the slope ---------------------------------------------------------------------------------------------


def largest_singular_values(network):
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding))]
    return [torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() for layer in layers]


def scatter(network):
    """Gives every layer weights that its estimate of the largest singular value has never seen."""
    for name, parameter in network.named_parameters():
        if name.endswith("original"):
            nn.init.normal_(parameter, std=3)


@pytest.mark.parametrize(
    ("network", "shape"), [("mlp", (2,)), ("maxout", (2,)), ("dcgan", (1, 8, 8)), ("resnet", (1, 8, 8))], ids=str
)
def test_every_layer_of_a_spectrally_normalised_critic_has_largest_singular_value_one(network, shape):
    critic = build_critic(network, shape, hidden_dims=(32, 32), width=8, norm="spectral", num_classes=3)
    scatter(critic)
    assert max(largest_singular_values(critic)) > 1.2
    for _ in range(20):
        critic(torch.rand(4, *shape), torch.tensor([0, 1, 2, 0]))
    assert largest_singular_values(critic) == pytest.approx([1.0] * len(largest_singular_values(critic)), rel=0.05)


@pytest.mark.parametrize("trained", [False, True], ids=["at the start", "trained"])
def test_a_spectrally_normalised_critic_has_a_slope_of_at_most_one(trained):
    method = GivenWGAN((2,), lipschitz="spectral", hidden_dims=(32, 32))
    method.given = torch.randn(256, 2) + 4
    if trained:
        train_critic(method, torch.randn(256, 2), steps=200, rate=1e-2)
    x, y = 5 * torch.randn(2, 2000, 2)
    rise = (method.discriminate(x) - method.discriminate(y)).abs() / (x - y).norm(dim=1)
    assert rise.max() <= 1.02
    assert rise.max() > 0.5 or not trained  # it uses what it is allowed
    free = build_critic("mlp", (2,), (32, 32))
    for parameter in free.parameters():
        parameter.data.mul_(5)
    assert ((free(x) - free(y)).abs() / (x - y).norm(dim=1)).max() > 1.02  # the control


def test_clipping_keeps_every_parameter_of_the_critic_within_the_bound_whenever_the_generator_meets_it():
    bound = 0.02
    met = []

    class Watched(dlkit.WGAN):
        def generator_loss(self, batch):
            met.append(max(parameter.abs().max().item() for parameter in self.critic.parameters()))
            return super().generator_loss(batch)

    method = Watched(
        (2,), 2, "clip", clip=bound, critic_steps=2, hidden_dims=(16,), num_classes=8, learning_rate=0.05, ema_decay=0.5
    )
    assert max(parameter.abs().max().item() for parameter in method.critic.parameters()) <= bound + 1e-9
    trainer = L.Trainer(
        max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=Gaussians(num_examples=2000, val_size=200, batch_size=128))
    assert len(met) == 5
    assert max(met) <= bound + 1e-9
    assert max(met) == pytest.approx(bound)
    assert all(parameter.abs().max() > bound for parameter in method.generator.parameters())
