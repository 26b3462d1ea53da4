"""DigitSum: sums of sets of digits, which tell whether a network that learned from small sets knows large ones."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.base import Split
from datamodules.columns import Columns
from datamodules.digit_sets import DigitSets, DigitSource
from datamodules.ragged import Ragged
from datamodules.sets import bounds

TEST_SETS = 2000  # of each size


class DigitSum(DigitSets):
    """Sets of digits 0 .. 9, drawn independently; the target is their sum (Zaheer et al. 2017, arXiv:1703.06114, section 4.1).

    Training sets have 1 to `max_size` members, each size as often as the others. Validation and test sets have the sizes
    `test_sizes`, and may be larger.

    Args:
        source: "symbols", "digits" or "mnist": see `DigitSets`.
        max_size: of training sets.
        test_sizes: of validation and test sets.
        num_examples: training sets.
        val_size: validation sets, shared out among `test_sizes`. There are 2000 test sets of each size.
        batch_size, root, shift, split_seed, deform: see `DigitSets`.

    Raises:
        ValueError: no members or no sets, or fewer validation sets than sizes; and as `DigitSets`.

    Attributes:
        target_mean, target_std: 0, and the root of the mean square over the training part: sums are scaled, but not shifted, so
            that the sum of nothing is 0.
        num_values: 10, from 0 to 9, that a member can add.
    """

    sources = ("symbols", "digits", "mnist")
    num_targets = 1
    num_values = 10
    target_names = ("sum",)

    def __init__(
        self,
        source: DigitSource = "symbols",
        max_size: int = 10,
        test_sizes: tuple[int, ...] = (5, 10, 15, 20, 50, 95),
        num_examples: int = 100_000,
        val_size: int = 1200,
        batch_size: int = 128,
        root: str | None = None,
        shift: int = 0,
        split_seed: int = 0,
        deform: float = 0.0,
    ) -> None:
        super().__init__(source, batch_size, root, shift, split_seed, deform)
        if max_size < 1 or num_examples < 1:
            raise ValueError(f"max_size={max_size} and num_examples={num_examples}: give at least 1")
        if not test_sizes or min(test_sizes) < 1:
            raise ValueError(f"test_sizes={tuple(test_sizes)}: give sizes of 1 or more")
        if val_size < len(test_sizes):
            raise ValueError(f"val_size={val_size} is less than a set of each of the {len(test_sizes)} test_sizes: give more")
        self.max_size = max_size
        self.test_sizes = tuple(test_sizes)
        self.num_examples = num_examples
        self.val_size = val_size

    def draw(self, part: Split, pictures: Tensor, generator: torch.Generator) -> Columns:
        """Sets "x" of pictures, drawn with replacement; their sums "y", (n, 1), float32; and the digits "member_y"."""
        if part == "train":
            sizes = torch.randint(1, self.max_size + 1, (self.num_examples,), generator=generator)
        else:
            each = TEST_SETS if part == "test" else self.val_size // len(self.test_sizes)
            sizes = torch.tensor(self.test_sizes).repeat_interleave(each)
        members = pictures[torch.randint(len(pictures), (int(sizes.sum()),), generator=generator)]
        digits = self.labels[members]
        ends = bounds(digits)[bounds(sizes)]  # of the running sum, at the bounds of the sets
        return {
            "x": Ragged(members.int(), sizes),
            "y": ends.diff().float().unsqueeze(1),
            "member_y": Ragged(digits, sizes),
        }

    @property
    def target_mean(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def target_std(self) -> tuple[float, ...]:
        return tuple(column.square().mean().sqrt().item() for column in self.known_targets())

    def trivial_baselines(self) -> dict[str, float]:
        """The error of taking each member for 4.5, the mean of the digits."""
        self.setup()
        sizes, y = self.splits["test"]["x"].lengths, self.splits["test"]["y"].squeeze(1)
        return {"rmse_of_the_mean": float((y - 4.5 * sizes).square().mean().sqrt())}
