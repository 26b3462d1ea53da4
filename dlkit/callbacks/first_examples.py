"""FirstExamples: the base of callbacks that look at a few held-out examples after each validation."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from dlkit.batches import Examples


class FirstExamples(L.Callback):
    """Keeps validation's first batches until they hold `most` examples; `take()` hands them over and forgets them."""

    most: int

    def __init__(self) -> None:
        self.seen: list[Examples] = []

    def wanted(self, trainer: L.Trainer) -> bool:
        """Whether this validation is to be looked at."""
        return in_training(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, Examples) and sum(len(seen.x) for seen in self.seen) < self.most and self.wanted(trainer):
            self.seen.append(batch)

    def take(self) -> Examples | None:
        """The examples of this validation, whole batches; None where none were wanted."""
        seen, self.seen = self.seen, []
        if not seen:
            return None
        labels = [batch.y for batch in seen if batch.y is not None]
        return Examples(torch.cat([batch.x for batch in seen]), torch.cat(labels) if labels else None)


def in_training(trainer: L.Trainer) -> bool:
    """Whether a validation is one of training's own."""
    return not trainer.sanity_checking and trainer.state.fn == "fit"
