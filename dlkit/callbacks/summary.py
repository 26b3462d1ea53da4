"""Summary: what TensorBoard and `run.json` say of a run as a whole."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from dlkit.method import Method
from dlkit.processes import write_whole

LONGEST_SETTING = 200  # of a hyperparameter that TensorBoard's table shows; vocabularies are longer


def writer(trainer: L.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, in the first process of a run that logs there."""
    logger = trainer.logger
    if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
        return logger.experiment
    return None


def steps_done(trainer: L.Trainer) -> int:
    """Batches trained on so far: where on TensorBoard's axis a run is."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


class Summary(L.Callback):
    """Writes the HParams entry with the metrics of validation, or else of training, one chart for each term's `train/` and
    `val/` curves, the learning rate and the speed, and `run.json` with the seed, the wall-clock time and the final metrics.

    Args:
        recipe: the recipe's name, for `run.json`.
        seed: the run's seed, likewise.
        overrides: what the command line changed of the recipe, likewise.
    """

    def __init__(self, recipe: str = "", seed: int | None = None, overrides: tuple[str, ...] = ()) -> None:
        self.overrides = overrides
        self.recipe = recipe
        self.seed = seed
        self.seconds = 0.0
        self.clock = 0.0
        self.logged_at = 0.0
        self.described = False

    def tick(self) -> float:
        """The seconds this run has trained, those before it was resumed included."""
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        return self.seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock = self.logged_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        waiting = trainer.fit_loop._should_accumulate()  # for gradients of the same step
        if waiting or not trainer._logger_connector.should_update_logs or trainer.logger is None:
            return
        now = time.monotonic()
        metrics = {"train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"]}
        if isinstance(pl_module, Method) and batch_idx:
            batches = min(trainer.log_every_n_steps * trainer.accumulate_grad_batches, batch_idx + 1)  # pyright: ignore[reportAttributeAccessIssue]
            examples = pl_module.batch_size(batch) * trainer.world_size * batches
            metrics["train/examples_per_second"] = examples / max(now - self.logged_at, 1e-9)
        self.logged_at = now
        trainer.logger.log_metrics(metrics, step=steps_done(trainer))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.logged_at = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.describe(trainer, pl_module)

    def describe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the HParams entry and the charts, once."""
        if self.described:
            return
        self.described = True
        board = writer(trainer)
        if board is None or board.file_writer is None:
            return
        split = "val" if any(name.startswith("val/") for name in trainer.callback_metrics) else "train"
        names = sorted(name.partition("/")[2] for name in trainer.callback_metrics if name.startswith(f"{split}/"))
        charts = {name: ["Multiline", [f"^train/{name}$", f"^val/{name}$"]] for name in names}
        board.add_custom_scalars({type(pl_module).__name__: charts})
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in pl_module.hparams.items()
            if len(str(value)) <= LONGEST_SETTING
        }
        # TensorBoard shows the newest value of the tags named here, so naming them once is enough.
        for summary in hparams(plain, {f"{split}/{name}": 0.0 for name in names}):
            board.file_writer.add_summary(summary)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.describe(trainer, pl_module)  # of a run without validation
        folder = trainer.log_dir  # asked by every process, because Lightning broadcasts it
        if not trainer.is_global_zero or folder is None or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        record = {
            "recipe": self.recipe,
            "method": type(pl_module).__name__,
            "seed": self.seed,
            "overrides": list(self.overrides),
            "seconds": round(self.tick(), 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        write_whole(Path(folder, "run.json"), json.dumps(record, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.tick(), "described": self.described, "overrides": list(self.overrides)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.described = state_dict["seconds"], state_dict["described"]
        # A run that goes on is still the one that the first command changed.
        self.overrides = (*state_dict.get("overrides", ()), *self.overrides)
