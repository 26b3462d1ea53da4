"""Two players: whose step it is, what is counted, what is frozen, and that a run can be repeated, resumed and stopped."""

from __future__ import annotations

import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

import dlkit
from datamodules import Digits, Gaussians
from datamodules.loader import Loader
from dlkit.adversarial.method import frozen
from dlkit.batches import Examples
from dlkit.callbacks import Checkpoints, Compile, RandomState
from dlkit.nn.adversarial import build_critic
from dlkit.protocols import Decodes, Samples

METHODS = {
    "gan": lambda **more: dlkit.GAN((2,), 2, hidden_dims=(16,), **more),
    "gan-r1": lambda **more: dlkit.GAN((2,), 2, penalty="r1", hidden_dims=(16,), **more),
    "r3gan": lambda **more: dlkit.GAN((2,), 2, "relativistic", "r1+r2", hidden_dims=(16,), **more),
    "sngan": lambda **more: dlkit.GAN((2,), 2, "hinge", hidden_dims=(16,), critic_norm="spectral", **more),
    "conditional": lambda **more: dlkit.GAN((2,), 2, "least-squares", "r1", hidden_dims=(16,), num_classes=8, **more),
    "wgan-gp": lambda **more: dlkit.WGAN((2,), 2, hidden_dims=(16,), **{"critic_steps": 2, **more}),
    "wgan-clip": lambda **more: dlkit.WGAN((2,), 2, "clip", hidden_dims=(16,), clip=0.1, **{"critic_steps": 2, **more}),
    "wgan-spectral": lambda **more: dlkit.WGAN((2,), 2, "spectral", hidden_dims=(16,), num_classes=8, **more),
    "dcgan": lambda **more: dlkit.GAN(
        (1, 8, 8), 4, network="dcgan", width=4, generator_norm="batch", critic_norm="batch", **more
    ),
    "resnet": lambda **more: dlkit.GAN(
        (1, 8, 8), 4, "hinge", network="resnet", width=4, generator_norm="batch", critic_norm="spectral", num_classes=10, **more
    ),
}  # fmt: skip
every_method = pytest.mark.parametrize("name", METHODS)


def data_for(method, batch_size=128):
    """The modes of a ring for points of the plane, digits for pictures; both with labels."""
    if len(method.data_shape) == 3:
        return Digits(batch_size=batch_size)
    return Gaussians(num_examples=2000, val_size=200, batch_size=batch_size)


def trainer(**arguments):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        **arguments,
    }
    return L.Trainer(**settings)


def fit(method, batch_size=128, **arguments):
    run = trainer(**{"max_epochs": 1, **arguments})
    run.fit(method, datamodule=data_for(method, batch_size))
    return run


def batch_for(method, n=12):
    return next(iter(data_for(method, n).batches("train")))


def parameters(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def gradients(network):
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()]


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class Watched(dlkit.GAN):
    """Keeps what every call of either loss was given, and what the players were like then."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.calls = []

    def critic_loss(self, batch):
        self.calls.append(("critic", batch, parameters(self.critic), gradients(self.critic)))
        return super().critic_loss(batch)

    def generator_loss(self, batch):
        self.calls.append(("generator", batch, parameters(self.critic), gradients(self.critic)))
        return super().generator_loss(batch)


def watched(**more):
    return Watched((2,), 2, hidden_dims=(16,), **more)


class Steps(L.Callback):
    """Keeps the batches, the players and the schedule after each batch, and counts the optimizers' steps."""

    def __init__(self):
        self.batches, self.losses, self.global_steps, self.rates = [], [], [], []
        self.critics, self.generators, self.critic_gradients, self.generator_gradients = [], [], [], []
        self.norms = ([], [])

    def on_train_start(self, trainer, pl_module):
        for optimizer, norms in zip(trainer.optimizers, self.norms, strict=True):
            optimizer.register_step_pre_hook(lambda optimizer, args, kwargs, norms=norms: norms.append(norm(optimizer)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.losses.append(outputs["loss"].item())
        self.global_steps.append(trainer.global_step)
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
        self.critics.append(parameters(pl_module.critic))
        self.generators.append(parameters(pl_module.generator))
        self.critic_gradients.append(gradients(pl_module.critic))
        self.generator_gradients.append(gradients(pl_module.generator))


def norm(optimizer):
    return torch.cat([parameter.grad.flatten() for parameter in optimizer.param_groups[0]["params"]]).norm().item()


# Whose step it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_a_batch_is_k_critic_steps_each_on_its_own_real_examples_and_one_generator_step_on_the_last(critic_steps):
    method, steps = watched(critic_steps=critic_steps), Steps()
    fit(method, 120, max_steps=4, callbacks=[steps])
    assert [len(norms) for norms in steps.norms] == [4 * critic_steps, 4]
    assert [call[0] for call in method.calls] == 4 * (critic_steps * ["critic"] + ["generator"])
    for number, batch in enumerate(steps.batches):
        *critic, generator = method.calls[number * (critic_steps + 1) : (number + 1) * (critic_steps + 1)]
        assert torch.equal(torch.cat([call[1].x for call in critic]), batch.x)
        assert torch.equal(torch.cat([call[1].y for call in critic]), batch.y)
        assert {len(call[1].x) for call in critic} == {120 // critic_steps}
        assert torch.equal(generator[1].x, critic[-1][1].x)


def test_every_critic_step_moves_the_critic_and_the_generators_step_does_not():
    method, steps = watched(critic_steps=3), Steps()
    fit(method, 120, max_steps=2, callbacks=[steps])
    for number in range(2):
        first, second, third, generator = (call[2] for call in method.calls[4 * number : 4 * number + 4])
        for before, after in ((first, second), (second, third), (third, generator)):
            assert not equal(before, after)
        assert equal(generator, steps.critics[number])
        # The critic's gradient is the one of its own last step still.
        assert equal(method.calls[4 * number + 3][3], steps.critic_gradients[number])
    assert not equal(*steps.generators)


@every_method
def test_the_generator_runs_without_gradients_in_the_critics_loss(name):
    method = METHODS[name]()
    method.critic_loss(batch_for(method))[0].backward()
    assert all(gradient is None for gradient in gradients(method.generator))
    for key, parameter in method.critic.named_parameters():
        # Wasserstein's and other differences of logits leave the last bias without a gradient, or with zero.
        assert key == "head.bias" or (parameter.grad is not None and parameter.grad.abs().sum() > 0), key


@every_method
def test_the_critic_is_constant_in_the_generators_step_and_every_parameter_of_the_generator_gets_a_gradient(name):
    method = METHODS[name]()
    with frozen(method.critic):
        method.generator_loss(batch_for(method))[0].backward()
    assert all(gradient is None for gradient in gradients(method.critic))
    assert all(parameter.requires_grad for parameter in method.critic.parameters())
    for key, parameter in method.generator.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0 or key.endswith("bias"), key


def test_what_was_frozen_stays_frozen_and_the_rest_is_restored_also_after_an_exception():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in network.parameters()]
    with pytest.raises(KeyError), frozen(network):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        raise KeyError
    assert [parameter.requires_grad for parameter in network.parameters()] == before


def test_an_exception_in_the_generators_step_leaves_a_critic_that_can_be_trained():
    class Failing(dlkit.GAN):
        def generator_loss(self, batch):
            assert not any(parameter.requires_grad for parameter in self.critic.parameters())
            raise KeyError("stopped")

    method = Failing((2,), 2, hidden_dims=(16,))
    with pytest.raises(KeyError, match="stopped"):
        fit(method)
    assert all(parameter.requires_grad for parameter in method.critic.parameters())


@every_method
def test_a_raw_loop_and_the_trainer_give_the_same_losses(name):
    L.seed_everything(1, verbose=False)
    method, steps = METHODS[name](), Steps()
    fit(method, 300, max_epochs=2, callbacks=[steps])

    L.seed_everything(1, verbose=False)
    method, raw = METHODS[name](), []
    data = data_for(method, 300)
    critic_optimizer, generator_optimizer = method.build_optimizers()
    loader = data.loader("train", shuffle=True)
    for _ in range(2):
        for batch in loader:
            parts = method.cut(data.prepare(batch, training=True), method.critic_steps)
            for part in parts:
                loss, _ = method.critic_loss(part)
                critic_optimizer.zero_grad()
                loss.backward()
                critic_optimizer.step()
                method.after_critic_step()
            with frozen(method.critic):
                generator_loss, _ = method.generator_loss(parts[-1])
                generator_optimizer.zero_grad()
                generator_loss.backward()
                generator_optimizer.step()
            raw.append(loss.item())
    assert raw == steps.losses
    assert len(set(raw)) == len(raw)


# What is counted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_the_global_step_advances_once_a_batch_and_max_steps_counts_batches(critic_steps):
    steps = Steps()
    run = fit(watched(critic_steps=critic_steps), 300, max_epochs=9, max_steps=8, callbacks=[steps])
    assert steps.global_steps == list(range(1, 9))
    assert run.global_step == len(steps.batches) == 8  # of six in an epoch


def test_two_step_sizes_and_two_pairs_of_betas_reach_the_optimizers():
    method = METHODS["gan"](learning_rate=0.1, critic_learning_rate=0.2, betas=(0.3, 0.4), critic_betas=(0.5, 0.6))
    critic, generator = method.build_optimizers()
    assert (critic.defaults["lr"], critic.defaults["betas"]) == (0.2, (0.5, 0.6))
    assert (generator.defaults["lr"], generator.defaults["betas"]) == (0.1, (0.3, 0.4))
    assert [id(p) for p in critic.param_groups[0]["params"]] == [id(p) for p in method.critic.parameters()]
    assert [id(p) for p in generator.param_groups[0]["params"]] == [id(p) for p in method.generator.parameters()]


def test_the_critic_has_the_generators_settings_where_it_has_none_of_its_own():
    for optimizer in METHODS["gan"](learning_rate=0.1, betas=(0.3, 0.4)).build_optimizers():
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.1, (0.3, 0.4))
    critic, generator = METHODS["wgan-gp"](learning_rate=0.1, critic_learning_rate=0.0).build_optimizers()
    assert (critic.defaults["lr"], generator.defaults["lr"]) == (0.0, 0.1)


def test_clipped_weights_are_trained_by_rmsprop_as_the_paper_asks():
    method = METHODS["wgan-clip"](learning_rate=0.1, critic_learning_rate=0.2)
    optimizers = method.build_optimizers()
    assert all(isinstance(optimizer, torch.optim.RMSprop) for optimizer in optimizers)
    assert [optimizer.defaults["lr"] for optimizer in optimizers] == [0.2, 0.1]


def test_the_cosine_schedule_of_both_ends_at_zero_with_the_run_however_many_steps_the_critic_takes():
    steps = Steps()
    method = watched(critic_steps=3, learning_rate=0.1, critic_learning_rate=0.2, schedule="cosine")
    fit(method, 300, max_epochs=2, callbacks=[steps])
    expected = [0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(1, 13)]
    assert [critic for critic, _ in steps.rates] == pytest.approx([0.2 * factor for factor in expected], abs=1e-9)
    assert [generator for _, generator in steps.rates] == pytest.approx([0.1 * factor for factor in expected], abs=1e-9)


@pytest.mark.parametrize("bound", [None, 0.05])
def test_the_gradient_of_each_player_is_clipped_to_the_norm(bound):
    steps = Steps()
    fit(watched(critic_steps=2, gradient_clip=bound), 300, max_steps=3, callbacks=[steps])
    assert [len(norms) for norms in steps.norms] == [6, 3]
    for norms in steps.norms:
        if bound is None:
            assert min(norms) > 0.05
        else:
            assert max(norms) <= bound * (1 + 1e-5)


class Counted:
    """Mixed in: latents in a fixed order, so that each example of a batch of `TOTAL` has its own, in pieces or not; and
    optimizers whose steps are in proportion to the gradient."""

    TOTAL = 48

    def draw(self, n, labels):
        z = torch.randn(self.TOTAL, self.latent_dim, generator=torch.Generator().manual_seed(3))
        at, self.at = getattr(self, "at", 0), (getattr(self, "at", 0) + n) % self.TOTAL
        return self.generator(z[at : at + n], labels)

    def build_optimizers(self):
        return [torch.optim.SGD(network.parameters(), lr=0.1) for network in (self.critic, self.generator)]


class CountedGAN(Counted, dlkit.GAN):
    pass


class CountedWGAN(Counted, dlkit.WGAN):
    def slopes(self, x, generated, labels):
        with torch.random.fork_rng():  # the share of an interpolate is of the example too
            torch.manual_seed(3)
            share = torch.rand(self.TOTAL, 1)[(self.at - len(x)) % self.TOTAL :][: len(x)]
        between = torch.lerp(x, generated, share).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(between, labels).sum(), between, create_graph=True)
        return gradient.norm(dim=1)


ACCUMULATING = {
    "gan": lambda pieces: CountedGAN((2,), 2, hidden_dims=(16,), accumulation_steps=pieces),
    "r3gan": lambda pieces: CountedGAN((2,), 2, "relativistic", "r1+r2", hidden_dims=(16,), accumulation_steps=pieces),
    "conditional": lambda pieces: CountedGAN(
        (2,), 2, "hinge", "r1", hidden_dims=(16,), num_classes=8, gradient_clip=0.1, accumulation_steps=pieces
    ),
    "wgan-gp": lambda pieces: CountedWGAN((2,), 2, hidden_dims=(16,), critic_steps=1, accumulation_steps=pieces),
}


@pytest.mark.parametrize("name", ACCUMULATING)
def test_a_step_taken_in_pieces_is_the_step_taken_at_once(name):
    seen = {}
    for pieces in (1, 2, 3):
        L.seed_everything(1, verbose=False)
        method, steps = ACCUMULATING[name](pieces), Steps()
        run = fit(method, Counted.TOTAL, max_steps=4, callbacks=[steps])
        assert run.global_step == 4
        assert [len(norms) for norms in steps.norms] == [4, 4]
        seen[pieces] = [*steps.critic_gradients[-1], *steps.generator_gradients[-1], *method.parameters()]
    for pieces in (2, 3):
        for expected, found in zip(seen[1], seen[pieces], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_what_is_left_over_of_a_batch_is_dropped():
    method = watched(critic_steps=3)
    parts = method.cut(Examples(torch.arange(11), None), 3)
    assert [part.x.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert all(part.y is None for part in parts)


# The moving average --------------------------------------------------------------------------------------------------


def test_the_average_follows_its_formula_once_a_batch_and_sampling_uses_it():
    method, steps = watched(critic_steps=3, ema_decay=0.3, learning_rate=0.05), Steps()
    average = parameters(method.generator)
    assert equal(average, parameters(method.generator_average))
    fit(method, 120, max_steps=6, callbacks=[steps])
    for update, raw in enumerate(steps.generators):
        decay = min(0.3, (1 + update) / (10 + update))
        average = [decay * kept + (1 - decay) * new for kept, new in zip(average, raw, strict=True)]
    assert method.average_updates == 6
    for expected, found in zip(average, parameters(method.generator_average), strict=True):
        torch.testing.assert_close(found, expected)
    z = torch.randn(5, 2)
    assert torch.equal(method.decode(z), method.generator_average(z))
    assert not torch.allclose(method.decode(z), method.generator(z), atol=1e-3)
    torch.manual_seed(4)
    samples = method.sample(5)
    torch.manual_seed(4)
    assert torch.equal(samples, method.generator_average(torch.randn(5, 2)))


def test_the_averages_buffers_are_the_generators_and_no_optimizer_moves_it():
    method = METHODS["dcgan"](ema_decay=0.9)
    fit(method, 100, max_steps=3)
    buffers = dict(method.generator.named_buffers())
    assert buffers["trunk.2.num_batches_tracked"] > 3  # both players' steps draw
    assert equal(buffers.values(), method.generator_average.buffers())
    assert not equal(parameters(method.generator), parameters(method.generator_average))
    assert not any(parameter.requires_grad for parameter in method.generator_average.parameters())
    optimized = {id(p) for optimizer in method.build_optimizers() for p in optimizer.param_groups[0]["params"]}
    assert not optimized & {id(parameter) for parameter in method.generator_average.parameters()}


def test_without_a_decay_there_is_no_average_and_the_generator_samples():
    method = METHODS["gan"]()
    assert method.generator_average is None
    assert method.trained_generator is method.generator
    assert not [key for key in method.state_dict() if "average" in key]


# What it can do ------------------------------------------------------------------------------------------------------


@every_method
def test_it_samples_decodes_and_discriminates_in_the_datas_units(name):
    method = METHODS[name]()
    assert isinstance(method, Samples) and isinstance(method, Decodes)
    labels = torch.arange(6) if method.num_classes else None
    x = method.sample(6)
    assert x.shape == (6, *method.data_shape)
    assert method.decode(torch.randn(6, method.latent_dim), labels).shape == x.shape
    if len(method.data_shape) == 3:
        assert x.min() >= 0 and x.max() <= 1
        assert torch.equal(method.standardize(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(method.restore(method.standardize(x)), x)
    assert method.discriminate(x, labels).shape == (6,)
    assert method.training and not x.requires_grad


@pytest.mark.parametrize("name", ["gan", "wgan-gp"])
def test_a_model_of_data_of_another_scale_is_the_same_model_in_other_units(name):
    """Of data s times as large, divided by s inside."""
    method, scaled = METHODS[name](), METHODS[name](data_scale=4.0)
    scaled.load_state_dict(method.state_dict())
    batch, z = batch_for(method), torch.randn(5, 2)
    for loss in ("critic_loss", "generator_loss"):
        torch.manual_seed(1)
        expected = getattr(method, loss)(batch)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(getattr(scaled, loss)(batch._replace(x=4 * batch.x))[0], expected)
    torch.testing.assert_close(scaled.decode(z), 4 * method.decode(z))
    torch.testing.assert_close(scaled.discriminate(4 * batch.x), method.discriminate(batch.x))
    torch.testing.assert_close(scaled.pull(4 * batch.x, 4 * batch.x), method.pull(batch.x, batch.x) / 4)
    torch.manual_seed(1)
    expected = method.sample(5)
    torch.manual_seed(1)
    torch.testing.assert_close(scaled.sample(5), 4 * expected)
    if name == "wgan-gp":
        distances = []
        for model, x in ((method, batch.x), (scaled, 4 * batch.x)):
            run = trainer(limit_val_batches=1.0, callbacks=[RandomState()])
            distances.append(run.validate(model, Loader(Examples(x), len(x)), verbose=False)[0]["val/wasserstein"])
        assert distances[1] == pytest.approx(4 * distances[0], rel=1e-5)


@every_method
def test_each_generated_example_is_pulled_where_the_generators_loss_falls(name):
    method = METHODS[name]().eval()  # a spectral norm moves on with every use in training
    batch = batch_for(method)
    generated = batch.x.flip(0)
    labels = batch.y if method.num_classes else None
    x, real = method.standardize(generated).requires_grad_(), method.standardize(batch.x)
    (gradient,) = torch.autograd.grad(method.generator_objective(real, x, labels), x)
    found = method.pull(generated, batch.x, labels)
    assert found.shape == generated.shape and not found.requires_grad
    torch.testing.assert_close(found, -len(x) * gradient / method.unit)
    with pytest.raises(ValueError, match=r"11 real examples beside 12 generated ones: give as many"):
        method.pull(generated, batch.x[1:], labels)


@pytest.mark.parametrize("name", ["conditional", "wgan-spectral", "resnet"])
def test_labels_matter_to_both_players(name):
    method = METHODS[name](ema_decay=0.5)
    fit(method, 300)
    batch = batch_for(method)
    moved = Examples(batch.x, (batch.y + 1) % method.num_classes)
    for loss in (method.critic_loss, method.generator_loss):
        values = []
        for examples in (batch, batch, moved):
            torch.manual_seed(1)
            values.append(loss(examples)[0].item())
        assert values[2] != values[0]
    z = torch.randn(1, method.latent_dim).expand(2, -1)
    first, second = method.decode(z, torch.tensor([0, 1]))
    assert not torch.equal(first, second)
    assert not torch.equal(*method.discriminate(batch.x[:1].expand(2, *batch.x.shape[1:]), torch.tensor([0, 1])))
    assert method.critic.embedding.weight.shape[0] == method.num_classes
    assert method.sample(3, labels=torch.tensor([1, 1, 1])).shape == (3, *method.data_shape)
    torch.manual_seed(2)
    asked = method.sample(400, labels=torch.zeros(400, dtype=torch.int64))
    torch.manual_seed(2)
    assert not torch.equal(asked, method.sample(400))


def test_without_labels_a_conditional_model_samples_every_class_evenly():
    seen = []

    class Watching(dlkit.GAN):
        def build_generator(self):
            network = super().build_generator()
            network.register_forward_hook(lambda module, given, made: seen.append(given[1]))
            return network

    Watching((2,), 2, num_classes=4).sample(4000)
    assert (seen[0].bincount() - 1000).abs().max() < 150


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


@pytest.mark.parametrize("name", ["gan", "gan-r1", "r3gan", "wgan-gp", "wgan-clip", "wgan-spectral", "sngan"])
def test_compilation_takes_both_networks_but_no_critic_that_is_differentiated_twice(name, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: compiled.append(network))
    method = METHODS[name]()
    Compile().setup(trainer(), method, "fit")
    assert compiled == [method.generator] + [method.critic] * (name not in ("gan-r1", "r3gan", "wgan-gp"))


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


# Checkpoints ---------------------------------------------------------------------------------------------------------


@every_method
def test_a_checkpoint_is_self_contained_and_samples_the_same(name, tmp_path):
    method = METHODS[name](ema_decay=0.9)
    run = fit(method, max_steps=3)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    for found in (dlkit.load(tmp_path / "a.ckpt"), type(method).load_from_checkpoint(tmp_path / "a.ckpt")):
        assert type(found) is type(method)
        assert not found.training
        assert dict(found.hparams) == dict(method.hparams)
        assert found.average_updates == 3
        for (key, value), other in zip(method.state_dict().items(), found.state_dict().values(), strict=True):
            assert torch.equal(value, other), key
        drawn = []
        for model in (method, found):
            torch.manual_seed(4)
            drawn.append(model.sample(5))
        assert torch.equal(*drawn)
    for value in method.hparams.values():
        assert isinstance(value, (bool, int, float, str, tuple, list, type(None)))


@pytest.mark.parametrize("name", ["gan", "gan-r1", "r3gan", "wgan-gp", "wgan-clip", "sngan", "resnet", "dcgan"])
def test_bf16_mixed_trains_an_epoch_with_finite_parameters(name):
    method, steps = METHODS[name](), Steps()
    before = parameters(method)
    fit(method, precision="bf16-mixed", limit_val_batches=1, callbacks=[steps])
    assert all(math.isfinite(loss) for loss in steps.losses)
    assert all(parameter.isfinite().all() for parameter in method.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in method.parameters())
    assert not equal(before, parameters(method))


class Stop(L.Callback):
    """Raises after a given step, as a kill would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.step:
            raise KeyError("stopped")


RESUMED = {
    "gan-ema-cosine-batch-norm": lambda: METHODS["dcgan"](ema_decay=0.9, schedule="cosine"),
    "wgan-gp": lambda: METHODS["wgan-gp"](ema_decay=0.9),
    "sngan-cosine": lambda: METHODS["sngan"](critic_steps=3, schedule="cosine", accumulation_steps=2),
}


def resumable(root, build, callbacks=(), resume=False, **arguments):
    L.seed_everything(5, verbose=False)
    method = build()
    run = trainer(
        max_epochs=2, limit_val_batches=1.0, logger=TensorBoardLogger(root, version=0), enable_checkpointing=True,
        callbacks=[Checkpoints(monitor=None, every_n_seconds=0), RandomState(), *callbacks], **arguments,
    )  # fmt: skip
    checkpoint = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    run.fit(
        method, datamodule=data_for(method, 600 if len(method.data_shape) == 1 else 400),
        ckpt_path=checkpoint if resume else None, weights_only=True,
    )  # fmt: skip
    return run, method


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("arguments", [{}, {"max_steps": 5}], ids=str)
def test_resuming_after_any_step_is_exact(tmp_path, name, arguments):
    whole_run, whole = resumable(tmp_path / "whole", RESUMED[name], **arguments)
    steps = arguments.get("max_steps", 6)
    last = torch.load(tmp_path / "whole/lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert whole_run.global_step == last["global_step"] == steps
    for step in range(1, steps):
        root = tmp_path / f"stopped{step}"
        with pytest.raises(KeyError, match="stopped"):
            resumable(root, RESUMED[name], [Stop(step)], **arguments)
        run, resumed = resumable(root, RESUMED[name], resume=True, **arguments)
        assert run.global_step == whole_run.global_step
        assert resumed.average_updates == whole.average_updates
        for (key, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(expected, found), f"{key} differs after stopping at step {step}"
        found = torch.load(root / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
        assert found["lr_schedulers"] == last["lr_schedulers"]
        for state, other in zip(last["optimizer_states"], found["optimizer_states"], strict=True):
            for index, slots in state["state"].items():
                for slot, value in slots.items():
                    assert torch.equal(value, other["state"][index][slot]), (step, index, slot)
        assert torch.equal(*(state["callbacks"]["RandomState"]["processes"][0]["torch"] for state in (last, found)))


def test_how_often_validation_runs_does_not_change_what_is_trained(tmp_path):
    _, often = resumable(tmp_path / "often", RESUMED["gan-ema-cosine-batch-norm"])
    _, once = resumable(tmp_path / "once", RESUMED["gan-ema-cosine-batch-norm"], check_val_every_n_epoch=2)
    assert equal(often.state_dict().values(), once.state_dict().values())


# What is recorded ----------------------------------------------------------------------------------------------------


@every_method
def test_both_losses_their_terms_and_the_gradients_norms_are_recorded_and_validation_moves_nothing(name, tmp_path):
    method = METHODS[name]()
    run = fit(method, logger=CSVLogger(tmp_path), log_every_n_steps=1, limit_val_batches=2, max_epochs=1)
    recorded = set(run.logged_metrics)
    players = {"critic_loss", "generator_loss"}
    assert {f"train/{key}" for key in (*players, "critic_gradient_norm", "generator_gradient_norm")} <= recorded
    assert {f"val/{key}" for key in players} <= recorded
    terms = {key.removeprefix("val/") for key in recorded if key.startswith("val/")} - {"wasserstein", "slope"}
    assert terms - {"penalty"} == players | ({"gap_not_w1"} if name.startswith("wgan") else {"real", "fake"})
    assert ("penalty" in terms) == (name in ("gan-r1", "r3gan", "conditional", "wgan-gp"))
    assert ("val/wasserstein" in recorded) == name.startswith("wgan")
    before = {key: value.clone() for key, value in method.state_dict().items()}
    found = trainer(limit_val_batches=2, inference_mode=True).validate(method, datamodule=data_for(method), verbose=False)
    assert all(math.isfinite(value) for value in found[0].values())
    assert equal(before.values(), method.state_dict().values())


def test_held_out_losses_are_recorded_by_test_too():
    method = METHODS["wgan-gp"]()
    found = trainer(limit_test_batches=2).test(method, datamodule=data_for(method), verbose=False)[0]
    assert {"test/critic_loss", "test/generator_loss", "test/wasserstein"} <= set(found)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_clip_val": 1}, r"trainer\.gradient_clip_val=1 cannot act .* of GAN: use model\.gradient_clip"),
        ({"gradient_clip_val": 0.5}, r"trainer\.gradient_clip_val=0\.5 cannot act .* use model\.gradient_clip"),
        ({"accumulate_grad_batches": 2}, r"trainer\.accumulate_grad_batches=2 cannot act .* use model\.accumulation_steps"),
    ],
    ids=str,
)
def test_a_trainer_that_would_handle_one_optimizer_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(METHODS["gan"](), **arguments)


@pytest.mark.parametrize("arguments", [{"gradient_clip_val": 0}, {"accumulate_grad_batches": 1}, {"precision": 32}], ids=str)
def test_a_trainer_that_asks_for_nothing_is_not_refused(arguments):
    fit(METHODS["gan"](), max_steps=1, **arguments)


def test_a_precision_that_scales_one_loss_is_refused():
    method = METHODS["gan"]()
    stub = SimpleNamespace(gradient_clip_val=None, accumulate_grad_batches=1, precision="16-mixed", strategy=None)
    method._trainer = stub  # a CPU has no 16-mixed
    with pytest.raises(ValueError, match=r"trainer\.precision=16-mixed .* two losses of GAN: use bf16-mixed or 32-true"):
        method.check_trainer()


def test_a_strategy_that_expects_a_gradient_for_every_parameter_is_refused():
    method = METHODS["wgan-gp"]()
    for strategy in ("ddp", "ddp_spawn"):
        method.trainer = run = trainer(strategy=strategy, devices=2)
        with pytest.raises(ValueError, match=r"one player of WGAN rests .*: use ddp_find_unused_parameters_true"):
            method.check_trainer()
    method.trainer = run = trainer(strategy="ddp_find_unused_parameters_true", devices=2)
    method.check_trainer()
    assert run.strategy._ddp_kwargs["find_unused_parameters"]


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


def test_a_batch_normalised_critic_never_sees_real_and_generated_examples_as_one():
    seen = []

    class Watching(WithBatchNorm, dlkit.GAN):
        def build_critic(self):
            network = super().build_critic()
            network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
            return network

    Watching((1, 16, 16), network="dcgan", width=4).critic_loss(Examples(torch.rand(12, 1, 16, 16)))
    assert seen == [12, 12]


def test_a_batch_that_is_smaller_than_its_parts_is_refused():
    with pytest.raises(ValueError, match=r"a batch of 5 examples cannot be cut into 6 parts .*: raise --data\.batch_size"):
        fit(METHODS["gan"](critic_steps=6), 5)
    with pytest.raises(ValueError, match=r"a batch of 2 examples cannot be cut into 3 parts"):
        fit(METHODS["gan"](critic_steps=2, accumulation_steps=3), 4)


def test_examples_of_another_shape_are_refused():
    for name in ("dcgan", "resnet"):
        method = METHODS[name]()
        batch = Examples(torch.rand(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64))
        for function, given in ((method.critic_loss, batch), (method.generator_loss, batch), (method.discriminate, batch.x)):
            with pytest.raises(ValueError, match=r"built for examples of shape \(1, 8, 8\) and was given \(1, 9, 9\)"):
                function(given)


def test_labels_that_a_model_cannot_use_are_refused():
    plain, conditional = METHODS["gan"](), METHODS["conditional"]()
    x, z = torch.randn(3, 2), torch.randn(3, 2)
    labels = torch.zeros(3, dtype=torch.int64)
    for call in (lambda: plain.sample(3, labels), lambda: plain.decode(z, labels), lambda: plain.discriminate(x, labels)):
        with pytest.raises(ValueError, match=r"this GAN is not conditional and takes no labels: leave them out"):
            call()
    for wrong, message in (
        (labels[:2], r"2 labels for 3 examples: give one for each"),
        (labels + 8, r"label 8 is outside 0\.\.7: set num_classes"),
        (labels - 1, r"label -1 is outside 0\.\.7"),
        (labels.float(), r"GAN was given labels of shape \(3,\), torch\.float32: give a vector of int64"),
    ):
        for function in (conditional.decode, conditional.discriminate):
            with pytest.raises(ValueError, match=message):
                function(x, wrong)
        with pytest.raises(ValueError, match=message):
            conditional.sample(3, wrong)
    for function in (conditional.decode, conditional.discriminate):
        with pytest.raises(ValueError, match=r"this GAN is conditional: give a label for each of the 3 examples"):
            function(x)


def test_data_without_the_labels_that_a_conditional_model_needs_is_refused():
    method, x = METHODS["conditional"](), torch.randn(3, 2)
    for loss in (method.critic_loss, method.generator_loss):
        with pytest.raises(ValueError, match=r"GAN needs labels and the data has none"):
            loss(Examples(x, None))
        with pytest.raises(ValueError, match=r"label 9 is outside 0\.\.7: set num_classes"):
            loss(Examples(x, torch.tensor([0, 1, 9])))


def test_the_single_loss_of_a_method_with_two_players_is_refused():
    with pytest.raises(TypeError, match=r"GAN has two players .*: call critic_loss\(batch\) or generator_loss\(batch\)"):
        METHODS["gan"]().loss(None)
    for loss in (dlkit.AdversarialMethod.critic_loss, dlkit.AdversarialMethod.generator_loss):
        with pytest.raises(NotImplementedError, match=r"AdversarialMethod has to define"):
            loss(dlkit.AdversarialMethod(), None)


# Runs that go wrong --------------------------------------------------------------------------------------------------


def kept(root, name):
    return torch.load(next(root.rglob(f"{name}.ckpt")), weights_only=True)


def test_a_run_whose_samples_are_all_alike_stops_with_the_last_good_checkpoint_kept(tmp_path):
    class Collapsed(dlkit.GAN):
        def on_validation_start(self):
            if self.current_epoch == 1:
                for parameter in self.generator.trunk[-1].parameters():
                    parameter.data.zero_()

    method = Collapsed((2,), 2, hidden_dims=(16,))
    with pytest.raises(dlkit.CollapseError, match=r"all samples are alike at step 12 .*last good checkpoint is kept: use"):
        fit(
            method, 300, max_epochs=3, limit_val_batches=1.0, logger=CSVLogger(tmp_path), enable_checkpointing=True,
            callbacks=[Checkpoints(monitor=None)],
        )  # fmt: skip
    saved = kept(tmp_path, "best")
    assert saved["global_step"] == 6
    method.load_state_dict(saved["state_dict"])
    assert method.sample(64).std(0).mean() > 1e-2


def test_samples_of_the_average_alone_are_judged():
    class Collapsed(dlkit.GAN):
        def on_validation_start(self):
            for parameter in self.generator.parameters():
                parameter.data.zero_()

    fit(Collapsed((2,), 2, hidden_dims=(16,), ema_decay=0.99), limit_val_batches=1.0, limit_train_batches=2)
    with pytest.raises(dlkit.CollapseError):
        fit(Collapsed((2,), 2, hidden_dims=(16,)), limit_val_batches=1.0, limit_train_batches=2)


class Broken(dlkit.GAN):
    """Its term `odd` turns NaN at a given step, in one player's loss."""

    def __init__(self, player, at):
        super().__init__((2,), 2, hidden_dims=(16,), critic_steps=2)
        self.player, self.at = player, at

    def odd(self, player, loss, terms):
        odd = loss * float("nan") if self.player == player and self.global_step == self.at else loss
        return loss + odd, {**terms, "odd": odd}

    def critic_loss(self, batch):
        return self.odd("critic", *super().critic_loss(batch))

    def generator_loss(self, batch):
        return self.odd("generator", *super().generator_loss(batch))


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_a_non_finite_loss_of_either_player_names_step_and_term_and_keeps_the_last_good_checkpoint(tmp_path, player):
    with pytest.raises(dlkit.NonFiniteError, match=r"term 'odd' .* at step 3: .*last good checkpoint is kept"):
        fit(
            Broken(player, 3), 300, logger=CSVLogger(tmp_path), enable_checkpointing=True,
            callbacks=[Checkpoints(monitor=None, every_n_seconds=0)],
        )  # fmt: skip
    saved = kept(tmp_path, "last")
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_an_infinite_step_size_stops_at_the_term_that_it_breaks():
    with pytest.raises(dlkit.NonFiniteError, match=r"term 'fake' of the loss is not finite at step 1"):
        fit(METHODS["gan"](learning_rate=float("inf"), critic_learning_rate=1e-4))
    with pytest.raises(dlkit.NonFiniteError, match=r"term '\w*loss' of the loss is not finite at step 0"):
        fit(METHODS["gan"](learning_rate=1e-4, critic_learning_rate=float("inf")))


# What a fresh reader broke -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [torch.full((4, 1, 8, 8), 255.0), torch.full((4, 1, 8, 8), -1.0)], ids=["bytes", "centred"])
def test_pictures_of_another_range_are_refused(x):
    method = dlkit.GAN((1, 8, 8), 4, network="dcgan", width=4)
    with pytest.raises(ValueError, match=r"pictures with values from .* bring them into \[0, 1\]"):
        method.critic_loss(Examples(x))


def test_more_classes_than_the_data_has_are_refused():
    with pytest.raises(ValueError, match="num_classes=9 and the data has 8"):
        fit(dlkit.GAN((2,), 2, hidden_dims=(8,), num_classes=9))


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


def test_no_sample_cannot_be_asked_for():
    with pytest.raises(ValueError, match="n=0: ask for at least one sample"):
        dlkit.GAN((2,), 2, hidden_dims=(8,)).sample(0)


def test_clipping_sees_every_group_of_an_optimizer():
    class Grouped(dlkit.GAN):
        norms = ()

        def build_optimizers(self):
            trunk = [{"params": self.critic.trunk.parameters()}, {"params": self.critic.head.parameters()}]
            return [torch.optim.SGD(trunk, lr=0.1), torch.optim.SGD(self.generator.parameters(), lr=0.1)]

        def on_before_optimizer_step(self, optimizer):
            gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
            self.norms = (*self.norms, nn.utils.get_total_norm(gradients).item())

    method = Grouped((2,), 2, hidden_dims=(8,), gradient_clip=1e-3)
    fit(method, max_steps=2)
    assert len(method.norms) == 4
    assert max(method.norms) <= 1e-3 * (1 + 1e-4)


def test_a_last_batch_of_one_example_does_not_hide_a_collapse():
    class Collapsed(dlkit.GAN):
        def on_validation_start(self):
            for parameter in self.generator.parameters():
                parameter.data.zero_()

    data = Gaussians(num_examples=2000, val_size=129, batch_size=128)
    with pytest.raises(dlkit.CollapseError):
        trainer(max_epochs=1, limit_val_batches=1.0).fit(Collapsed((2,), 2, hidden_dims=(8,)), datamodule=data)


def test_a_run_resumed_from_samples_that_are_hardly_apart_knows_how_far_they_were(tmp_path):
    method = dlkit.GAN((2,), 2, hidden_dims=(8,))
    fit(method, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[Checkpoints(every_n_seconds=0)])
    path = next(tmp_path.rglob("last.ckpt"))
    assert dlkit.GAN.load_from_checkpoint(path).start_spread == method.start_spread > 0


def test_a_wgan_takes_betas_for_each_player():
    critic, generator = dlkit.WGAN((2,), 2, betas=(0.1, 0.9), critic_betas=(0.2, 0.8)).build_optimizers()
    assert critic.param_groups[0]["betas"] == (0.2, 0.8)
    assert generator.param_groups[0]["betas"] == (0.1, 0.9)
