"""GAN Lab's pictures and film, read back, and the pulls that are drawn in them."""

from __future__ import annotations

import io

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import dlkit
from datamodules import Digits, Gaussians
from dlkit.callbacks import Checkpoints, GANLab, RandomState
from dlkit.callbacks.drawing import around
from dlkit.callbacks.gan_lab import MARGIN, MOST_FRAMES

METHODS = {
    "non-saturating": lambda: dlkit.GAN((2,), 2, hidden_dims=(8,)),
    "relativistic": lambda: dlkit.GAN((2,), 2, "relativistic", "r1+r2", hidden_dims=(8,), ema_decay=0.9),
    "conditional": lambda: dlkit.GAN((2,), 2, "hinge", hidden_dims=(8,), num_classes=8),
    "wgan": lambda: dlkit.WGAN((2,), 2, hidden_dims=(8,), critic_steps=2),
}


def ring(**arguments):
    return Gaussians(num_examples=1200, val_size=0, **{"batch_size": 128, **arguments})


def trainer(folder, steps, *callbacks, **arguments):
    settings = {
        "logger": TensorBoardLogger(folder, name="", version=0), "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "accelerator": "cpu", "max_epochs": -1, **arguments,
    }  # fmt: skip
    return L.Trainer(max_steps=steps, callbacks=[*callbacks], **settings)


def events(folder):
    board = EventAccumulator(str(folder / "version_0"), size_guidance={"images": 0})
    board.Reload()
    return board.Images("gan_lab") if "gan_lab" in board.Tags()["images"] else []


def stems(folder):
    return [int(path.stem) for path in sorted((folder / "version_0" / "gan_lab").glob("*.png"))]


# The pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_pictures_come_at_the_start_every_so_often_and_at_the_end_and_make_a_film(tmp_path, name):
    trainer(tmp_path, 5, GANLab(every_n_steps=2)).fit(METHODS[name](), datamodule=ring())
    shown = events(tmp_path)
    assert [event.step for event in shown] == stems(tmp_path) == [0, 2, 4, 5]
    with Image.open(io.BytesIO(shown[-1].encoded_image_string)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.std() > 10
    assert (np.abs(pixels - (220, 20, 60)).sum(-1) < 30).sum() > 50  # arrows
    with Image.open(tmp_path / "version_0" / "gan_lab.gif") as film:
        assert film.n_frames == 4
        assert film.info["loop"] == 0
        # A palette holds the same picture, but for small steps of its colours.
        film.seek(3)
        assert np.abs(np.asarray(film.convert("RGB")).astype(int) - pixels).mean() < 6
    assert not list(tmp_path.rglob("*.tmp"))


def test_points_axes_and_latents_are_the_same_all_through(tmp_path):
    method = dlkit.GAN((2,), 2, hidden_dims=(8,), learning_rate=0.0)
    trainer(tmp_path, 3, GANLab(1)).fit(method, datamodule=ring())
    pictures = [np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) for event in events(tmp_path)]
    # All but the title, which holds the step.
    assert all(np.array_equal(picture[40:], pictures[0][40:]) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_the_axes_are_a_square_around_the_points():
    left, right, bottom, top = around(torch.tensor([[0.0, 1.0], [2.0, 2.0]]), MARGIN)
    assert right - left == pytest.approx(top - bottom)
    assert left < 0 < 2 < right
    assert bottom < 1 < 2 < top


def test_a_film_has_no_more_than_its_most_pictures_and_keeps_the_first_and_the_last(tmp_path):
    lab = GANLab()
    lab.folder = tmp_path / "gan_lab"
    lab.folder.mkdir()
    for number in range(MOST_FRAMES + 57):
        Image.new("RGB", (2, 2), (number % 256, 0, number // 256 * 255)).quantize(2).save(lab.folder / f"{number:09}.png")
    lab.write_film()
    with Image.open(tmp_path / "gan_lab.gif") as film:
        assert film.n_frames == MOST_FRAMES
        colours = []
        for frame in (0, MOST_FRAMES - 1):
            film.seek(frame)
            colours.append(film.convert("RGB").getpixel((0, 0)))
    assert colours == [(0, 0, 0), (0, 0, 255)]


def test_it_does_not_disturb_training(tmp_path):
    weights = []
    for callbacks in ([GANLab(1)], []):
        L.seed_everything(0, verbose=False)
        method = dlkit.WGAN((2,), 2, hidden_dims=(8,), critic_steps=2)
        trainer(tmp_path, 4, *callbacks).fit(method, datamodule=ring())
        weights.append([parameter.detach().clone() for parameter in method.parameters()])
    for first, second in zip(*weights, strict=True):
        assert torch.equal(first, second)


# Runs ----------------------------------------------------------------------------------------------------------------


class Stop(L.Callback):
    """Raises before a given step, as a kill would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyError("stopped")


def test_a_resumed_run_goes_on_with_the_film_as_if_nothing_had_happened(tmp_path):
    def fit(folder, *callbacks, checkpoint=None):
        L.seed_everything(0, verbose=False)
        callbacks = [GANLab(5), RandomState(), Checkpoints(None, every_n_seconds=0), *callbacks]
        run = trainer(folder, -1, *callbacks, enable_checkpointing=True, max_epochs=2)
        run.fit(METHODS["non-saturating"](), datamodule=ring(batch_size=240), ckpt_path=checkpoint, weights_only=True)

    fit(tmp_path / "whole")
    assert stems(tmp_path / "whole") == [0, 5, 10]
    for step in (5, 6):  # at a picture and between two epochs, and after both
        cut = tmp_path / f"cut{step}"
        with pytest.raises(KeyError, match="stopped"):
            fit(cut, Stop(step))
        # What a run leaves that was killed in the middle of a later picture.
        (cut / "version_0" / "gan_lab" / "000000010.png").write_bytes(b"half")
        fit(cut, checkpoint=cut / "version_0" / "checkpoints" / "last.ckpt")
        assert stems(cut) == stems(tmp_path / "whole")
        for path in (tmp_path / "whole" / "version_0" / "gan_lab").glob("*.png"):
            assert path.read_bytes() == (cut / "version_0" / "gan_lab" / path.name).read_bytes(), (step, path.name)
        films = [(folder / "version_0" / "gan_lab.gif").read_bytes() for folder in (tmp_path / "whole", cut)]
        assert films[0] == films[1]


def test_a_run_from_the_start_removes_an_earlier_ones_pictures(tmp_path):
    trainer(tmp_path, 5, GANLab(1)).fit(METHODS["non-saturating"](), datamodule=ring())
    trainer(tmp_path, 2, GANLab(2)).fit(METHODS["non-saturating"](), datamodule=ring())
    assert stems(tmp_path) == [0, 2]


@pytest.mark.parametrize("arguments", [{"logger": CSVLogger}, {"fast_dev_run": True}])
def test_without_tensorboard_nothing_is_drawn(tmp_path, arguments):
    if "logger" in arguments:
        arguments = {"logger": CSVLogger(tmp_path)}
    trainer(tmp_path, 2, GANLab(1), **arguments).fit(METHODS["non-saturating"](), datamodule=ring())
    assert not [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.gif")]


# What is refused -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps=0: draw every 1 or more"):
        GANLab(0)
    with pytest.raises(ValueError, match=r"Autoencoder has no generator and critic: leave dlkit.callbacks.GANLab out"):
        trainer(tmp_path, 1, GANLab()).fit(dlkit.Autoencoder((1, 8, 8), 2), datamodule=Digits())
    with pytest.raises(ValueError, match=r"points of the plane, shape \(2,\), and the data are \(1, 8, 8\)"):
        trainer(tmp_path, 1, GANLab()).fit(dlkit.GAN((1, 8, 8), 2, hidden_dims=(8,)), datamodule=Digits())


# Pulls ---------------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """d(x) = w x."""

    weight = torch.tensor([0.6, -1.7])

    def forward(self, x, labels=None):
        return x @ self.weight


FACTORS = {
    "minimax": lambda real, fake: fake.sigmoid(),
    "non-saturating": lambda real, fake: (-fake).sigmoid(),
    "least-squares": lambda real, fake: 1 - fake,
    "hinge": lambda real, fake: torch.ones_like(fake),
    "relativistic": lambda real, fake: (real - fake).sigmoid(),
    "wasserstein": lambda real, fake: torch.ones_like(fake),
}


@pytest.mark.parametrize("name", FACTORS)
def test_a_linear_critics_pull_is_its_weight_times_the_derivative_of_the_loss(name):
    method = dlkit.WGAN((2,), 2) if name == "wasserstein" else dlkit.GAN((2,), 2, name)
    method.critic = Linear()
    x, real = torch.randn(2, 9, 2)
    expected = FACTORS[name](method.critic(real), method.critic(x))[:, None] * Linear.weight
    torch.testing.assert_close(method.pull(x, real), expected)
    with torch.inference_mode():  # validation's
        torch.testing.assert_close(method.pull(x.clone(), real.clone()), expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_small_step_along_the_pull_lowers_the_generators_loss_by_its_squared_norm(name):
    method = METHODS[name]().double()
    labels = torch.arange(8) if name == "conditional" else None
    x, real = torch.randn(2, 8, 2).double()
    pull = method.pull(x, real, labels)
    step = 1e-5
    before, after = (method.generator_objective(real, place, labels).item() for place in (x, x + step * pull))
    assert (before - after) / step == pytest.approx(pull.square().sum(1).mean().item(), rel=1e-3)


def test_a_pull_is_in_the_datas_units_and_asks_for_as_many_real_examples():
    method = dlkit.GAN((1, 8, 8), 2, "hinge", hidden_dims=(8,))
    x = torch.rand(2, 1, 8, 8).requires_grad_()
    (expected,) = torch.autograd.grad(method.critic(2 * x - 1).sum(), x)
    torch.testing.assert_close(method.pull(x.detach(), x.detach()), expected)
    scaled = dlkit.GAN((2,), 2, "hinge", hidden_dims=(8,), data_scale=4.0)
    scaled.critic = Linear()
    torch.testing.assert_close(scaled.pull(torch.zeros(1, 2), torch.zeros(1, 2)), Linear.weight[None] / 4)
    with pytest.raises(ValueError, match="1 real examples beside 2 generated ones: give as many"):
        method.pull(x, x[:1])
    with pytest.raises(ValueError, match=r"examples of shape \(1, 8, 8\) and was given \(2,\)"):
        method.pull(x, torch.rand(2, 2))
