"""DigitBags: bags of pictures of digits, positive where one of them is a certain digit (Ilse et al. 2018, arXiv:1802.04712)."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.base import Split
from datamodules.columns import Columns
from datamodules.digit_sets import DigitSets, DigitSource
from datamodules.ragged import Ragged

NUM_TEST = 1000


class DigitBags(DigitSets):
    """MNIST-bags (section 4.2): bags of digits, labelled 1 where the digit `target` is among them, and 0 otherwise.

    The size of a bag is normal, rounded, and at least 1. Every other bag is positive, as in the authors' data: positive bags
    are bags of any digits, drawn until the target is among them; negative ones are drawn of the other digits. `member_y` is 1
    of each target, a witness. There are 1000 test bags.

    Args:
        source: "digits", scikit-learn's of 8x8 pixels, or "mnist", of 28x28.
        target: the digit that makes a bag positive.
        num_bags: of training.
        mean_size, std_size: of a bag.
        val_size: validation bags.
        batch_size, root, shift, split_seed: see `DigitSets`; bags a batch.

    Raises:
        ValueError: a target that is no digit, fewer than two bags, a size that is none; and as `DigitSets`.
    """

    num_classes = 2
    class_names = ("negative", "positive")

    def __init__(
        self,
        source: DigitSource = "digits",
        target: int = 9,
        num_bags: int = 200,
        mean_size: float = 10.0,
        std_size: float = 2.0,
        val_size: int = 200,
        batch_size: int = 8,
        root: str | None = None,
        shift: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(source, batch_size, root, shift, split_seed)
        if target not in range(10):
            raise ValueError(f"target={target}: name a digit, 0 to 9")
        if num_bags < 2 or val_size < 2:
            raise ValueError(f"num_bags={num_bags} and val_size={val_size}: give at least 2, a positive and a negative bag")
        if mean_size < 1 or std_size < 0:
            raise ValueError(
                f"mean_size={mean_size} and std_size={std_size}: give a mean of 1 or more and a deviation of 0 or more"
            )
        self.target = target
        self.mean_size = mean_size
        self.std_size = std_size
        self.numbers: dict[Split, int] = {"train": num_bags, "val": val_size, "test": NUM_TEST}

    def draw(self, part: Split, pictures: Tensor, generator: torch.Generator) -> Columns:
        witness = self.labels[pictures] == self.target
        number = self.numbers[part]
        positive = self.positive_bags((number + 1) // 2, pictures, witness, generator)
        sizes = self.sizes(number // 2, generator)
        others = pictures[~witness]
        negative = Ragged(others[torch.randint(len(others), (int(sizes.sum()),), generator=generator)], sizes)
        # In turn: 1, 0, 1, 0, ...
        bags = torch.arange(number)
        rows = bags // 2 + bags % 2 * len(positive)
        x = joined([positive, negative])[rows]
        member_y = Ragged((self.labels[x.values] == self.target).long(), x.lengths)
        return {"x": Ragged(x.values.int(), x.lengths), "y": 1 - bags % 2, "member_y": member_y}

    def positive_bags(self, number: int, pictures: Tensor, witness: Tensor, generator: torch.Generator) -> Ragged:
        """Bags of any digits, kept where a witness is among them."""
        found: list[Ragged] = []
        while sum(map(len, found)) < number:
            sizes = self.sizes(2 * number, generator)
            chosen = torch.randint(len(pictures), (int(sizes.sum()),), generator=generator)
            bags = torch.repeat_interleave(sizes)
            witnesses = torch.zeros(len(sizes), dtype=torch.int64).index_add_(0, bags, witness[chosen].long())
            found.append(Ragged(pictures[chosen], sizes)[witnesses.nonzero().flatten()])
        return joined(found)[torch.arange(number)]

    def sizes(self, number: int, generator: torch.Generator) -> Tensor:
        """How many instances bags have: (number,), int64."""
        return (self.mean_size + self.std_size * torch.randn(number, generator=generator)).round().clamp(min=1).long()


def joined(parts: list[Ragged]) -> Ragged:
    """One behind the other."""
    return Ragged(torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts]))
