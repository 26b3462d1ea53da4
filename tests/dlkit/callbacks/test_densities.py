"""The density of a flow beside the true one, and the film of its layers, read back."""

from __future__ import annotations

import io

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Density2D, Digits, NoData
from dlkit.callbacks import Densities, Pictures, Summary
from dlkit.callbacks.drawing import around


def run(folder, method, data, *callbacks, **more):
    trainer = L.Trainer(
        logger=TensorBoardLogger(folder, version=0), callbacks=[*callbacks, Summary()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu",
        **{"max_epochs": 2, **more},
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    board = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0})
    board.Reload()
    return board


def picture(board, tag):
    with Image.open(io.BytesIO(board.Images(tag)[-1].encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("num_classes", [None, 2])
def test_densities_layers_and_their_film_are_drawn(tmp_path, num_classes):
    data = Density2D("moons", num_examples=600, batch_size=100, val_size=300)
    method = dlkit.Flow((2,), num_layers=3, hidden_dims=(8,), num_classes=num_classes)
    board = run(tmp_path, method, data, Densities(), Pictures())
    assert {"density", "layers", "latent_space"} <= set(board.Tags()["images"])
    assert len(board.Images("density")) == 2 and len(board.Images("layers")) == 1
    for tag in ("density", "layers"):
        assert picture(board, tag).std() > 5, tag
    with Image.open(tmp_path / "lightning_logs" / "version_0" / "layers.gif") as film:
        assert film.n_frames == 3 * 6 + 1
        times = []
        for number in (0, 1, 6, 18):
            film.seek(number)
            times.append(film.info["duration"])
            assert film.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert times == [400, 60, 400, 2500]
        film.seek(0)
        first = np.asarray(film.convert("RGB"))
        film.seek(film.n_frames - 1)
        assert not np.array_equal(first, np.asarray(film.convert("RGB")))


def test_drawing_disturbs_nothing(tmp_path):
    def train(folder, *callbacks):
        L.seed_everything(1, verbose=False)
        data = Density2D("rings", num_examples=600, batch_size=100, val_size=300)
        method = dlkit.Flow((2,), num_layers=2, hidden_dims=(8,))
        run(folder, method, data, *callbacks)
        return method.state_dict(), torch.rand(1)

    (plain, after), (drawn, later) = train(tmp_path / "a"), train(tmp_path / "b", Densities())
    assert all(torch.equal(plain[key], drawn[key]) for key in plain) and torch.equal(after, later)


def test_the_picture_holds_all_points_and_a_margin():
    left, right, bottom, top = around(torch.tensor([[0.0, 0.0], [2.0, 1.0]]), 0.25)
    assert (left, right, bottom, top) == (-0.5, 2.5, -1.0, 2.0)


def test_what_is_no_plane_or_has_no_density_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2,\), and the data are \(1, 8, 8\)"):
        run(tmp_path, dlkit.Flow((1, 8, 8), num_levels=17), Digits(), Densities())
    with pytest.raises(ValueError, match="Classifier has none"):
        run(tmp_path, dlkit.Classifier((1, 8, 8), 10), Digits(), Densities())


@pytest.mark.parametrize("action", ["phi4", "u1"])
def test_a_lattice_is_shown_beside_hamiltonian_monte_carlo(tmp_path, action, monkeypatch):
    monkeypatch.setattr("dlkit.callbacks.pictures.CHAIN", 300)
    monkeypatch.setattr("dlkit.callbacks.pictures.REFERENCE_CHAINS", 6)
    method = dlkit.LatticeFlow((4, 4), action, num_layers=4, channels=(4,), num_bins=4)
    board = run(tmp_path, method, NoData(2, 16, 32, 32), Pictures(), max_epochs=1)
    assert {"configurations", "metropolis", "correlations"} <= set(board.Tags()["images"])
    for tag in ("configurations", "metropolis", "correlations"):
        assert picture(board, tag).std() > 5, tag
    assert {"val/ess", "val/acceptance", "val/log_z", "val/samples"} <= set(board.Tags()["scalars"])
    assert board.Scalars("val/samples")[-1].value == 32
