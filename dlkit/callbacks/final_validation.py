"""FinalValidation: no run ends unvalidated."""

from __future__ import annotations

from typing import Any

import lightning as L


class FinalValidation(L.Callback):
    """Has a run validated where it ends, by `max_epochs` or `max_steps`, also where the interval of validation leaves that out.

    Without it a run of 12 epochs that is validated every 5 would show, measure and choose among the first 10, and one of a few
    steps nothing at all.
    """

    before: tuple[int | None, int | None, int | None] | None = None  # what the Trainer was set to

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loop = trainer.fit_loop
        self.before = trainer.check_val_every_n_epoch, loop.min_epochs, loop.epoch_loop.min_steps
        self.on_train_epoch_start(trainer, pl_module)  # which is not called for an epoch that a resumed run is in the middle of

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.check_val_every_n_epoch and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        by_steps = 0 < trainer.max_steps <= trainer.global_step
        last = trainer.current_epoch + 1 == trainer.max_epochs and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if by_steps or (last and trainer.val_check_interval != 1.0):  # pyright: ignore[reportAttributeAccessIssue]
            if trainer.check_val_every_n_epoch:
                trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True  # Lightning validates where it was asked to stop, in the middle of an epoch as well
            # and where it may: this run is over, whatever the least number of epochs or steps that it was to have.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.before is not None:
            loop = trainer.fit_loop  # a Trainer may fit again
            trainer.check_val_every_n_epoch, loop.min_epochs, loop.epoch_loop.min_steps = self.before
            self.before = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
