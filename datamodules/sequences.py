"""SequenceData: the base of every datamodule of sequences of different lengths."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from datamodules.ragged import BucketLoader
from dlkit.batches import Sequences

Columns = dict[str, Any]  # names -> Tensor or `Ragged`, all of the same number of examples
Split = Literal["train", "val", "test"]


class SequenceData(L.LightningDataModule):
    """Sequences held in memory, those of like length served together.

    A subclass gives `load()`, and, where its batches are not `Sequences`, `collate()` and `lengths()`.

    Args:
        batch_size: sequences a batch and device.
        batch_steps: steps a batch and device, padding counted; a batch ends at whichever bound comes first. 0 for none.
        val_size: sequences held out of the training part for validation, where `load()` gives no part "val".
        split_seed: of that split. The order of training comes from the run's seed.

    Attributes:
        splits: the parts "train", "val" (where there is one) and "test" after `setup()`.
    """

    def __init__(self, batch_size: int = 64, batch_steps: int = 0, val_size: int = 0, split_seed: int = 0) -> None:
        super().__init__()
        if val_size < 0:
            raise ValueError(f"val_size={val_size}: give 0 or more sequences")
        self.batch_size = batch_size
        self.batch_steps = batch_steps
        self.val_size = val_size
        self.split_seed = split_seed
        self.splits: dict[str, Columns] = {}

    def load(self) -> dict[str, Columns]:
        """The parts "train" and "test", and "val" where the data says what it is."""
        raise NotImplementedError(f"{type(self).__name__} has to define load()")

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

    # What Lightning calls --------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        parts = self.load()
        train, number = parts["train"], len(self.lengths(parts["train"]))
        if "val" not in parts and self.val_size:
            kept = self.training_rows(number)
            held_out = torch.ones(number, dtype=torch.bool)
            held_out[kept] = False
            parts["val"], parts["train"] = select(train, held_out.nonzero().squeeze(1)), select(train, kept)
        self.splits = parts

    def training_rows(self, number: int) -> Tensor:
        """Which of the training part's sequences are not held out for validation: (n,), int64, in order.

        Raises:
            ValueError: none would be left.
        """
        if self.val_size >= number:
            raise ValueError(f"val_size={self.val_size} leaves nothing of the {number} training sequences: lower it")
        order = torch.randperm(number, generator=torch.Generator().manual_seed(self.split_seed))
        return order[self.val_size :].sort().values

    def train_dataloader(self) -> BucketLoader:
        # overfit_batches asks for the same batches in every epoch
        return self.loader("train", shuffle=not getattr(self.trainer, "overfit_batches", 0))

    def val_dataloader(self) -> BucketLoader | list[Any]:
        self.setup()
        if "val" in self.splits:
            return self.loader("val")
        # Lightning warns that an empty list may be a mistake; here it is what val_size=0 asks for.
        warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return []

    def test_dataloader(self) -> BucketLoader:
        return self.loader("test")

    # For everybody ---------------------------------------------------------------------------------------------------

    def loader(self, split: Split, shuffle: bool = False) -> BucketLoader:
        """Batches of a split. The seed of the order is the run's (torch's initial seed)."""
        self.setup()
        if split not in self.splits:
            raise ValueError(
                f"there is no split {split!r}, only {', '.join(sorted(self.splits))}: name one of them, "
                f"or make a validation split with val_size"
            )
        part = self.splits[split]
        return BucketLoader(
            self.lengths(part), lambda rows: self.collate(part, rows), self.batch_size, self.batch_steps, shuffle,
            seed=torch.initial_seed(),
        )  # fmt: skip

    def batches(self, split: Split = "train", device: str | torch.device = "cpu", epoch: int = 0) -> Iterator[Any]:
        """One pass over a split, ready for `Method.loss`: "train" shuffled, the others by length.

        Args:
            split: "train", "val" or "test".
            device: where the batches go.
            epoch: whose order "train" has; a loop that always asks for the same epoch always gets the same order.
        """
        loader = self.loader(split, shuffle=split == "train")
        loader.set_epoch(epoch)
        for batch in loader:
            yield type(batch)(*(part if part is None else part.to(device) for part in batch))


def select(part: Columns, rows: Tensor) -> Columns:
    """The examples at `rows`."""
    return {name: column[rows] for name, column in part.items()}
