"""The pictures that each method's protocols allow, read back from the event file."""

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
from datamodules import Digits
from dlkit.callbacks import Pictures, Summary
from dlkit.callbacks.drawing import GAP, grid

LATENT = {"interpolations/from_left_to_right", "traversals/one_dimension_a_row", "latent_space"}
EXPECTED = {
    "classifier": (lambda: dlkit.Classifier((1, 8, 8), 10, hidden_dims=(8,)), {"confusion", "reliability"}),
    "autoencoder": (
        lambda: dlkit.Autoencoder((1, 8, 8), 3, hidden_dims=(8,)),
        {
            "reconstruction/input_above_output",
            "samples/gaussian_fitted_to_latents",
            "samples/mixture_fitted_to_latents",
            *LATENT,
        },
    ),
    "denoising": (
        lambda: dlkit.DenoisingAutoencoder((1, 8, 8), 1, hidden_dims=(8,)),
        {
            "denoising/clean_corrupted_denoised",
            "samples/gaussian_fitted_to_latents",
            "samples/mixture_fitted_to_latents",
            *LATENT,
        },
    ),
    "conditional": (
        lambda: dlkit.VAE((1, 8, 8), 2, hidden_dims=(8,), num_classes=10),
        {"reconstruction/input_above_output", "samples/from_fixed_latents", "kl_per_dimension", *LATENT},
    ),
}


def run(folder, method, data, **arguments):
    trainer = L.Trainer(
        max_epochs=2, logger=TensorBoardLogger(folder, version=0), callbacks=[Pictures(), Summary()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        accelerator="cpu", **arguments,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    board = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0})
    board.Reload()
    return board


def picture(board, tag, index=-1):
    with Image.open(io.BytesIO(board.Images(tag)[index].encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_method_shows_what_its_protocols_allow_and_no_picture_is_empty(tmp_path, name):
    build, tags = EXPECTED[name]
    method = build()
    board = run(tmp_path, method, Digits(batch_size=600))
    assert set(board.Tags()["images"]) == tags
    for tag in tags:
        assert len(board.Images(tag)) == 2
        assert picture(board, tag).std() > 5, tag
    if isinstance(method, dlkit.Autoencoder):
        assert method.latent_density is None  # the density was fitted for the pictures only


def test_samples_come_from_the_same_latents_in_every_epoch(tmp_path):
    method = dlkit.VAE((1, 8, 8), 2, hidden_dims=(8,), learning_rate=0.0)
    board = run(tmp_path, method, Digits(batch_size=600))
    tag = "samples/from_fixed_latents"
    assert np.array_equal(picture(board, tag, 0), picture(board, tag, 1))


def test_samples_of_a_conditional_model_have_a_class_in_each_column(tmp_path):
    class Labelled(dlkit.GAN):
        def sample(self, n, labels=None):
            shades = torch.rand(n) if labels is None else labels / 10
            return shades.view(n, 1, 1, 1).expand(n, 1, 8, 8)

    board = run(tmp_path, Labelled((1, 8, 8), 4, hidden_dims=(8,), num_classes=10), Digits(batch_size=600))
    pixels = picture(board, "samples/from_fixed_latents")
    cell = pixels.shape[1] // 10
    shades = pixels[cell // 2 :: cell, cell // 2 :: cell, 0]
    assert (shades == shades[:1]).all()
    assert (np.diff(shades[0].astype(int)) > 0).all()


def test_pictures_do_not_disturb_training(tmp_path):
    weights = []
    for folder, callbacks in (("with", True), ("without", False)):
        L.seed_everything(0, verbose=False)
        method = dlkit.VAE((1, 8, 8), 2, hidden_dims=(8,))
        if callbacks:
            run(tmp_path / folder, method, Digits(batch_size=600), limit_val_batches=1)
        else:
            # Validation draws one noise vector too, without the callback that gives it numbers of its own.
            L.Trainer(
                max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=1,
                enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu",
            ).fit(method, datamodule=Digits(batch_size=600))  # fmt: skip
        weights.append(method.encoder.head[0].weight)
    assert torch.equal(*weights)


def test_a_grid_keeps_order_clips_and_enlarges_small_pictures():
    pictures = torch.arange(6).view(2, 3, 1, 1, 1).expand(2, 3, 1, 8, 8) / 5.0 * 2 - 0.5
    shown = grid(pictures)
    cell = 40 + 2 * GAP
    assert shown.shape == (3, 2 * cell, 3 * cell)
    centres = shown[0, cell // 2 :: cell, cell // 2 :: cell]
    torch.testing.assert_close(centres, pictures[:, :, 0, 0, 0].clamp(0, 1))


def test_labels_beyond_the_names_are_numbers():
    assert Pictures(class_names=("a", "b")).names(torch.tensor([1, 0])) == ["a", "b"]
    assert Pictures(class_names=("a", "b")).names(torch.tensor([2, 0])) == ["0", "1", "2"]
