"""Densities: a density of the plane beside the true one, and the way of a cloud of noise into the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor

from dlkit.callbacks import drawing, flow_drawing
from dlkit.callbacks.film import write_film
from dlkit.callbacks.first_examples import FirstExamples
from dlkit.callbacks.random_state import isolated
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import HasLogProb, KnownDensity, MovesInLayers, Samples

CELLS = 200  # of a density, in each direction
POINTS = 4000
MARGIN = 0.1  # around the data, of its extent
BETWEEN = 6  # pictures of the film from one layer to the next
FRAME_MILLISECONDS, LAYER_MILLISECONDS, LAST_MILLISECONDS = 60, 400, 2500
SEED = 6


class Densities(FirstExamples):
    """Draws the density of a method of points of the plane after each validation, as `density`: beside the true one where the
    data knows it, and beside samples. A conditional density is averaged over its labels.

    When training ends it draws the points of the base after each layer, as `layers`, and as a film of their motion
    `layers.gif` in the run's folder. Nothing it does disturbs the random state of training.

    Raises:
        ValueError: a method without a density or samples, data that are no points of the plane.
    """

    most = POINTS

    def __init__(self) -> None:
        super().__init__()
        self.limits: drawing.Limits | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not (isinstance(pl_module, HasLogProb) and isinstance(pl_module, Samples)):
            raise ValueError(f"Densities draws a method's density, and {type(pl_module).__name__} has none: leave it out")
        shape = tuple(getattr(pl_module, "data_shape", ()))
        if shape != (2,):
            raise ValueError(f"Densities shows points of the plane, shape (2,), and the data are {shape}: leave it out")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board, examples = writer(trainer), self.take()
        if board is None or examples is None:
            return
        self.limits = self.limits or drawing.around(examples.x.float(), MARGIN)
        with isolated(SEED):
            figure = self.density(pl_module, getattr(trainer, "datamodule", None), self.limits)
        board.add_figure("density", figure, steps_done(trainer))

    def density(self, method: Any, data: Any, limits: drawing.Limits) -> Any:
        """The figure."""
        columns, rows = torch.linspace(*limits[:2], CELLS), torch.linspace(*limits[2:], CELLS)
        places = torch.cartesian_prod(rows, columns).flip(1)
        found: dict[str, Tensor] = {}
        title = "p(x)"
        if isinstance(data, KnownDensity):
            found["the data's density"] = data.log_density(places)
            title = f"p(x); the data's entropy is {data.entropy:.4f} nats"
        at = places.to(method.device, method.dtype)
        if method.num_classes is None:
            found["the method's density"] = method.log_prob(at)
        else:
            each = [method.log_prob(at, torch.full((len(at),), label, device=at.device)) for label in range(method.num_classes)]
            found["the method's density"] = torch.stack(each).float().logsumexp(0) - torch.tensor(len(each)).log()
        grids = {name: values.exp().view(CELLS, CELLS).float().cpu().numpy() for name, values in found.items()}
        return flow_drawing.densities(grids, method.sample(POINTS).float().cpu().numpy(), limits, title)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir  # asked by every process, because Lightning broadcasts it
        board, method = writer(trainer), pl_module
        if board is None or folder is None or self.limits is None or not isinstance(method, MovesInLayers):
            return
        with isolated(SEED):
            z = method.base_sample(POINTS)
            labels = None
            if isinstance(method, HasLogProb) and method.num_classes is not None:
                labels = torch.arange(POINTS, device=z.device) % method.num_classes
            clouds = torch.stack(method.layers(z, labels)).float().cpu()
        limits = drawing.around(torch.cat([clouds[0], clouds[-1]]), MARGIN)
        board.add_figure("layers", flow_drawing.layers(clouds.numpy(), limits), steps_done(trainer))
        self.write(Path(folder) / "layers.gif", clouds, limits)

    def write(self, target: Path, clouds: Tensor, limits: drawing.Limits) -> None:
        """The film."""
        drawn = map(Image.fromarray, flow_drawing.film(clouds.numpy(), BETWEEN, limits))
        # One palette for all, since finding one takes as long as drawing a picture: the base's, which shows every colour.
        pictures = [next(drawn).quantize(64, Image.Quantize.MAXCOVERAGE)]  # in which white stays white
        pictures += [picture.quantize(palette=pictures[0], dither=Image.Dither.NONE) for picture in drawn]
        times = [LAYER_MILLISECONDS, *[FRAME_MILLISECONDS] * (BETWEEN - 1)] * (len(clouds) - 1)
        write_film(target, pictures, [*times, LAST_MILLISECONDS])
