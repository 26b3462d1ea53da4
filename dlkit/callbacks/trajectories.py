"""Trajectories: the ways of particles, and where a method sees them arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image

from dlkit.batches import Particles
from dlkit.callbacks import particle_drawing
from dlkit.callbacks.film import write_film
from dlkit.callbacks.first_examples import FirstBatches
from dlkit.callbacks.particle_drawing import System
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import FollowsParticles, PredictsPositions

SYSTEMS = 6
FRAMES = 40
FRAME_MILLISECONDS, LAST_MILLISECONDS = 60, 2500


class Trajectories(FirstBatches):
    """Draws after each validation the true ways and the predicted ends of the first held-out systems, as `trajectories`, on the
    plane of the first two coordinates, and as `errors` how far predictions miss against how far particles move.

    When training ends it writes a film of the former, `trajectories.gif`, in the run's folder. Where the data cannot follow
    its particles, a way is the straight line between its ends.

    Raises:
        ValueError: a method that predicts no positions.
    """

    most = 400
    kind = Particles

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[System] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, PredictsPositions):
            raise ValueError(
                f"{type(pl_module).__name__} predicts no positions of particles: leave dlkit.callbacks.Trajectories out"
            )

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board, batches, method = writer(trainer), self.take_batches(), pl_module
        if board is None or not batches or not isinstance(method, PredictsPositions):
            return
        batch = Particles(*(torch.cat(columns) for columns in zip(*batches, strict=True)))
        predicted = method.predict_positions(*batch[:3]).float().cpu()
        batch = Particles(*(column.float().cpu() for column in batch))
        first = Particles(*(column[:SYSTEMS] for column in batch))
        self.drawn = systems(first, predicted, getattr(trainer, "datamodule", None))
        board.add_figure("trajectories", particle_drawing.trajectories(self.drawn), steps_done(trainer))
        distances = [(places - batch.y).norm(dim=2).flatten().numpy() for places in (batch.positions, predicted)]
        board.add_figure("errors", particle_drawing.errors(*distances), steps_done(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir  # asked by every process, because Lightning broadcasts it
        if writer(trainer) is None or folder is None or not self.drawn:
            return
        pictures = [Image.fromarray(picture) for picture in particle_drawing.film(self.drawn)]
        palette = pictures[-1].quantize(64)  # of all, because looking for one takes long
        pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        times = [FRAME_MILLISECONDS] * (len(pictures) - 1) + [LAST_MILLISECONDS]
        write_film(Path(folder) / "trajectories.gif", pictures, times)


def systems(batch: Particles, predicted: torch.Tensor, data: Any) -> list[System]:
    """What is drawn of a batch, on the CPU."""
    paths = (
        data.trajectory(batch, FRAMES)
        if isinstance(data, FollowsParticles)
        else torch.stack([torch.lerp(batch.positions, batch.y, share) for share in torch.linspace(0, 1, FRAMES + 1)], 1)
    )
    errors = (predicted[: len(paths)] - batch.y).square().mean((1, 2)).tolist()
    columns = (paths[..., :2].numpy(), predicted[..., :2].numpy(), batch.charges.numpy(), errors)
    return [System(*parts) for parts in zip(*columns, strict=False)]
