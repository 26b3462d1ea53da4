"""SequenceData: the base of every datamodule of sequences of different lengths."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from datamodules.columns import ColumnData, Columns
from datamodules.ragged import BucketLoader
from dlkit.batches import Sequences


class SequenceData(ColumnData):
    """Sequences held in memory, those of like length served together.

    A subclass gives `load()`, and, where its batches are not `Sequences`, `collate()` and `lengths()`.

    Args:
        batch_size: sequences a batch and device.
        batch_steps: steps a batch and device, padding counted; a batch ends at whichever bound comes first. 0 for none.
        val_size, split_seed: see `ColumnData`.
    """

    def __init__(self, batch_size: int = 64, batch_steps: int = 0, val_size: int = 0, split_seed: int = 0) -> None:
        super().__init__(batch_size, val_size, split_seed)
        self.batch_steps = batch_steps

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

    def serve(self, part: Columns, shuffle: bool, seed: int) -> BucketLoader:
        return BucketLoader(
            self.lengths(part), lambda rows: self.collate(part, rows), self.batch_size, self.batch_steps, shuffle, seed
        )
