"""Two players: whose step it is, what is counted, what is frozen, and that a run can be repeated and resumed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import Precision
from torch import nn

import dlkit
from dlkit.adversarial.method import frozen
from dlkit.batches import Examples
from dlkit.callbacks import Checkpoints, RandomState

from .players import (
    METHODS,
    Steps,
    batch_for,
    data_for,
    equal,
    every_method,
    fit,
    gradients,
    parameters,
    trainer,
)


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


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_wholly_in_another_precision(name, precision):
    method, steps = METHODS[name](), Steps()
    fit(method, precision=precision, limit_val_batches=1, callbacks=[steps])
    assert all(math.isfinite(loss) for loss in steps.losses)
    method.to(torch.float64 if precision == "64-true" else torch.bfloat16)
    assert method.sample(3).isfinite().all()
    assert method.discriminate(
        torch.rand(3, *method.data_shape), method.num_classes and torch.zeros(3, dtype=torch.int64)
    ).shape == (3,)


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


def test_a_batch_that_is_smaller_than_its_parts_is_refused():
    with pytest.raises(ValueError, match=r"a batch of 5 examples cannot be cut into 6 parts .*: raise --data\.batch_size"):
        fit(METHODS["gan"](critic_steps=6), 5)
    with pytest.raises(ValueError, match=r"a batch of 2 examples cannot be cut into 3 parts"):
        fit(METHODS["gan"](critic_steps=2, accumulation_steps=3), 4)


def test_the_single_loss_of_a_method_with_two_players_is_refused():
    with pytest.raises(TypeError, match=r"GAN has two players .*: call critic_loss\(batch\) or generator_loss\(batch\)"):
        METHODS["gan"]().loss(None)
    for loss in (dlkit.AdversarialMethod.critic_loss, dlkit.AdversarialMethod.generator_loss):
        with pytest.raises(NotImplementedError, match=r"AdversarialMethod has to define"):
            loss(dlkit.AdversarialMethod(), None)


class Listener(L.Callback):
    heard = 0

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.heard += 1


class CountingPrecision(Precision):
    heard = 0

    def optimizer_step(self, *arguments, **named):
        self.heard += 1
        return super().optimizer_step(*arguments, **named)


def test_who_wants_to_hear_of_each_players_steps_does_and_changes_nothing():
    def run(**arguments):
        torch.manual_seed(0)
        method = dlkit.GAN((2,), 2, hidden_dims=(8,), critic_steps=2)
        fit(method, max_steps=3, **arguments)
        return method

    alone, listener, precision = run(), Listener(), CountingPrecision()
    assert not alone.step_is_watched
    for method in (run(callbacks=[listener]), run(plugins=[precision])):
        assert method.step_is_watched
        assert equal(method.state_dict().values(), alone.state_dict().values())
    assert listener.heard == precision.heard == 3 * (2 + 1)


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
