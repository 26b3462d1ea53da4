"""Optimal critics against the exact ones, what their gradients do as the densities part, and the mechanics of the method."""

from __future__ import annotations

import io
import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from scipy.integrate import quad
from scipy.stats import norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import dlkit
from datamodules import Digits, Gaussians
from dlkit.batches import Examples
from dlkit.callbacks import Pictures, RandomState

SEPARATIONS = (1.0, 3.0, 6.0, 9.0)


def data(batch_size=512, **arguments):
    settings = {"layout": "pair", "separation": 0.0, "num_examples": 40_000, "val_size": 1000, **arguments}
    return Gaussians(batch_size=batch_size, **settings)


def trainer(steps, **arguments):
    settings = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": -1, "callbacks": [RandomState()], **arguments,
    }  # fmt: skip
    return L.Trainer(max_steps=steps, **settings)


@pytest.fixture(scope="module")
def trained():
    """The method after a short training."""
    L.seed_everything(0, verbose=False)
    method = dlkit.OptimalCritics(SEPARATIONS)
    trainer(500, limit_val_batches=0).fit(method, datamodule=data())
    return method


# Exact critics -------------------------------------------------------------------------------------------------------


class ExactLogits(nn.Module):
    """s^2/2 - s x on each line."""

    def forward(self, x):
        s = torch.tensor(SEPARATIONS)[:, None]
        return s.square() / 2 - s * x.squeeze(2)


class Descending(nn.Module):
    """f(x) = -3 x."""

    def forward(self, x):
        return -3 * x.squeeze(2)


def test_exact_critics_have_no_error_and_the_exact_gradients():
    method = dlkit.OptimalCritics(SEPARATIONS)
    method.discriminators, method.critics = ExactLogits(), Descending()
    found = method.by_separation()
    torch.testing.assert_close(found["value"], found["exact_value"], rtol=1e-6, atol=1e-9)
    assert found["discriminator_error"].max() < 1e-6
    for name in ("minimax_gradient", "non_saturating_gradient"):
        torch.testing.assert_close(found[name], found[f"exact_{name}"], rtol=1e-5, atol=0)
    # gap / slope is the distance, whatever the slope.
    torch.testing.assert_close(found["wasserstein"], found["separation"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["slope"], torch.full((4,), 3.0).double(), rtol=1e-5, atol=0)


def test_the_exact_value_is_twice_the_jensen_shannon_divergence_less_log_4():
    found = dlkit.OptimalCritics(SEPARATIONS).by_separation()
    for s, value in zip(SEPARATIONS, found["exact_value"].tolist(), strict=True):

        def divergence(x, s=s):
            p, q = norm.pdf(x), norm.pdf(x - s)
            return sum(density * math.log(2 * density / (p + q)) for density in (p, q)) / 2

        jsd = quad(divergence, -8, s + 8, epsabs=1e-12, limit=200)[0]
        assert value == pytest.approx(2 * jsd - math.log(4), abs=1e-7)


def test_before_training_the_discriminator_is_one_half_and_says_nothing():
    found = dlkit.OptimalCritics(SEPARATIONS).by_separation()
    torch.testing.assert_close(found["value"], torch.full((4,), -math.log(4)).double())
    assert found["minimax_gradient"].eq(0).all()


# Trained critics -----------------------------------------------------------------------------------------------------


def test_trained_critics_are_the_optimal_ones(trained):
    found = trained.by_separation()
    assert (found["value"] <= found["exact_value"]).all()  # V(D*) is the maximum
    assert (found["exact_value"] - found["value"]).max() < 3e-3
    assert found["discriminator_error"].max() < 0.01
    torch.testing.assert_close(found["wasserstein"], found["separation"], rtol=0.02, atol=0)
    # The penalised optimum's slope is 1 + W / (2 lambda).
    torch.testing.assert_close(found["slope"], 1 + found["separation"] / 20, rtol=0.01, atol=0)


def test_the_minimax_gradient_vanishes_as_the_densities_part_and_the_wasserstein_gradient_does_not(trained):
    found = trained.by_separation()
    ratio = found["minimax_gradient"] / found["wasserstein_gradient"]
    assert (ratio[1:] < ratio[:-1]).all()
    assert ratio[0] > 0.3
    assert ratio[-1] < 1e-3
    assert found["wasserstein_gradient"].min() > 1
    torch.testing.assert_close(found["minimax_gradient"][:2], found["exact_minimax_gradient"][:2], rtol=0.05, atol=0)
    assert (found["non_saturating_gradient"][1:] > 1).all()


def test_the_order_of_the_separations_does_not_matter():
    assert dlkit.OptimalCritics((6.0, 1.0)).separations == (1.0, 6.0)


# Mechanics -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_the_separations():
    method, batch = dlkit.OptimalCritics(SEPARATIONS), next(data().batches())
    loss, terms = method.loss(batch)
    # Critics that start at zero: V = -log 4, no gap, and a slope of 0 everywhere.
    assert loss.item() == pytest.approx(4 * (math.log(4) + 10), rel=1e-5)
    assert terms["value"].item() == pytest.approx(-math.log(4))
    assert terms["gap_not_w1"].item() == 0
    real, generated = method.points(batch)
    assert real.shape == generated.shape == (4, min(int((batch.y == 0).sum()), int((batch.y == 1).sum())), 1)
    torch.testing.assert_close((generated - real).mean((1, 2)), torch.tensor(SEPARATIONS), atol=0.2, rtol=0)


def test_a_raw_loop_and_the_trainer_give_the_same_parameters():
    L.seed_everything(1, verbose=False)
    method = dlkit.OptimalCritics((2.0,), hidden_dims=(8,), schedule="constant")
    trainer(5, limit_val_batches=0).fit(method, datamodule=data())
    L.seed_everything(1, verbose=False)
    raw = dlkit.OptimalCritics((2.0,), hidden_dims=(8,), schedule="constant")
    optimizer, source = raw.configure_optimizers(), data()
    for batch, _ in zip(source.batches(), range(5), strict=False):
        optimizer.zero_grad()
        raw.loss(batch)[0].backward()
        optimizer.step()
    for parameter, other in zip(method.parameters(), raw.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_a_checkpoint_is_self_contained(tmp_path):
    run = trainer(2, limit_val_batches=0)
    method = dlkit.OptimalCritics((2.0, 5.0), hidden_dims=(8,))
    run.fit(method, datamodule=data())
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    found = dlkit.load(tmp_path / "a.ckpt")
    assert isinstance(found, dlkit.OptimalCritics)
    for name, values in method.by_separation().items():
        assert torch.equal(values, found.by_separation()[name])


def test_a_run_records_the_errors_and_draws_the_critics(tmp_path):
    method = dlkit.OptimalCritics((2.0, 2.5, 6.0), hidden_dims=(8,))
    run = trainer(
        6, max_epochs=2, limit_train_batches=3, logger=TensorBoardLogger(tmp_path, version=0),
        callbacks=[Pictures(), RandomState()],
    )  # fmt: skip
    run.fit(method, datamodule=data())
    board = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), size_guidance={"images": 0})
    board.Reload()
    assert board.Tags()["images"] == ["optimal_critics"]
    assert len(board.Images("optimal_critics")) == 2
    with Image.open(io.BytesIO(board.Images("optimal_critics")[-1].encoded_image_string)) as image:
        assert np.asarray(image.convert("L")).std() > 5
    scalars = {name for name in board.Tags()["scalars"] if name.startswith("val/")}
    gradients = {f"val/{name}_gradient_at_{s}" for name in ("minimax", "wasserstein") for s in ("2", "2.5", "6")}
    errors = {"val/discriminator_error", "val/value_error", "val/wasserstein_error", "val/gradient_ratio"}
    assert scalars == {"val/loss", "val/value", "val/gap_not_w1", "val/penalty", *gradients, *errors}
    found = method.by_separation()
    last = board.Scalars("val/value_error")[-1].value
    assert last == pytest.approx(float((found["exact_value"] - found["value"]).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"separations": ()}, "give one or more finite distances"),
        ({"separations": (1.0, 0.0)}, "give one or more finite distances"),
        ({"separations": (math.inf,)}, "give one or more finite distances"),
        ({"penalty_weight": 0.0}, "penalty_weight=0.0 has to be positive"),
    ],
)
def test_a_setting_outside_its_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dlkit.OptimalCritics(**arguments)


def test_other_data_are_refused():
    method = dlkit.OptimalCritics((1.0,))
    with pytest.raises(ValueError, match=r"examples of shape \(1, 8, 8\): use datamodules.Gaussians"):
        batch = next(Digits().batches())
        method.loss(Examples(batch.x, batch.y % 2))
    with pytest.raises(ValueError, match=r"label 7 is outside 0\.\.1"):
        method.loss(next(Gaussians().batches()))
    with pytest.raises(ValueError, match="all 3 labels of a batch are the same: raise"):
        method.loss(Examples(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"points of label 0 are around -2\.\d\d .* separation=0"):
        trainer(1, limit_val_batches=1).validate(method, datamodule=data(separation=4.0), verbose=False)
