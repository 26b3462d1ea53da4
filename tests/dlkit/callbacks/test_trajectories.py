"""The ways of particles and their film, read back."""

from __future__ import annotations

import io

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules import ChargedParticles, Digits, charged_particles
from dlkit import Classifier, InteractionNetwork, Particles
from dlkit.callbacks import Summary, Trajectories
from dlkit.callbacks.trajectories import FRAMES, systems


@pytest.fixture
def data(tmp_path, monkeypatch):
    for part, first in {"train": 0, "val": 40, "test": 80}.items():
        monkeypatch.setitem(charged_particles.FIRST, part, first)
    return ChargedParticles(
        num_train=40, num_val=40, num_test=4, start=20, steps=200, batch_size=20, cache=str(tmp_path / "cache")
    )  # fmt: skip


def run(folder, method, data, *callbacks):
    trainer = L.Trainer(
        logger=TensorBoardLogger(folder, version=0), callbacks=[*callbacks, Summary()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu", max_epochs=2,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    board = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0})
    board.Reload()
    return board


def picture(board, tag):
    with Image.open(io.BytesIO(board.Images(tag)[-1].encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


def test_ways_errors_and_the_film_are_drawn_and_disturb_nothing(tmp_path, data, monkeypatch):
    monkeypatch.setattr("dlkit.callbacks.trajectories.FRAMES", 5)
    monkeypatch.setattr("dlkit.callbacks.trajectories.SYSTEMS", 2)

    def train(folder, *callbacks):
        L.seed_everything(1, verbose=False)
        method = InteractionNetwork(hidden_size=8, num_layers=1)
        return run(folder, method, data, *callbacks), method.state_dict(), torch.rand(1)

    board, drawn, later = train(tmp_path / "a", Trajectories())
    _, plain, after = train(tmp_path / "b")
    assert all(torch.equal(plain[key], drawn[key]) for key in plain) and torch.equal(after, later)
    for tag in ("trajectories", "errors"):
        assert len(board.Images(tag)) == 2
        assert picture(board, tag).std() > 5, tag
    with Image.open(tmp_path / "a" / "lightning_logs" / "version_0" / "trajectories.gif") as film:
        assert film.n_frames == 5 + 1 and film.info["loop"] == 0
        first = np.asarray(film.convert("RGB")).astype(int)
        film.seek(5)
        last = np.asarray(film.convert("RGB")).astype(int)
        # Ways are drawn longer, and nothing else moves.
        assert 0.001 < (np.abs(first - last).max(2) > 60).mean() < 0.1


def test_what_is_drawn_is_the_way_of_each_system_and_its_own_prediction(data):
    batch = next(data.batches("val"))
    predicted = batch.y + torch.arange(20.0).view(-1, 1, 1)
    found = systems(Particles(*(column[:3] for column in batch)), predicted, data)
    assert len(found) == 3
    for number, system in enumerate(found):
        assert system.path.shape == (FRAMES + 1, 5, 2)
        np.testing.assert_allclose(system.path[0], batch.positions[number, :, :2])
        np.testing.assert_allclose(system.path[-1], batch.y[number, :, :2], atol=1e-3)
        np.testing.assert_allclose(system.predicted, predicted[number, :, :2])
        assert system.error == pytest.approx(number**2, abs=1e-4)


def test_data_that_cannot_follow_its_particles_have_straight_ways(data):
    batch = next(data.batches("val"))
    (system, *_) = systems(batch, batch.y, None)
    np.testing.assert_allclose(system.path[FRAMES // 2], (batch.positions + batch.y)[0, :, :2] / 2, atol=1e-6)


def test_a_method_that_predicts_no_positions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Classifier predicts no positions of particles: leave"):
        run(tmp_path, Classifier((1, 8, 8), 10), Digits(), Trajectories())
