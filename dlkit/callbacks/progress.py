"""Progress: one bar for the whole run, with the loss and the time left."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from dlkit.method import Method

REFRESH_SECONDS = 0.2
REFRESH_SECONDS_IN_A_FILE = 30.0


class Progress(ProgressBar):
    """Epoch, steps, loss, and the time left until the run's end, not the epoch's. The loss is read when the bar is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.pending = 0
        self.outputs: Any = None
        self.epoch = 0
        self.drawn_at = 0.0
        self.enabled = True
        self.interval = REFRESH_SECONDS if sys.stderr.isatty() else REFRESH_SECONDS_IN_A_FILE

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        unknown = trainer.max_epochs in (None, -1) or math.isinf(trainer.num_training_batches)
        endless = trainer.max_steps < 0 and unknown
        total = pl_module.total_steps() if isinstance(pl_module, Method) and not endless else None
        if self.enabled:
            self.bar = tqdm(
                total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True, mininterval=0, miniters=1
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or batch_idx + 1 == trainer.num_training_batches
        self.pending += stepped
        self.epoch = trainer.current_epoch + 1  # which Lightning counts up before the bar is drawn for the last time
        self.outputs = outputs
        if self.bar is not None and time.monotonic() - self.drawn_at > self.interval:
            self.draw(trainer)

    def draw(self, trainer: L.Trainer) -> None:
        """Brings the bar up to date."""
        assert self.bar is not None
        last = trainer.max_epochs
        self.bar.set_description_str(
            f"epoch {self.epoch}" if last in (None, -1) else f"epoch {self.epoch}/{last}", refresh=False
        )
        if isinstance(self.outputs, dict) and "loss" in self.outputs:
            self.bar.set_postfix_str(f"loss {self.loss(trainer):.4g}", refresh=False)
        self.bar.update(self.pending)
        self.pending = 0
        self.drawn_at = time.monotonic()

    def loss(self, trainer: L.Trainer) -> float:
        """Of the last batch; Lightning gives it divided by the number of batches whose gradients are added up."""
        parts = trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else 1
        return parts * float(self.outputs["loss"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is not None:
            self.draw(trainer)
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        tqdm.write(" ".join(str(arg) for arg in args))
