"""What the bar and TensorBoard say of a run whose gradients are added up over several batches."""

from __future__ import annotations

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Digits
from dlkit.callbacks import Progress, Summary


class Bar(Progress):
    """Draws after every batch, and keeps what it showed."""

    def __init__(self):
        super().__init__()
        self.interval, self.shown = 0.0, []

    def draw(self, trainer):
        super().draw(trainer)
        self.shown.append((self.bar.n, float(self.bar.postfix.removeprefix("loss "))))


def test_steps_are_optimizer_steps_and_the_loss_is_that_of_a_batch(tmp_path):
    runs = {}
    for parts in (1, 4):  # of ten batches an epoch
        L.seed_everything(3, verbose=False)
        bar = Bar()
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=2, limit_val_batches=0, accumulate_grad_batches=parts, callbacks=[bar, Summary()],
            logger=TensorBoardLogger(tmp_path, version=parts), log_every_n_steps=1, enable_checkpointing=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(dlkit.Autoencoder((1, 8, 8), 4, hidden_dims=(8,)), datamodule=Digits(batch_size=120))
        board = EventAccumulator(str(tmp_path / "lightning_logs" / f"version_{parts}"))
        board.Reload()
        runs[parts] = bar.shown, board.Scalars("train/learning_rate")
    (ones, _), (fours, written) = runs[1], runs[4]
    assert ones[0][1] == fours[0][1]  # before the first step
    assert [steps for steps, _ in fours[:10]] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    assert fours[-1][0] == 6 and ones[-1][0] == 20
    assert len(written) == 6  # once a step
    assert fours[5][1] == pytest.approx(ones[5][1], rel=0.3)
