"""SetOutliers: sets of pictures of one digit, and among them one of another."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.base import Split
from datamodules.columns import Columns
from datamodules.digit_sets import DigitSets, DigitSource
from datamodules.ragged import Ragged

TEST_SETS = 2000


class SetOutliers(DigitSets):
    """Sets of `set_size` pictures, all but one of the same digit; the label is the place of the odd one.

    A guess finds it once in `set_size` times. After the sets of 16 faces of Zaheer et al. 2017 (arXiv:1703.06114, section 4.3).
    Both digits are drawn anew for each set, and the pictures of a set are all different. `member_y` is 1 of the odd one.

    Args:
        source: "digits" or "mnist": see `DigitSets`.
        set_size: pictures in a set.
        num_examples: training sets.
        val_size: validation sets. There are 2000 test sets.
        batch_size, root, shift, split_seed: see `DigitSets`.

    Raises:
        ValueError: sets of fewer than 3, no sets; in use, too few pictures of a digit for a set; and as `DigitSets`.
    """

    def __init__(
        self,
        source: DigitSource = "digits",
        set_size: int = 16,
        num_examples: int = 20_000,
        val_size: int = 1000,
        batch_size: int = 64,
        root: str | None = None,
        shift: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(source, batch_size, root, shift, split_seed)
        if set_size < 3:
            raise ValueError(f"set_size={set_size}: of fewer than 3 members none is the odd one")
        if num_examples < 1 or val_size < 1:
            raise ValueError(f"num_examples={num_examples} and val_size={val_size}: give at least 1")
        self.set_size = set_size
        self.numbers: dict[Split, int] = {"train": num_examples, "val": val_size, "test": TEST_SETS}

    def draw(self, part: Split, pictures: Tensor, generator: torch.Generator) -> Columns:
        number, size = self.numbers[part], self.set_size
        common = torch.randint(10, (number,), generator=generator)
        odd = (common + torch.randint(1, 10, (number,), generator=generator)) % 10
        members = torch.empty(number, size, dtype=torch.int64)
        for digit in range(10):
            shown = pictures[self.labels[pictures] == digit]
            if len(shown) < size - 1:
                raise ValueError(
                    f"set_size={size}: the {part} part of {self.source} has {len(shown)} pictures of a {digit}: give at most "
                    f"{len(shown) + 1}"
                )
            rows = (common == digit).nonzero().flatten()
            # The places of the greatest of random numbers are a random choice without repetition.
            chosen = torch.rand(len(rows), len(shown), generator=generator).topk(size - 1).indices
            members[rows, 1:] = shown[chosen]
            rows = (odd == digit).nonzero().flatten()
            members[rows, 0] = shown[torch.randint(len(shown), (len(rows),), generator=generator)]
        place = torch.randint(size, (number,), generator=generator)
        first, sets = members[:, 0].clone(), torch.arange(number)
        members[:, 0] = members[sets, place]
        members[sets, place] = first
        sizes = torch.full((number,), size)
        marks = torch.zeros(number, size, dtype=torch.int64).index_put_((sets, place), torch.tensor(1))
        return {"x": Ragged(members.flatten().int(), sizes), "y": place, "member_y": Ragged(marks.flatten(), sizes)}

    def trivial_baselines(self) -> dict[str, float]:
        """How often a guess finds the odd one."""
        return {"chance": 1 / self.set_size}
