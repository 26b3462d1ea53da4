"""Checkpoints: two files a run, `last.ckpt` to resume from and `best.ckpt` to use, each written whole or not at all."""

from __future__ import annotations

import copy
import io
import math
import os
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from dlkit.callbacks.ema import ExponentialMovingAverage
from dlkit.errors import NonFiniteError
from dlkit.processes import whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads one without letting it run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises OSError, naming the file and the mend, when it cannot be written."""
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as temporary, temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            kept = "the previous one is kept" if path.exists() else "there is no earlier one"
            raise OSError(
                f"the checkpoint {path} could not be written ({error.strerror}); {kept}: make room, then go on with --resume"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        # Onto the CPU, as Lightning's own does: the device that wrote it may not be here, or be another process's.
        return torch.load(path, map_location=map_location, weights_only=True)


def stopped_early(saved: dict[str, Any], trainer: L.Trainer) -> EarlyStopping | None:
    """The Trainer's EarlyStopping, if any, that had asked to stop before a checkpoint was saved, which it cannot take back."""
    states = saved.get("callbacks", {})
    stopping = (one for one in trainer.early_stopping_callbacks if states.get(one.state_key, {}).get("stopping_reason"))
    return next(stopping, None)


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` every so many seconds and at the end, and `best.ckpt` whenever the monitored metric improves.

    Both lie in `<the run's folder>/checkpoints`. In the middle of an epoch `last.ckpt` is saved between two steps, at its end
    after validation, so that a resumed run goes on as if nothing had happened.

    Args:
        monitor: the metric that `best.ckpt` goes by; without validation there is no `best.ckpt`. None: the last
            validated one, where no metric may choose (a generator's figure is that of its last step, not of its luckiest).
        mode: whether less or more of it is better.
        every_n_seconds: at least so long between two `last.ckpt`; 0 saves after every step.
    """

    def __init__(
        self, monitor: str | None = "val/loss", mode: Literal["min", "max"] = "min", every_n_seconds: float = 30.0
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self.mode = mode
        self.every_n_seconds = every_n_seconds
        self.best_score: float | None = None
        self.best_model_path = ""
        self.folder = Path()
        self.saved_at = 0.0
        # Lightning's, at the step before this validation, or before the run's end: in mid-epoch, where Lightning says that the
        # epoch is over once a run has ended, and what is left of it would be passed over.
        self.progress: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            root = trainer.log_dir or trainer.default_root_dir
            self.folder = Path(trainer.strategy.broadcast(str(root))) / "checkpoints"
            self.saved_at = time.monotonic()
            if trainer.is_global_zero:
                for leftover in self.folder.glob("*.tmp"):  # of a run that was killed while it wrote
                    leftover.unlink()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.progress = None  # of the step before

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients that are still being accumulated are in no checkpoint, so there is none between two optimizer steps. The
        # last step of an epoch is saved when that is over, unless the run is counted in steps.
        last = batch_idx + 1 >= trainer.num_training_batches
        if trainer.max_steps <= 0 if last else (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        due, ended = self.due(trainer, batch_idx), trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        # Lightning takes its time to say whether validation follows, so it is not asked where none can.
        interval = trainer.val_check_batch if trainer.check_val_every_n_epoch else None
        if not (due or ended or last or interval is None or (batch_idx + 1) % interval == 0):
            return
        if loop.done or loop._should_check_val_fx(fetcher):
            # A run that goes on from here passes over the validation that follows, so this is saved after that.
            self.progress = copy.deepcopy(trainer._checkpoint_connector._get_loops_state_dict())
        elif due:
            self.save_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs_over = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        steps_over = 0 < trainer.max_steps <= trainer.global_step
        # Lightning counts an epoch twice that a run counted in steps goes on from the end of: it has to be from its last step.
        exact = trainer.max_steps <= 0 or self.progress is not None
        if epochs_over or steps_over or trainer.should_stop or (exact and self.due(trainer, 0)):
            self.save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self.monitor is None or self.better(trainer):
            self.save_best(trainer)
        if self.progress is not None and self.due(trainer, 0):
            self.save_last(trainer)

    def better(self, trainer: L.Trainer) -> bool:
        """Whether the monitored metric has improved, which is remembered."""
        assert self.monitor is not None
        metric = trainer.callback_metrics.get(self.monitor)
        if metric is None:
            raise ValueError(
                f"--checkpoint.monitor {self.monitor}: no such metric, the run records {sorted(trainer.callback_metrics)}"
            )
        score = float(metric)
        if not math.isfinite(score):
            raise NonFiniteError(
                f"{self.monitor} is {score} at step {trainer.global_step}: lower the learning rate or look at the data; "
                f"what was saved before is kept"
            )
        better = self.best_score is None or (score < self.best_score if self.mode == "min" else score > self.best_score)
        if better:
            self.best_score = score
        return better

    def save_best(self, trainer: L.Trainer) -> None:
        """Saves `best.ckpt`."""
        self.best_model_path = str(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.best_model_path, weights_only=False)

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Whether it is time, decided by the first process for all: saving takes every one of them."""
        if trainer.world_size > 1:
            if batch_idx % trainer.log_every_n_steps:  # pyright: ignore[reportAttributeAccessIssue]
                return False
            return trainer.strategy.broadcast(time.monotonic() - self.saved_at >= self.every_n_seconds)
        return time.monotonic() - self.saved_at >= self.every_n_seconds

    def save_last(self, trainer: L.Trainer) -> None:
        """Saves `last.ckpt`, but nothing in a trial run (fast_dev_run)."""
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        self.saved_at = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.progress is not None:
            checkpoint["loops"] = self.progress

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and stopped_early(checkpoint, trainer):
            trainer.should_stop = True  # from the end of the least number of epochs or steps that it was to have
        averaging = any(isinstance(callback, ExponentialMovingAverage) for callback in trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.state.fn == "fit" and "ema" in checkpoint and not averaging:
            raise ValueError(
                "the checkpoint holds a moving average of the parameters and the run to go on with it does not: put "
                "dlkit.callbacks.ExponentialMovingAverage back among trainer.callbacks"
            )

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("monitor", "mode", "best_score", "best_model_path")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A run may go on with another metric, of which no score is known yet.
        same = all(state_dict.get(name) == getattr(self, name) for name in ("monitor", "mode"))
        self.best_score = state_dict["best_score"] if same else None
        self.best_model_path = state_dict["best_model_path"]
