"""The moving average: its formula, what sees it, and what a checkpoint holds."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

import dlkit
from datamodules import Digits
from dlkit.callbacks import Checkpoints, ExponentialMovingAverage, RandomState


class Watch(L.Callback):
    """Keeps the raw weights after each step, and the weights that validation saw."""

    def __init__(self):
        self.raw, self.validated = [], []

    def on_train_start(self, trainer, pl_module):
        self.raw.append(pl_module.encoder.head.weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.raw.append(pl_module.encoder.head.weight.detach().clone())

    def on_validation_epoch_end(self, trainer, pl_module):
        self.validated.append(pl_module.encoder.head.weight.detach().clone())


def test_validation_checkpoint_and_result_hold_the_average_and_training_goes_on_raw(tmp_path):
    method, watch = dlkit.Autoencoder((1, 8, 8), 2, "linear", learning_rate=0.05), Watch()
    callbacks = [ExponentialMovingAverage(0.6), Checkpoints(every_n_seconds=0), RandomState(), watch]
    trainer = L.Trainer(
        max_epochs=2, logger=CSVLogger(tmp_path), callbacks=callbacks, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(method, datamodule=Digits(batch_size=400))
    average, averages = watch.raw[0], []
    for update, raw in enumerate(watch.raw[1:]):
        decay = min(0.6, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * raw
        averages.append(average)
    torch.testing.assert_close(watch.validated[0], averages[2])
    torch.testing.assert_close(watch.validated[1], averages[5])
    torch.testing.assert_close(method.encoder.head.weight.detach(), averages[5])
    for name in ("best", "last"):
        saved = torch.load(next(tmp_path.rglob(f"{name}.ckpt")), weights_only=True)
        step = saved["global_step"] - 1
        torch.testing.assert_close(saved["state_dict"]["encoder.head.weight"], averages[step])
        assert torch.equal(saved["ema"]["raw"]["encoder.head.weight"], watch.raw[step + 1])
    assert not torch.allclose(averages[5], watch.raw[-1], atol=1e-3)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay} .* outside"):
        ExponentialMovingAverage(decay)


def test_a_run_that_had_an_average_does_not_resume_without_it(tmp_path):
    def run(epochs, callbacks, path=None):
        trainer = L.Trainer(
            max_epochs=epochs, logger=False, default_root_dir=tmp_path, callbacks=[*callbacks, Checkpoints(every_n_seconds=0)],
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(dlkit.Autoencoder((1, 8, 8), 2, "linear"), datamodule=Digits(batch_size=400), ckpt_path=path)

    run(1, [ExponentialMovingAverage(0.6)])
    with pytest.raises(ValueError, match=r"put .*ExponentialMovingAverage back"):
        run(2, [], next(tmp_path.rglob("last.ckpt")))


class Shared(dlkit.Classifier):
    """Its last layer has a second name."""

    def __init__(self):
        super().__init__((1, 8, 8), 10, "logistic", learning_rate=0.05)
        self.again = self.network.head


def train(method, folder, epochs, callbacks=(), checkpoint=None, **settings):
    callbacks = [ExponentialMovingAverage(0.6), Checkpoints(every_n_seconds=0), RandomState(), *callbacks]
    trainer = L.Trainer(
        max_epochs=epochs, logger=CSVLogger(folder), callbacks=callbacks, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu", **settings,
    )  # fmt: skip
    trainer.fit(method, datamodule=Digits(batch_size=400), ckpt_path=checkpoint, weights_only=True)
    return trainer


def test_a_tied_parameter_is_averaged_under_each_of_its_names(tmp_path):
    method = Shared()
    train(method, tmp_path, 2)
    saved = torch.load(next(tmp_path.glob("**/last.ckpt")), weights_only=True)
    first, second = "network.head.weight", "again.weight"
    assert torch.equal(saved["state_dict"][first], method.network.head.weight)  # which is the average, training being over
    for found in (saved["state_dict"], saved["ema"]["raw"]):
        assert torch.equal(found[first], found[second])
    assert not torch.equal(saved["state_dict"][first], saved["ema"]["raw"][first])
    loaded = Shared()
    loaded.load_state_dict(saved["state_dict"])
    assert torch.equal(loaded.network.head.weight, method.network.head.weight)


def test_an_average_resumes_in_the_precision_of_its_run(tmp_path):
    method = dlkit.Classifier((1, 8, 8), 10, "logistic")
    train(method, tmp_path / "a", 1, precision="bf16-true")
    resumed = dlkit.Classifier((1, 8, 8), 10, "logistic")
    train(resumed, tmp_path / "b", 2, checkpoint=next(tmp_path.glob("a/**/last.ckpt")), precision="bf16-true")
    assert resumed.network.head.weight.dtype == torch.bfloat16
    assert bool(resumed.network.head.weight.isfinite().all())


def test_validation_after_training_measures_the_average_and_leaves_it(tmp_path):
    method = dlkit.Classifier((1, 8, 8), 10, "logistic", learning_rate=0.05)
    trainer = train(method, tmp_path, 1)
    held = method.network.head.weight.detach().clone()
    first = trainer.validate(method, datamodule=Digits(batch_size=400), verbose=False)
    assert torch.equal(method.network.head.weight, held)
    assert first == trainer.validate(method, datamodule=Digits(batch_size=400), verbose=False)
