"""DrawnPoints: the base of points that are drawn from a density that is known."""

from __future__ import annotations

from datamodules.base import MemoryData
from dlkit.batches import Examples

NUM_TEST = 10_000


class DrawnPoints(MemoryData):
    """Independent points, as many as are asked for.

    A subclass gives `draw()`.

    Args:
        num_examples: points drawn for training and validation together; 10,000 more are the test part.
        batch_size, val_size: see `MemoryData`.
        split_seed: of the points, and of the validation split.

    Raises:
        ValueError: no examples.
    """

    def __init__(self, num_examples: int, batch_size: int, val_size: int, split_seed: int) -> None:
        super().__init__(batch_size, val_size, split_seed)
        if num_examples < 1:
            raise ValueError(f"num_examples={num_examples}: give at least 1")
        self.num_examples = num_examples

    def load(self) -> dict[str, Examples]:
        # A seed for each part, and none that of the validation split: randperm and randint would use the same numbers.
        return {
            "train": self.draw(self.num_examples, seed=1000 * self.split_seed + 1),
            "test": self.draw(NUM_TEST, seed=1000 * self.split_seed + 2),
        }

    def draw(self, n: int, seed: int) -> Examples:
        """Independent points x (n, *data_shape), float32, with what part of the density each is of, y (n,), int64."""
        raise NotImplementedError(f"{type(self).__name__} has to define draw()")
