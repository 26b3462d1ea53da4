"""GANLab: two players on the plane, watched as they learn (Kahng et al. 2018, arXiv:1809.01587)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dlkit.batches import Examples
from dlkit.callbacks import adversarial_drawing, drawing
from dlkit.callbacks.diagnostics import check_players, is_conditional
from dlkit.callbacks.film import write_film
from dlkit.callbacks.random_state import isolated
from dlkit.callbacks.summary import writer

POINTS = 250
ARROWS = 40
CELLS = 80  # of the critic's surface, in each direction
MARGIN = 0.3  # around the real points, of their extent
MOST_FRAMES = 200
FRAME_MILLISECONDS = 120
LAST_MILLISECONDS = 2500
SEED = 4


class GANLab(L.Callback):
    """Draws real and generated points on the critic's surface, with arrows where the generator's loss tells 40 of the
    generated points to go: into TensorBoard as `gan_lab`, and when training ends as the film `gan_lab.gif` in the run's folder.

    The first batch's real points, the axes around them and the latents are the same all through a run. An arrow is minus the
    gradient of the generator's loss at its point (`Pulls`); each picture has its own scale, named below it. The surface is
    the probability D(x) where the critic's logits are log odds; otherwise the critic's value, coloured about the middle
    between its means at real and at generated points. The dashed line is where the critic is undecided. The surface of a
    conditional method is averaged over the labels.

    Each picture is kept as `gan_lab/<step>.png` beside the checkpoints, so a resumed run goes on with the film; it draws again
    what lies after its checkpoint. A run from the start in the same folder removes the pictures of an earlier one. Without
    TensorBoard nothing is drawn. Nothing it does disturbs the random state of training.

    Args:
        every_n_steps: how often, in the Trainer's steps, from before the first; the end is always drawn.

    Raises:
        ValueError: fewer than 1 step; a method without generator and critic; data that are no points of the plane.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: draw every 1 or more steps")
        self.every_n_steps = every_n_steps
        self.real: Tensor | None = None
        self.labels: Tensor | None = None
        self.folder: Path | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        check_players(pl_module, type(self).__name__)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir  # asked by every process, because Lightning broadcasts it
        if writer(trainer) is None or folder is None:
            return
        self.folder = Path(folder) / "gan_lab"
        self.folder.mkdir(parents=True, exist_ok=True)
        for frame in self.frames():
            if int(frame.stem) >= trainer.global_step:
                frame.unlink()

    def frames(self) -> list[Path]:
        """The pictures of this run, in order."""
        return [] if self.folder is None else sorted(self.folder.glob("*.png"))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.real is None:
            if not isinstance(batch, Examples) or batch.x.shape[1:] != (2,):
                shape = tuple(batch.x.shape[1:]) if isinstance(batch, Examples) else type(batch).__name__
                raise ValueError(f"GANLab shows points of the plane, shape (2,), and the data are {shape}: leave it out")
            self.real = batch.x[:POINTS].detach().float().cpu()
            self.labels = None if batch.y is None else batch.y[:POINTS].cpu()
        if trainer.global_step % self.every_n_steps == 0:
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.real is not None:
            self.draw(trainer, pl_module)
            self.write_film()

    def draw(self, trainer: L.Trainer, method: Any) -> None:
        """One picture, into TensorBoard and the run's folder."""
        board = writer(trainer)
        if board is None or self.folder is None:
            return
        step = trainer.global_step
        with isolated(SEED):
            picture = self.picture(method, step)
        board.add_image("gan_lab", picture, step, dataformats="HWC")
        # With a palette, because that is what a GIF holds; one for all, so that a colour means the same all through.
        colours = Image.new("P", (1, 1))
        colours.putpalette(adversarial_drawing.palette())
        frame = Image.fromarray(picture).quantize(palette=colours, dither=Image.Dither.NONE)
        frame.save(self.folder / f"{step:09}.png")

    def picture(self, method: Any, step: int) -> np.ndarray:
        """The scene at a step: (height, width, 3), uint8."""
        assert self.real is not None
        real = self.real.to(method.device, method.dtype)
        labels = self.labels.to(method.device) if self.labels is not None and is_conditional(method) else None
        generated = method.sample(len(real)) if labels is None else method.sample(len(real), labels)
        pulls = method.pull(generated[:ARROWS], real[:ARROWS], None if labels is None else labels[:ARROWS])
        limits = drawing.around(self.real, MARGIN)
        surface = self.surface(method, limits, labels)
        centre = sum(float(method.discriminate(x, labels).float().mean()) for x in (real, generated)) / 2
        real, generated, pulls, surface = (part.float().cpu().numpy() for part in (real, generated, pulls, surface))
        title = f"step {step}: the critic's surface, and where it pulls the generator"
        centre = None if method.log_odds else centre
        return drawing.pixels(adversarial_drawing.plane(real, generated, pulls, surface, limits, centre, title))

    def surface(self, method: Any, limits: tuple[float, float, float, float], labels: Tensor | None) -> Tensor:
        """The critic's values, or probabilities, at evenly spaced places: (CELLS, CELLS), the lowest row first."""
        columns, rows = torch.linspace(*limits[:2], CELLS), torch.linspace(*limits[2:], CELLS)
        places = torch.cartesian_prod(rows, columns).flip(1).to(method.device, method.dtype)
        labelled = [None] if labels is None else [label.expand(len(places)) for label in labels.unique()]
        logits = torch.stack([method.discriminate(places, label).float() for label in labelled])
        return (logits.sigmoid() if method.log_odds else logits).mean(0).view(CELLS, CELLS)

    def write_film(self) -> None:
        """`gan_lab.gif` of at most 200 pictures, evenly chosen, the first and the last among them; it loops."""
        paths = self.frames()
        if not paths or self.folder is None:
            return
        count = min(len(paths), MOST_FRAMES)
        chosen = [paths[round(number * (len(paths) - 1) / max(1, count - 1))] for number in range(count)]
        pictures = [Image.open(path) for path in chosen]
        write_film(self.folder.with_suffix(".gif"), pictures, [FRAME_MILLISECONDS] * (count - 1) + [LAST_MILLISECONDS])
        for picture in pictures:
            picture.close()

    def state_dict(self) -> dict[str, Any]:
        return {"real": self.real, "labels": self.labels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.real, self.labels = state_dict["real"], state_dict["labels"]
