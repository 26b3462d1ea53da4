"""NoData: for methods that draw what they learn from."""

from __future__ import annotations

from datamodules.base import SplitData
from datamodules.loader import Loader
from dlkit.batches import Draws


class NoData(SplitData):
    """Batches that say how many examples a method is to draw.

    Args:
        steps: batches an epoch, on one device.
        batch_size: examples a batch and device.
        val_size, test_size: examples of a validation and of the test, in batches of `batch_size`.

    Raises:
        ValueError: fewer than one step or example a batch, or than two examples of which to tell an error.
    """

    def __init__(self, steps: int = 500, batch_size: int = 1024, val_size: int = 16_384, test_size: int = 65_536) -> None:
        super().__init__(batch_size)
        if min(steps, batch_size) < 1 or min(val_size, test_size) < 2:
            raise ValueError(
                f"steps={steps}, batch_size={batch_size}, val_size={val_size} and test_size={test_size}: "
                f"give 1, 1, 2 and 2 or more"
            )
        self.steps = steps
        self.val_size = val_size
        self.test_size = test_size

    def load(self) -> dict[str, int]:
        return {"train": self.steps * self.batch_size, "val": self.val_size, "test": self.test_size}

    def serve(self, part: int, shuffle: bool, seed: int) -> Loader:
        return Loader(part, Draws, self.batch_size, shuffle, seed)
