"""A run that was stopped and resumed ends with the parameters of one that was not, bit for bit."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

import dlkit
from datamodules import Digits
from dlkit.callbacks import Checkpoints, ExponentialMovingAverage, FinalValidation, RandomState

STEPS_AN_EPOCH = 3
EPOCHS = 3


class Stop(L.Callback):
    """Raises after a given step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.step:
            raise KeyError("stopped")


class Seen(L.Callback):
    """Counts the validations and epoch ends."""

    def __init__(self) -> None:
        self.validations, self.epoch_ends = [], []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.validations.append((trainer.current_epoch, trainer.global_step, float(trainer.callback_metrics["val/loss"])))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epoch_ends.append(trainer.current_epoch)


METHODS = {
    "vae": lambda: dlkit.VAE((1, 8, 8), 2, hidden_dims=(16,), kl_warmup=6, schedule="cosine"),
    "classifier": lambda: dlkit.Classifier((1, 8, 8), 10, "cnn", width=4, dropout=0.5),
}


def train(root, build, callbacks=(), resume=False, ema=False, **arguments):
    L.seed_everything(5, verbose=False)
    method, seen = build(), Seen()
    averages = [ExponentialMovingAverage(0.9)] if ema else []
    trainer = L.Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(root, version=0),
        callbacks=[*averages, Checkpoints(every_n_seconds=0), RandomState(), seen, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": EPOCHS, **arguments},
    )
    checkpoint = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    trainer.fit(
        method,
        datamodule=Digits(batch_size=400, val_size=100, binarize="dynamic"),
        ckpt_path=checkpoint if resume else None,
        weights_only=True,
    )
    return trainer, method, seen


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ema", [False, True])
def test_resuming_after_any_step_is_exact(tmp_path, name, ema):
    whole_trainer, whole, whole_seen = train(tmp_path / "whole", METHODS[name], ema=ema)
    for step in range(1, STEPS_AN_EPOCH * EPOCHS):
        root = tmp_path / f"stopped{step}"
        with pytest.raises(KeyError, match="stopped"):
            train(root, METHODS[name], [Stop(step)], ema=ema)
        trainer, resumed, seen = train(root, METHODS[name], resume=True, ema=ema)
        assert trainer.global_step == whole_trainer.global_step == STEPS_AN_EPOCH * EPOCHS
        assert trainer.current_epoch == whole_trainer.current_epoch
        for (key, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(expected, found), f"{key} differs after stopping at step {step}"
        assert seen.validations == whole_seen.validations[-len(seen.validations) :]
        assert seen.validations, step


def test_without_the_random_state_the_noise_of_a_resumed_run_differs(tmp_path, monkeypatch):
    """The control: the equality above is not for want of noise."""
    _, whole, _ = train(tmp_path / "whole", METHODS["vae"])
    monkeypatch.setattr(RandomState, "load_state_dict", lambda self, state: None)
    with pytest.raises(KeyError, match="stopped"):
        train(tmp_path / "stopped", METHODS["vae"], [Stop(4)])
    _, resumed, _ = train(tmp_path / "stopped", METHODS["vae"], resume=True)
    assert not torch.equal(whole.encoder.head[0].weight, resumed.encoder.head[0].weight)


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit_train_batches": 2},
        # Lightning takes every loader but PyTorch's for one that shuffles.
        pytest.param({"overfit_batches": 2}, marks=pytest.mark.filterwarnings("ignore:You requested to overfit")),
        {"val_check_interval": 1},
        {"accumulate_grad_batches": 2},
        {"max_steps": 8},
        {"max_steps": 5, "accumulate_grad_batches": 2, "max_epochs": -1},
    ],
    ids=str,
)
def test_resuming_is_exact_however_the_trainer_counts(tmp_path, arguments):
    whole_trainer, whole, _ = train(tmp_path / "whole", METHODS["vae"], **arguments)
    for batch in range(2, whole_trainer.fit_loop.epoch_loop.total_batch_idx + 1):
        root = tmp_path / f"stopped{batch}"
        with pytest.raises(KeyError, match="stopped"):
            train(root, METHODS["vae"], [Stop(batch)], **arguments)
        _, resumed, _ = train(root, METHODS["vae"], resume=True, **arguments)
        for (key, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(expected, found), f"{key} differs after stopping at batch {batch}"


SHORT = {"max_steps": 4, "max_epochs": -1}  # a step into the second epoch


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (SHORT, {"max_epochs": 3}),
        (SHORT, {"max_steps": 8, "max_epochs": -1}),
        (SHORT, {"max_steps": 8, "max_epochs": -1, "check_val_every_n_epoch": 2}),
        ({"max_steps": 3, "max_epochs": -1}, {"max_steps": 8, "max_epochs": -1}),  # at the end of an epoch
        ({"max_steps": 4, "max_epochs": -1, "accumulate_grad_batches": 2}, {"max_epochs": 3, "accumulate_grad_batches": 2}),
        ({"max_epochs": 2}, {"max_epochs": 3}),
    ],
    ids=str,
)
def test_a_run_that_ended_goes_on_as_if_it_had_been_longer(tmp_path, first, then):
    _, whole, seen = train(tmp_path / "whole", METHODS["classifier"], **then)
    train(tmp_path / "short", METHODS["classifier"], callbacks=[FinalValidation()], **first)
    _, longer, more = train(tmp_path / "short", METHODS["classifier"], resume=True, **then)
    for (key, expected), found in zip(whole.state_dict().items(), longer.state_dict().values(), strict=True):
        assert torch.equal(expected, found), key
    assert more.validations == seen.validations[-len(more.validations) :]


class StopInValidation(L.Callback):
    """Raises in the validation after a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == self.step:
            raise KeyError("stopped")


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        (4, {"val_check_interval": 2, "check_val_every_n_epoch": None}),
        (5, {"val_check_interval": 2}),
        (9, {"val_check_interval": 2, "min_epochs": 3}),
        (9, {"val_check_interval": 2, "min_steps": 50}),
        (6, {}),
        (5, {"max_steps": 5, "max_epochs": -1}),
        (6, {"max_steps": 8, "max_epochs": -1}),
    ],
    ids=str,
)
def test_a_validation_that_a_kill_interrupted_is_repeated(tmp_path, step, arguments):
    _, _, whole = train(tmp_path / "whole", METHODS["vae"], [FinalValidation()], **arguments)
    with pytest.raises(KeyError, match="stopped"):
        train(tmp_path / "stopped", METHODS["vae"], [FinalValidation(), StopInValidation(step)], **arguments)
    _, _, resumed = train(tmp_path / "stopped", METHODS["vae"], [FinalValidation()], resume=True, **arguments)
    assert step in [validation[1] for validation in resumed.validations]
    assert resumed.validations == whole.validations[-len(resumed.validations) :]


def test_a_trainer_that_was_made_to_validate_its_end_keeps_its_settings(tmp_path):
    settings = {"min_epochs": 3, "min_steps": 50, "check_val_every_n_epoch": 2}
    trainer, _, seen = train(tmp_path, METHODS["vae"], [FinalValidation()], val_check_interval=2, **settings)
    assert seen.validations[-1][1] == STEPS_AN_EPOCH * EPOCHS
    assert {name: getattr(trainer, name) for name in settings} == settings


def test_a_trainer_that_fails_in_its_last_epoch_keeps_its_settings(tmp_path):
    trainers = []

    class Fail(Stop):
        def on_train_batch_start(self, trainer, *rest):
            trainers.append(trainer)
            super().on_train_batch_start(trainer, *rest)

    with pytest.raises(KeyError, match="stopped"):
        train(tmp_path, METHODS["vae"], [FinalValidation(), Fail(7)], check_val_every_n_epoch=2)
    assert trainers[0].check_val_every_n_epoch == 2


class Listener(L.Callback):
    """Saves after each step, before `Checkpoints` hears of it, which Lightning tells last."""

    def __init__(self) -> None:
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loop = trainer._checkpoint_connector.dump_checkpoint()["loops"]["fit_loop"]
        self.steps.append(loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"])


def test_another_callback_s_checkpoint_of_the_step_after_a_validation_is_of_that_step(tmp_path):
    listener = Listener()
    train(tmp_path, METHODS["vae"], [listener], max_steps=8, max_epochs=-1)
    assert listener.steps == list(range(1, 9))


def test_a_run_that_goes_on_by_another_metric_has_no_score_of_it_yet(tmp_path):
    trainer, *_ = train(tmp_path, METHODS["classifier"])
    state = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)).state_dict()
    for other, expected in ((Checkpoints(), state["best_score"]), (Checkpoints("val/accuracy", "max"), None)):
        other.load_state_dict(state)
        assert other.best_score == expected


def test_how_often_validation_runs_does_not_change_what_is_trained(tmp_path):
    _, often, _ = train(tmp_path / "often", METHODS["vae"])
    _, once, _ = train(tmp_path / "once", METHODS["vae"], check_val_every_n_epoch=3)
    assert torch.equal(often.encoder.head[0].weight, once.encoder.head[0].weight)
