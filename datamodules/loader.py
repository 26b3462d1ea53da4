"""Loaders: whole batches of data held in memory, in an order that can be resumed and that several processes share.

PyTorch's DataLoader fetches one example at a time and forgets where it was. Data in memory is served several times
faster by indexing a whole batch at once, and an order that is a function of (seed, epoch) needs one number to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dlkit.batches import Examples
from dlkit.processes import world


class EpochLoader:
    """Passes over data in memory, each in an order that follows from seed and epoch, and resumable within one.

    A subclass gives `__len__`, the batches of a pass, and `rest()`, those from `position` on.

    Args:
        batch_size: examples a batch and process.
        shuffle: a new order each epoch.
        seed: of the order.

    Raises:
        ValueError: a batch size below one.
    """

    def __init__(self, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.position = 0  # batches handed out in this epoch
        self.resumed = False

    # Lightning tells the sampler of a loader which epoch it is; this loader is its own, and has no other.
    batch_sampler = None

    @property
    def sampler(self) -> EpochLoader:
        """The loader itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of `epoch`; a resumed loader told its own epoch stays where it was."""
        if epoch != self.epoch:
            self.epoch, self.position, self.resumed = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, for a checkpoint."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where another loader of the same data was."""
        self.seed, self.epoch, self.position = state["seed"], state["epoch"], state["position"]
        self.resumed = True

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has to define __len__()")

    def __iter__(self) -> Iterator[Any]:
        if self.position and not self.resumed:  # the pass before this one, finished or not, is over
            self.epoch, self.position = self.epoch + 1, 0
        self.resumed = False
        yield from self.rest()

    def rest(self) -> Iterator[Any]:
        """The batches of this epoch from `position` on, which goes on with each before it is handed out."""
        raise NotImplementedError(f"{type(self).__name__} has to define rest()")

    def generator(self) -> torch.Generator:
        """The random numbers of this epoch."""
        # Neighbouring seeds and epochs must not share an order: a multiplier keeps them apart before they are added.
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)


class Loader(EpochLoader):
    """Iterates over examples, a whole batch at a time.

    With several processes (torch.distributed) each batch of `batch_size * world_size` examples is dealt out in turn, so
    that n processes see together what one process sees with n times the batch; in evaluation every example is seen once
    and every process sees the same number of batches.

    Args:
        size: how many examples there are.
        take: rows of examples, (batch,), int64 -> a batch.
        batch_size: examples a batch and process. A smaller data set is one batch.
        shuffle: a new order each epoch, and whole batches only: what is left over waits for another epoch.
        seed: of the order.

    Raises:
        ValueError: no examples, or fewer than there are processes.
    """

    def __init__(self, size: int, take: Callable[[Tensor], Any], batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        super().__init__(batch_size, shuffle, seed)
        if not size:
            raise ValueError("there are no examples to load: look at the data and the sizes of its splits")
        self.size = size
        self.take = take

    @classmethod
    def of(cls, examples: Examples, batch_size: int, shuffle: bool = False, seed: int = 0) -> Loader:
        """A loader of `Examples`: x (n, *shape) of any dtype that `index_select` takes, and y (n,) or None, on the CPU."""

        def take(rows: Tensor) -> Examples:
            return examples.map(lambda part: part.index_select(0, rows))  # copies whole rows; part[rows] looks up every number

        return cls(len(examples.x), take, batch_size, shuffle, seed)

    def batches(self) -> list[slice]:
        """Which part of the epoch's order each batch of all processes together is."""
        world_size, n = world()[1], self.size
        if n < world_size:
            raise ValueError(f"{n} examples cannot be shared by {world_size} processes: use fewer devices")
        size = self.batch_size * world_size
        starts = list(range(0, n, size))
        if len(starts) > 1 and n - starts[-1] < (size if self.shuffle else world_size):
            starts.pop()
        stops = [*starts[1:], min(n, starts[-1] + size) if self.shuffle else n]
        return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]

    def __len__(self) -> int:
        return len(self.batches())

    def rest(self) -> Iterator[Any]:
        rank, world_size = world()
        batches = self.batches()
        order = self.order()
        while self.position < len(batches):
            rows = order[batches[self.position]][rank::world_size]
            self.position += 1
            yield self.take(rows)

    def order(self) -> Tensor:
        """The epoch's order: (n,), int64."""
        return torch.randperm(self.size, generator=self.generator()) if self.shuffle else torch.arange(self.size)
