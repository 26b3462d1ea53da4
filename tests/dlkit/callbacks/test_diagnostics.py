"""The four failures of adversarial training: that their measures are what they say, and are to be seen in TensorBoard."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Digits, Gaussians
from dlkit.callbacks import AdversarialDiagnostics, Checkpoints, Quality, RandomState
from dlkit.callbacks.diagnostics import WINDOW
from dlkit.callbacks.drawing import panels, pixels


def ring():
    return Gaussians(num_examples=800, val_size=300, batch_size=128)


def fit(folder, method, data, epochs=2, checkpoint=None, callbacks=(), **arguments):
    trainer = L.Trainer(
        max_epochs=epochs, logger=TensorBoardLogger(folder, name="", version=0), callbacks=[*callbacks],
        enable_checkpointing=any(isinstance(callback, Checkpoints) for callback in callbacks), enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", **arguments,
    )  # fmt: skip
    trainer.fit(method, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    board = EventAccumulator(str(folder / "version_0"), size_guidance={"images": 0, "histograms": 0})
    board.Reload()
    return board


def values(board, name):
    return [event.value for event in board.Scalars(name)]


class Swinging(dlkit.GAN):
    """Its samples stand at +a and -a by turns."""

    def __init__(self, distance: float = 0.5):
        super().__init__((2,), 2, hidden_dims=(8,))
        self.distance = distance

    def sample(self, n, labels=None):
        side = self.distance * (-1) ** self.current_epoch
        return 0.1 * torch.randn(n, 2) + torch.tensor([side, 0.0])


def test_movement_and_oscillation_of_samples_that_swing(tmp_path):
    data = ring()
    board = fit(tmp_path, Swinging(), data, epochs=4, callbacks=[AdversarialDiagnostics()])
    spread = float(data.splits["val"].x.var(0, correction=0).sum().sqrt())
    assert values(board, "val/movement") == pytest.approx([1.0 / spread] * 3, rel=1e-4)
    # Of two, three and four of the values a, -a.
    assert values(board, "val/oscillation") == pytest.approx(
        [0.5 * factor / spread for factor in (1, math.sqrt(8 / 9), 1)], rel=1e-4
    )


def test_a_generator_at_rest_neither_moves_nor_oscillates(tmp_path):
    method = dlkit.GAN((2,), 2, hidden_dims=(8,), learning_rate=0.0)
    diagnostics = AdversarialDiagnostics()
    board = fit(tmp_path, method, ring(), epochs=WINDOW + 1, callbacks=[diagnostics])
    assert values(board, "val/movement") == [0.0] * WINDOW
    assert values(board, "val/oscillation") == pytest.approx([0.0] * WINDOW, abs=1e-6)
    assert len(diagnostics.means) == WINDOW
    # The held-out examples and the latents are the same each time, and so is the gradient.
    assert len(set(values(board, "val/pull"))) == 1
    assert values(board, "val/pull")[0] > 0


@pytest.mark.parametrize("name", ["gan", "wgan", "conditional"])
def test_what_a_run_shows(tmp_path, name):
    if name == "conditional":
        method, data = dlkit.GAN((1, 8, 8), 4, "relativistic", hidden_dims=(8,), num_classes=10), Digits(batch_size=400)
    else:
        method, data = (dlkit.GAN if name == "gan" else dlkit.WGAN)((2,), 2, hidden_dims=(8,)), ring()
    board = fit(tmp_path, method, data, callbacks=[AdversarialDiagnostics()])
    assert set(board.Tags()["histograms"]) == {"critic/real", "critic/fake", "critic/pull"}
    assert board.Tags()["images"] == ["diagnostics"]
    steps = [event.step for event in board.Images("diagnostics")]
    assert steps == [event.step for event in board.Histograms("critic/real")]
    assert len(steps) == 2
    count = min(512, data.val_size)
    for tag in board.Tags()["histograms"]:
        assert board.Histograms(tag)[0].histogram_value.num == count
    pulls = board.Histograms("critic/pull")[-1].histogram_value
    assert pulls.sum / count == pytest.approx(values(board, "val/pull")[-1], rel=1e-4)
    assert len(values(board, "val/movement")) == 1


def test_the_history_holds_losses_and_quality_of_the_same_validations(tmp_path):
    diagnostics = AdversarialDiagnostics()
    method = dlkit.GAN((2,), 2, hidden_dims=(32,), learning_rate=5e-3)
    # Whichever is asked first.
    board = fit(tmp_path, method, ring(), epochs=3, callbacks=[diagnostics, Quality(100, 100)])
    for name in ("critic_loss", "generator_loss", "modes", "pull"):
        assert diagnostics.history[name] == pytest.approx(values(board, f"val/{name}"))
    assert diagnostics.history["step"] == [event.step for event in board.Scalars("val/pull")]
    assert math.isnan(diagnostics.history["movement"][0])
    assert all(math.isnan(value) for value in diagnostics.history["judge_fid"])
    rows = [axes.get_ylabel() for axes in diagnostics.figure().axes]
    assert rows[0] == "losses"
    assert {"modes", "movement", "pull"} < set(rows)


def test_a_row_is_logarithmic_where_its_values_span_two_decades_and_may_have_gaps():
    rows = {
        "modes": {"modes": [1.0, math.nan, 900.0]},
        "losses": {"first": [-1.0, 2.0, 300.0], "second": [math.nan] * 3},
    }
    drawn = panels([10, 20, 30], rows, "title")
    pixels(drawn)
    assert [axes.get_yscale() for axes in drawn.axes] == ["log", "linear"]


def test_its_memory_survives_a_resumed_run(tmp_path):
    def run(folder, epochs, checkpoint=None):
        L.seed_everything(0, verbose=False)
        diagnostics = AdversarialDiagnostics()
        callbacks = [diagnostics, RandomState(), Checkpoints(None, every_n_seconds=0)]
        board = fit(folder, dlkit.GAN((2,), 2, hidden_dims=(8,)), ring(), epochs, checkpoint, callbacks)
        return diagnostics, values(board, "val/movement"), values(board, "val/oscillation")

    whole, *curves = run(tmp_path / "whole", 3)
    run(tmp_path / "cut", 2)
    cut, *cut_curves = run(tmp_path / "cut", 3, tmp_path / "cut" / "version_0" / "checkpoints" / "last.ckpt")
    assert cut_curves == curves
    assert str(cut.history) == str(whole.history)  # where NaN equals NaN
    assert torch.equal(cut.samples, whole.samples)


def test_it_does_not_disturb_training(tmp_path):
    weights = []
    for callbacks in ([AdversarialDiagnostics()], []):
        L.seed_everything(0, verbose=False)
        method = dlkit.WGAN((2,), 2, hidden_dims=(8,), critic_steps=2)
        fit(tmp_path, method, ring(), callbacks=callbacks)
        weights.append([parameter.detach().clone() for parameter in method.parameters()])
    for first, second in zip(*weights, strict=True):
        assert torch.equal(first, second)


def test_a_method_without_two_players_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"VAE has no generator and critic: leave .*AdversarialDiagnostics out"):
        fit(tmp_path, dlkit.VAE((1, 8, 8), 2), Digits(), callbacks=[AdversarialDiagnostics()])
