"""SequenceData: the base of every datamodule of sequences of different lengths."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from datamodules.base import SplitData, hold_out, not_negative
from datamodules.ragged import BucketLoader
from dlkit.batches import Sequences

Columns = dict[str, Any]  # names -> Tensor or `Ragged`, all of the same number of examples


class SequenceData(SplitData):
    """Sequences held in memory, those of like length served together.

    A subclass gives `load()`, and, where its batches are not `Sequences`, `collate()` and `lengths()`.

    Args:
        batch_size: sequences a batch and device.
        batch_steps: steps a batch and device, padding counted; a batch ends at whichever bound comes first. 0 for none.
        val_size: sequences held out of the training part for validation, where `load()` gives no part "val".
        split_seed: of that split. The order of training comes from the run's seed.
    """

    def __init__(self, batch_size: int = 64, batch_steps: int = 0, val_size: int = 0, split_seed: int = 0) -> None:
        super().__init__(batch_size)
        self.batch_steps = batch_steps
        self.val_size = not_negative("val_size", val_size, "examples")
        self.split_seed = split_seed

    def lengths(self, part: Columns) -> Tensor:
        """The length by which each example is put beside others: (n,), int64; or (n, k) of k sequences."""
        return part["x"].lengths

    def collate(self, part: Columns, rows: Tensor) -> Any:
        """The batch of some examples: (n,), int64."""
        x, lengths = part["x"].padded(rows)
        return Sequences(x, lengths, part["y"][rows])

    def trivial_baselines(self) -> dict[str, float]:
        """The share of the most frequent class in the test part."""
        counts = self.splits["test"]["y"].bincount()
        return {"majority": float(counts.max() / counts.sum())}

    def divide(self, parts: dict[str, Columns]) -> dict[str, Columns]:
        """The loaded parts with "val" taken out of "train".

        Raises:
            ValueError: nothing would be left to train on.
        """
        if "val" not in parts and self.val_size:
            train = parts["train"]
            kept, held_out = hold_out(len(self.lengths(train)), self.val_size, self.split_seed)
            parts["val"], parts["train"] = select(train, held_out), select(train, kept)
        return parts

    def serve(self, part: Columns, shuffle: bool, seed: int) -> BucketLoader:
        return BucketLoader(
            self.lengths(part), lambda rows: self.collate(part, rows), self.batch_size, self.batch_steps, shuffle, seed
        )


def select(part: Columns, rows: Tensor) -> Columns:
    """The examples at `rows`."""
    return {name: column[rows] for name, column in part.items()}
