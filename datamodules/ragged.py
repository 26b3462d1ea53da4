"""Sequences of different lengths in memory, and the loader that puts those of like length into one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules import loader as loaders
from datamodules.loader import Loader


class Ragged:
    """Sequences of different lengths, one behind the other.

    Args:
        values: (total, *shape), the steps of all sequences.
        lengths: (n,), int64, how many steps each has.
    """

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        assert len(values) == int(lengths.sum())
        self.values = values
        self.lengths = lengths
        self.starts = lengths.cumsum(0) - lengths

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Ragged:
        """Sequences of whole numbers, kept as int32."""
        parts = [torch.tensor(sequence, dtype=torch.int32) for sequence in sequences]
        lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        return cls(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int32), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Tensor) -> Ragged:
        """Some of the sequences: (n,), int64."""
        lengths = self.lengths[rows]
        # Not by `index`: one long sequence among many short ones would make it as wide as the long one.
        begin = self.starts[rows] - (lengths.cumsum(0) - lengths)
        return Ragged(self.values[torch.arange(int(lengths.sum())) + torch.repeat_interleave(begin, lengths)], lengths)

    def index(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where each step of some sequences lies in `values`, and which are real: (n, width), int64 and bool."""
        lengths = self.lengths[rows]
        steps = torch.arange(int(lengths.max()) if len(rows) else 0)
        return self.starts[rows].unsqueeze(1) + steps, steps < lengths.unsqueeze(1)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some of the sequences, filled up with zeros to the longest of them.

        Args:
            rows: (n,), int64.

        Returns:
            (n, width, *shape), whole numbers as int64; and the lengths, (n,), int64.
        """
        index, real = self.index(rows)
        values = self.values[index.clamp_(max=max(len(self.values) - 1, 0))]
        values = values.long() if not values.is_floating_point() else values
        values[~real] = 0
        return values, self.lengths[rows]


class BucketLoader(Loader):
    """Iterates over examples of different lengths, those of like length in one batch, so that little is padded.

    The examples are sorted by length, at random among equals, and cut into batches, which come in random order. Lengths
    being what they are, every epoch has the same number of batches.

    Args:
        lengths: (n,), int64, the length of each example; or (n, k), the lengths of its k sequences, by which examples are
            sorted in turn.
        take: rows of examples, (batch,), int64 -> a batch.
        batch_size: examples a batch and process.
        batch_steps: steps a batch and process, padding counted, of all k sequences together; a batch is cut where it reaches
            either bound. 0 for none.
        shuffle: random among equals and in the order of batches; otherwise the same each time, the shortest first.
        seed: of that.

    Raises:
        ValueError: as `Loader`.
    """

    def __init__(
        self,
        lengths: Tensor,
        take: Callable[[Tensor], Any],
        batch_size: int,
        batch_steps: int = 0,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(len(lengths), take, batch_size, shuffle, seed)
        if batch_steps < 0:
            raise ValueError(f"batch_steps={batch_steps}: give a number of steps, or 0 for no bound")
        self.lengths = lengths.view(len(lengths), -1)
        self.cuts: dict[int, list[slice]] = {}
        self.batch_steps = batch_steps

    def order(self) -> Tensor:
        """The examples by length, at random among equals if shuffled: (n,), int64."""
        order = super().order()
        for lengths in self.lengths.unbind(1)[::-1]:
            order = order[lengths[order].argsort(stable=True)]
        return order

    def batches(self) -> list[slice]:
        """Which part of the epoch's order each batch of all processes together is; whoever is left over is in the last."""
        processes = loaders.world()[1]
        if processes not in self.cuts:  # the sorted lengths are the same in every epoch, whoever has them
            self.cuts[processes] = self.cut(processes)
        found = self.cuts[processes]
        if not self.shuffle:
            return found
        return [found[number] for number in torch.randperm(len(found), generator=self.generator()).tolist()]

    def cut(self, processes: int) -> list[slice]:
        """The batches in the order of lengths.

        Raises:
            ValueError: there are more processes than sequences.
        """
        lengths = self.lengths[self.order()]
        if self.size < processes:
            raise ValueError(f"{self.size} sequences cannot be shared by {processes} processes: use fewer devices")
        found: list[slice] = []
        start, stop = 0, processes
        for end in range(2 * processes, self.size + 1, processes):
            each = (end - start) // processes
            width = int(lengths[start:end].amax(0).sum()) if self.batch_steps else 0
            if each > self.batch_size or (self.batch_steps and each * width > self.batch_steps):
                found.append(slice(start, stop))
                start = stop
            stop = end
        return [*found, slice(start, self.size)]
