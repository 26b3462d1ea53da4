"""What every method shares: the steps, the recording, the watch for non-finite losses, the checkpoint's identity."""

from __future__ import annotations

import csv
import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset
from training import Losses, trainer

import dlkit
from datamodules import Digits
from dlkit.batches import Draws, Examples
from dlkit.callbacks import Checkpoints, RandomState
from dlkit.method import Method
from dlkit.protocols import Interpolates

METHODS = {
    "classifier": lambda: dlkit.Classifier((1, 8, 8), 10, hidden_dims=(16,)),
    "classifier-cnn": lambda: dlkit.Classifier((1, 8, 8), 10, "cnn", width=4, dropout=0.2),
    "autoencoder": lambda: dlkit.Autoencoder((1, 8, 8), 4, hidden_dims=(16,)),
    "autoencoder-conv": lambda: dlkit.Autoencoder((1, 8, 8), 4, "conv", hidden_dims=(16,), width=4),
    "denoising": lambda: dlkit.DenoisingAutoencoder((1, 8, 8), 4, hidden_dims=(16,), corruption="mask", noise=0.3),
    "vae": lambda: dlkit.VAE((1, 8, 8), 4, hidden_dims=(16,)),
    "iwae": lambda: dlkit.VAE((1, 8, 8), 4, hidden_dims=(16,), importance_samples=3),
    "gaussian-vae": lambda: dlkit.VAE((1, 8, 8), 4, hidden_dims=(16,), likelihood="gaussian", sigma="learned-per-pixel"),
    "conditional-vae": lambda: dlkit.VAE((1, 8, 8), 4, hidden_dims=(16,), num_classes=10),
    "spline-flow": lambda: dlkit.Flow((1, 8, 8), "spline", num_layers=2, hidden_dims=(16,), num_levels=17),
    "maf": lambda: dlkit.Flow((1, 8, 8), "maf", num_layers=2, hidden_dims=(70,), num_levels=17, num_classes=10),
    "glow": lambda: dlkit.Flow((1, 8, 8), "glow", num_layers=2, hidden_dims=(8,), num_levels=17),
    "categorical-vae": lambda: dlkit.VAE((1, 8, 8), 4, hidden_dims=(16,), likelihood="categorical", num_levels=17),
}
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_a_raw_loop_and_the_trainer_give_the_same_losses(name):
    L.seed_everything(1, verbose=False)
    method, seen = METHODS[name](), Losses()
    trainer(max_epochs=2, limit_val_batches=0, callbacks=[seen]).fit(method, datamodule=Digits(batch_size=300))

    L.seed_everything(1, verbose=False)
    method, data, raw = METHODS[name](), Digits(batch_size=300), []
    optimizer = method.configure_optimizers()
    loader = data.loader("train", shuffle=True)
    for _ in range(2):
        for batch in loader:
            loss, _ = method.loss(data.prepare(batch, training=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            raw.append(loss.item())
    assert raw == seen.values
    assert raw[-1] < raw[0]


@every_method
def test_one_batch_is_overfitted(name):
    L.seed_everything(1, verbose=False)
    method, batch = METHODS[name](), next(iter(Digits(batch_size=32).batches("train")))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    first = method.loss(batch)[0].item()
    for _ in range(300):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 0.3 * abs(first)


@every_method
def test_a_checkpoint_is_self_contained_and_gives_the_same_method(name, tmp_path):
    method = METHODS[name]()
    run = trainer(max_epochs=1, limit_val_batches=0, limit_train_batches=1)
    run.fit(method, datamodule=Digits(batch_size=64))
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    for found in (dlkit.load(tmp_path / "a.ckpt"), type(method).load_from_checkpoint(tmp_path / "a.ckpt")):
        assert type(found) is type(method)
        assert not found.training
        assert dict(found.hparams) == dict(method.hparams)
        for (key, value), other in zip(method.state_dict().items(), found.state_dict().values(), strict=True):
            assert torch.equal(value, other), key


@every_method
def test_bf16_mixed_trains_with_finite_losses(name):
    seen = Losses()
    method = METHODS[name]()
    trainer(max_epochs=6, limit_val_batches=1, precision="bf16-mixed", callbacks=[seen]).fit(method, datamodule=Digits())
    assert sum(seen.values[-9:]) < sum(seen.values[:9])


@every_method
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_method_trains_and_is_tested_wholly_in_another_precision(name, precision):
    seen = Losses()
    method, run = (
        METHODS[name](),
        trainer(max_epochs=6, limit_val_batches=1, limit_test_batches=1, precision=precision, callbacks=[seen]),
    )
    run.fit(method, datamodule=Digits())
    assert sum(seen.values[-9:]) < sum(seen.values[:9])
    (found,) = run.test(method, datamodule=Digits(), verbose=False)
    assert all(math.isfinite(value) for value in found.values())
    # What a user gives it is in single precision, as data is.
    assert method.to(torch.float64 if precision == "64-true" else torch.bfloat16).dtype != torch.float32
    if isinstance(method, Interpolates):
        x = next(iter(Digits(batch_size=3).batches("test"))).x
        assert (
            method.reconstruct(x, torch.arange(3)).shape == method.interpolate(x, x, 2, torch.arange(3))[:, 0].shape == x.shape
        )


@every_method
def test_a_loss_is_in_single_precision_where_the_networks_are_not(name):
    method = METHODS[name]().to(torch.bfloat16)
    x, y = next(iter(Digits(batch_size=8).batches("train")))
    loss, terms = method.loss(Examples(x.bfloat16(), y))
    assert loss.dtype == torch.float32
    assert {term.dtype for term in terms.values()} <= {torch.float32}


def test_a_method_inside_another_module_knows_the_precision_that_it_was_given_there():
    method = METHODS["autoencoder"]()
    torch.nn.ModuleList([method]).double()
    assert method.dtype == torch.float64
    assert method.reconstruct(torch.rand(2, 1, 8, 8)).dtype == torch.float64


@pytest.mark.parametrize("labels", [False, True])
def test_pytorch_s_loader_of_tensors_is_read_as_examples(labels):
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    loader = DataLoader(TensorDataset(x, y) if labels else TensorDataset(x), batch_size=8)
    seen = Losses()
    trainer(max_epochs=2, callbacks=[seen], log_every_n_steps=1).fit(METHODS["autoencoder"](), loader, loader)
    assert seen.values[1] < seen.values[0]


def test_a_loss_of_one_s_own_reads_what_it_likes():
    class OfPairs(dlkit.Autoencoder):
        def loss(self, batch):
            x, _ = batch
            return super().loss(Examples(x))

    class FromDict(dlkit.Autoencoder):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return Examples(batch["x"])

    x = torch.rand(8, 1, 8, 8)
    pairs, draws = [x, x], Draws(torch.zeros(8, dtype=torch.int64))
    of_pairs = OfPairs((1, 8, 8), 4)
    assert of_pairs.as_read(draws) is draws and of_pairs.as_read([x]) == [x]
    loss, _ = of_pairs.loss(of_pairs.as_read(pairs))
    assert loss.isfinite()
    for method in (dlkit.Autoencoder((1, 8, 8), 4), dlkit.DenoisingAutoencoder((1, 8, 8), 4)):
        assert isinstance(method.as_read(pairs), Examples)
        for batch in (draws, {"x": x}, x):
            given = type(batch).__name__
            with pytest.raises(ValueError, match=rf"utoencoder learns from batches of Examples and was given {given}: choose"):
                method.as_read(batch)
    seen, loader = Losses(), DataLoader([{"x": x[0]}] * 8, batch_size=8)
    trainer(max_epochs=1, callbacks=[seen], log_every_n_steps=1).fit(FromDict((1, 8, 8), 4), loader, loader)
    assert len(seen.values) == 1
    with torch.inference_mode():
        (predicted,) = trainer().predict(dlkit.Autoencoder((1, 8, 8), 4), DataLoader(x, batch_size=8))
    assert predicted.shape == x.shape


def test_gradients_are_clipped_in_mixed_precision():
    method = METHODS["vae"]()
    before = [parameter.detach().clone() for parameter in method.parameters()]
    run = trainer(max_steps=1, limit_val_batches=0, precision="bf16-mixed", gradient_clip_val=1e-20)
    run.fit(method, datamodule=Digits())
    # Clipped to nothing, Adam's steps are nothing beside its epsilon.
    for parameter, old in zip(method.parameters(), before, strict=True):
        assert torch.allclose(parameter, old, atol=1e-9)


@every_method
def test_hyperparameters_are_plain_data(name):
    for value in METHODS[name]().hparams.values():
        assert isinstance(value, (bool, int, float, str, tuple, list, type(None)))


@every_method
def test_every_parameter_gets_a_gradient(name):
    method, batch = METHODS[name](), next(iter(Digits(batch_size=32).batches("train")))
    optimizer = method.configure_optimizers()
    for _ in range(2):  # a network whose last layer begins at zero has no other gradients in the first step
        optimizer.zero_grad()
        method.loss(batch)[0].backward()
        optimizer.step()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


class Broken(dlkit.Autoencoder):
    """Its term `odd` turns NaN at a given step."""

    def __init__(self, data_shape: tuple[int, ...] = (1, 8, 8), at: int = 5):
        super().__init__(data_shape, 2, "linear")
        self.at = at

    def loss(self, batch):
        loss, terms = super().loss(batch)
        odd = loss * float("nan") if self.training and self.global_step == self.at else loss
        return loss + odd, {**terms, "odd": odd}


def test_a_non_finite_loss_stops_the_run_names_step_and_term_and_keeps_the_last_good_checkpoint(tmp_path):
    method = Broken()
    run = trainer(
        max_epochs=2, logger=CSVLogger(tmp_path), callbacks=[Checkpoints(every_n_seconds=0)], enable_checkpointing=True
    )
    with pytest.raises(dlkit.NonFiniteError, match=r"term 'odd' .* at step 5: .*saved before is kept"):
        run.fit(method, datamodule=Digits(batch_size=100, val_size=0))
    saved = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert saved["global_step"] == 5
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_poisoned_parameter_is_never_saved(tmp_path):
    method = dlkit.Autoencoder((1, 8, 8), 2, "linear")
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(method, datamodule=Digits())
    run.save_checkpoint(tmp_path / "good.ckpt", weights_only=False)
    with torch.no_grad():
        method.encoder.head.weight[0, 0] = float("inf")
    with pytest.raises(dlkit.NonFiniteError, match=r"parameter 'encoder\.head\.weight' is not finite"):
        run.save_checkpoint(tmp_path / "good.ckpt", weights_only=False)
    assert dlkit.load(tmp_path / "good.ckpt").encoder.head.weight.isfinite().all()


@pytest.mark.parametrize("pieces", [1, 2])
def test_training_terms_are_logged_on_the_steps_that_the_logger_writes_and_on_no_other(tmp_path, pieces):
    logger, seen = CSVLogger(tmp_path), Losses()
    run = trainer(max_epochs=2, logger=logger, log_every_n_steps=4, accumulate_grad_batches=pieces, callbacks=[seen])
    run.fit(dlkit.Autoencoder((1, 8, 8), 2, "linear"), datamodule=Digits(batch_size=100, val_size=0))
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(3, 28 // pieces, 4))
    written = [float(row["train/loss"]) for row in rows]
    shares = seen.values[4 * pieces - 1 :: 4 * pieces][: len(rows)]  # of the mean over the pieces of a step
    assert written == pytest.approx([pieces * share for share in shares])
    assert float(run.callback_metrics["train/loss"]) == pytest.approx(written[-1])


def test_what_training_records_is_there_without_a_logger_and_stays_as_it_was():
    class Counting(dlkit.Autoencoder):
        def __init__(self):
            super().__init__((1, 8, 8), 2, "linear")
            self.count = torch.zeros(())

        def loss(self, batch):
            self.count += 1
            return super().loss(batch)[0], {"count": self.count}

    run = trainer(max_steps=5, log_every_n_steps=4, limit_val_batches=0)
    run.fit(Counting(), datamodule=Digits(batch_size=100, val_size=0))
    assert float(run.logged_metrics["train/count"]) == float(run.callback_metrics["train/count"]) == 4


def test_the_hook_that_runs_is_noted_and_none_afterwards_past_the_search_for_parameters(monkeypatch):
    class Noting(dlkit.Autoencoder):
        def loss(self, batch):
            noted.append(self._current_fx_name)
            return super().loss(batch)

    def searching(module, name, value):
        searched.append(name)
        search(module, name, value)

    noted, searched, search = [], [], torch.nn.Module.__setattr__
    method = Noting((1, 8, 8), 2, "linear")
    monkeypatch.setattr(torch.nn.Module, "__setattr__", searching)
    trainer(max_epochs=1, num_sanity_val_steps=0).fit(method, datamodule=Digits(batch_size=1000, val_size=700))
    assert noted == ["training_step", "validation_step"]
    assert method._current_fx_name is None  # so that Lightning refuses to log
    assert searched
    assert "_current_fx_name" not in searched


def test_training_can_be_stopped_by_what_it_records():
    stop = EarlyStopping("train/loss", stopping_threshold=1e3, check_on_train_epoch_end=True)
    run = trainer(max_epochs=5, log_every_n_steps=1, callbacks=[stop])
    run.fit(dlkit.Autoencoder((1, 8, 8), 2, "linear"), datamodule=Digits(batch_size=300, val_size=0))
    assert run.current_epoch == 1


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_schedule_ends_at_zero_with_the_run(schedule):
    method, rates = dlkit.Autoencoder((1, 8, 8), 2, "linear", learning_rate=0.1, schedule=schedule), []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer(max_epochs=2, limit_val_batches=0, callbacks=[Rates()]).fit(method, datamodule=Digits(batch_size=300))
    cosine = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / 8)).item()) for step in range(8)]
    linear = [0.1 * (8 - step) / 8 for step in range(8)]
    assert rates == pytest.approx(linear if schedule == "linear" else cosine, abs=1e-7)


def test_a_falling_schedule_without_an_end_is_refused():
    method = dlkit.Autoencoder((1, 8, 8), 2, "linear", schedule="linear")
    with pytest.raises(ValueError, match=r"schedule='linear' ends with the run: set trainer\.max_steps, or"):
        trainer(max_epochs=-1).fit(method, datamodule=Digits())


@every_method
def test_examples_of_another_shape_are_refused(name):
    batch = Examples(torch.rand(4, 1, 9, 9), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"built for examples of shape \(1, 8, 8\) and was given \(1, 9, 9\)"):
        METHODS[name]().loss(batch)


def test_a_method_without_a_loss_says_what_it_has_to_define():
    with pytest.raises(NotImplementedError, match=r"has to define loss\(batch\)"):
        Method().loss(None)


def test_validation_gives_the_same_numbers_each_time():
    method = METHODS["vae"]()
    values = []
    for _ in range(2):
        torch.rand(17)
        values.append(trainer(callbacks=[RandomState()]).validate(method, datamodule=Digits(), verbose=False)[0]["val/loss"])
    assert values[0] == values[1]
