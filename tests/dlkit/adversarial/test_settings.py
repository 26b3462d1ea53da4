"""GAN and WGAN: their penalties and settings, and values that they refuse."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import nn

import dlkit
from datamodules import Gaussians
from dlkit.callbacks import Compile
from dlkit.nn.adversarial import build_critic

from .players import METHODS, batch_for, fit, trainer


class Quadratic(nn.Module):
    """d(x) = a |x|^2 / 2, whose gradient is a x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.5))

    def forward(self, x, labels=None):
        return 0.5 * self.a * x.square().sum(1)


@pytest.mark.parametrize("penalty", ["r1", "r1+r2"])
def test_the_penalties_are_half_the_weight_times_the_mean_squared_slope_at_real_and_at_generated_examples(penalty):
    class QuadraticGAN(dlkit.GAN):
        def build_critic(self):
            return Quadratic()

    method = QuadraticGAN((2,), 2, "hinge", penalty, penalty_weight=3.0)
    batch = batch_for(method)
    torch.manual_seed(1)
    loss, terms = method.critic_loss(batch)
    torch.manual_seed(1)
    generated = method.draw(len(batch.x), None).detach()
    plain = method.objective.critic(method.critic(batch.x), method.critic(generated))
    squared_slopes = [1.5**2 * x.square().sum(1).mean() for x in (batch.x, generated)]
    expected = squared_slopes[0] if penalty == "r1" else sum(squared_slopes)
    torch.testing.assert_close(terms["penalty"], expected)
    torch.testing.assert_close(loss, plain + 1.5 * expected)
    (found,) = torch.autograd.grad(loss - plain, method.critic.a)  # d/da of 1.5 a^2 E|x|^2
    torch.testing.assert_close(found, 1.5 * 2 * expected / 1.5)


@pytest.mark.slow
def test_a_gan_learns_the_ring():
    L.seed_everything(1, verbose=False)
    method = dlkit.GAN(
        (2,), 4, "relativistic", "r1+r2", 0.1, hidden_dims=(64, 64), learning_rate=1e-3, betas=(0.0, 0.9), ema_decay=0.99
    )
    radius = method.sample(1000).norm(dim=1)
    assert (radius - 1).abs().mean() > 0.5
    fit(method, 128, max_epochs=30)
    x = method.sample(1000)
    radius, means = x.norm(dim=1), Gaussians("ring").means
    assert (radius - 1).abs().mean() < 0.1
    nearest = torch.cdist(x, means).argmin(1).bincount(minlength=8)
    assert (nearest > 60).all()  # of 125 for each mode


@pytest.mark.parametrize("name", ["gan", "gan-r1", "r3gan", "wgan-gp", "wgan-clip", "wgan-spectral", "sngan"])
def test_compilation_takes_both_networks_but_no_critic_that_is_differentiated_twice(name, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, **options: compiled.append(network))
    method = METHODS[name]()
    Compile().on_fit_start(trainer(), method)
    assert compiled == [method.generator] + [method.critic] * (name not in ("gan-r1", "r3gan", "wgan-gp"))


def test_clipped_weights_are_trained_by_rmsprop_as_the_paper_asks():
    method = METHODS["wgan-clip"](learning_rate=0.1, critic_learning_rate=0.2)
    optimizers = method.build_optimizers()
    assert all(isinstance(optimizer, torch.optim.RMSprop) for optimizer in optimizers)
    assert [optimizer.defaults["lr"] for optimizer in optimizers] == [0.2, 0.1]


def test_a_wgan_takes_betas_for_each_player():
    critic, generator = dlkit.WGAN((2,), 2, betas=(0.1, 0.9), critic_betas=(0.2, 0.8)).build_optimizers()
    assert critic.param_groups[0]["betas"] == (0.2, 0.8)
    assert generator.param_groups[0]["betas"] == (0.1, 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"critic_steps": 0}, r"critic_steps=0: the critic takes 1 or more"),
        ({"accumulation_steps": 0}, r"accumulation_steps=0: give 1 or more"),
        ({"gradient_clip": 0.0}, r"gradient_clip=0\.0: give a positive norm, or leave it out"),
        ({"ema_decay": 1.0}, r"ema_decay=1\.0 .* is outside \[0, 1\)"),
        ({"ema_decay": -0.1}, r"ema_decay=-0\.1 .* is outside \[0, 1\)"),
        ({"latent_dim": 0}, r"latent_dim=0: give 1 or more"),
        ({"data_scale": 0.0}, r"data_scale=0\.0 has to be positive"),
        ({"num_classes": 0}, r"num_classes=0: give the number of classes, or None"),
        ({"network": "stylegan"}, r"unknown network 'stylegan': use 'mlp', 'maxout', 'dcgan' or 'resnet'"),
        ({"network": "dcgan"}, r"network='dcgan' reads images .*: use network='mlp'"),
        ({"generator_norm": "layer"}, r"unknown norm 'layer' of the generator: use 'none' or 'batch'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [dlkit.GAN, dlkit.WGAN])
def test_a_value_outside_its_range_is_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build((2,), **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width=0 .* give 1 or more"),
        ({"hidden_dims": (8, 0)}, r"hidden_dims=\(8, 0\): give 1 or more"),
        ({"betas": (2.0, 3.0)}, r"betas=\(2.0, 3.0\): Adam takes two numbers in \[0, 1\)"),
        ({"critic_steps": 1.5}, "critic_steps=1.5"),
    ],
)
def test_sizes_and_betas_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dlkit.GAN((2,), 2, **settings)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (dlkit.GAN, {"objective": "wasserstein"}, r"objective='wasserstein' needs .* bounded slope: use dlkit\.WGAN"),
        (dlkit.GAN, {"objective": "vanilla"}, r"unknown objective 'vanilla': use one of minimax"),
        (dlkit.GAN, {"penalty": "r2"}, r"unknown penalty 'r2': use 'none', 'r1' or 'r1\+r2'"),
        (dlkit.GAN, {"penalty": "r1", "penalty_weight": 0}, r"penalty_weight=0 has to be positive: .* penalty='none'"),
        (dlkit.GAN, {"critic_norm": "layer"}, r"unknown norm 'layer' of the critic: use 'none', 'batch' or 'spectral'"),
        (dlkit.GAN, {"critic_norm": "batch"}, r"critic 'mlp' has no batch normalisation: use norm='none' or 'spectral'"),
        (dlkit.WGAN, {"lipschitz": "gp"}, r"unknown lipschitz 'gp': use 'clip', 'gradient-penalty' or 'spectral'"),
        (dlkit.WGAN, {"penalty_weight": -1}, r"penalty_weight=-1 has to be positive"),
        (dlkit.WGAN, {"clip": 0}, r"clip=0 has to be positive"),
    ],
    ids=str,
)
def test_an_unknown_name_is_refused_with_the_names_that_there_are(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build((2,), **arguments)


class WithBatchNorm:
    def build_critic(self):
        return build_critic("dcgan", self.data_shape, width=4, norm="batch")


def test_a_penalty_on_a_critic_with_batch_normalisation_is_refused_wherever_it_came_from():
    class BatchGAN(WithBatchNorm, dlkit.GAN):
        pass

    class BatchWGAN(WithBatchNorm, dlkit.WGAN):
        pass

    shape = (1, 16, 16)  # of 8x8 the first layer, which has none, would be the only one
    message = r"penalty='r1' takes the gradient of each example's logit, .*: use critic_norm='none' or 'spectral'"
    with pytest.raises(ValueError, match=message):
        dlkit.GAN(shape, penalty="r1", network="dcgan", width=4, critic_norm="batch")
    with pytest.raises(ValueError, match=message):
        BatchGAN(shape, penalty="r1")
    for lipschitz in ("clip", "gradient-penalty", "spectral"):
        with pytest.raises(ValueError, match=r"the critic of a WGAN .*: build a critic without it"):
            BatchWGAN(shape, lipschitz=lipschitz)
    assert BatchGAN(shape).critic_sees_batches  # without a penalty it may have one
