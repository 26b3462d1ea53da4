"""FirstBatches and FirstExamples: the bases of callbacks that look at a few held-out examples after each validation."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from dlkit.batches import Examples
from dlkit.method import Method


class FirstBatches(L.Callback):
    """Keeps validation's first batches of one kind until they hold `most` examples; `take_batches()` hands them over.

    Attributes:
        most: examples.
        kind: of batch, one of `dlkit.batches`, or several.
    """

    most: int
    kind: type | tuple[type, ...]

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.number = 0

    def wanted(self, trainer: L.Trainer) -> bool:
        """Whether this validation is to be looked at."""
        return in_training(trainer)

    def known(self, batch: Any) -> Any:
        """A batch as it is kept, if it is of the kind then: itself, unless a subclass knows others."""
        return batch

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.number >= self.most or not self.wanted(trainer):
            return
        batch = self.known(batch)
        if isinstance(batch, self.kind):
            self.seen.append(batch)
            assert isinstance(pl_module, Method)
            self.number += pl_module.batch_size(batch)

    def take_batches(self) -> list[Any]:
        """The batches of this validation, and forgets them; none where none were wanted."""
        seen, self.seen, self.number = self.seen, [], 0
        return seen


class FirstExamples(FirstBatches):
    """The same of `Examples`, which can be put together."""

    kind = Examples

    def take(self) -> Examples | None:
        """The examples of this validation, whole batches; None where none were wanted."""
        seen: list[Examples] = self.take_batches()
        if not seen:
            return None
        labels = [batch.y for batch in seen if batch.y is not None]
        return Examples(torch.cat([batch.x for batch in seen]), torch.cat(labels) if labels else None)


def in_training(trainer: L.Trainer) -> bool:
    """Whether a validation is one of training's own."""
    return not trainer.sanity_checking and trainer.state.fn == "fit"
