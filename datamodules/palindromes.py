"""Palindromes: sequences to be recognised, on which a network's memory is found out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from datamodules.columns import Columns
from datamodules.ragged import Ragged
from datamodules.sequences import SequenceData

Negatives = Literal["hard", "random"]
NUM_TEST = 10_000


class Palindromes(SequenceData):
    """Sequences of 1 to 10 symbols; the label is 1 for one that reads the same backwards, and 0 otherwise.

    The course's toy problem. Every length is as frequent as the others, and at each but the first half of the sequences
    are palindromes: a sequence of length 1 always is one. Symbols are the tokens 1 .. num_symbols; 0 is padding.

    Args:
        negatives: "hard": a palindrome with one symbol changed, so that every pair has to be compared; "random": symbols
            drawn independently until they are no palindrome, most of which the first and the last symbol give away.
        num_symbols: how many symbols there are.
        max_length: of a sequence.
        num_examples: sequences drawn for training and validation together; 10,000 more are the test part.
        batch_size, batch_steps, val_size, split_seed: see `SequenceData`; the seed is of the sequences too.

    Raises:
        ValueError: fewer than two symbols or steps, or unknown negatives.
    """

    num_classes = 2
    class_names = ("other", "palindrome")

    def __init__(
        self,
        negatives: Negatives = "hard",
        num_symbols: int = 10,
        max_length: int = 10,
        num_examples: int = 100_000,
        batch_size: int = 128,
        batch_steps: int = 0,
        val_size: int = 5000,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batch_steps, val_size, split_seed)
        if negatives not in ("hard", "random"):
            raise ValueError(f"unknown negatives {negatives!r}: use 'hard' or 'random'")
        if num_symbols < 2 or max_length < 2:
            raise ValueError(f"num_symbols={num_symbols} and max_length={max_length}: give 2 or more")
        if num_examples < 1:
            raise ValueError(f"num_examples={num_examples}: give at least 1")
        self.negatives: Negatives = negatives
        self.num_symbols = num_symbols
        self.max_length = max_length
        self.num_examples = num_examples
        self.vocab_size = num_symbols + 1

    def load(self) -> dict[str, Columns]:
        seed = 1000 * self.split_seed
        return {"train": self.draw(self.num_examples, seed + 1), "test": self.draw(NUM_TEST, seed + 2)}

    def draw(self, n: int, seed: int) -> Columns:
        """n sequences `x` and their labels `y`."""
        generator = torch.Generator().manual_seed(seed)

        def whole(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator)

        lengths = whole(1, self.max_length + 1, n)
        y = ((lengths == 1) | (whole(0, 2, n) == 1)).long()
        steps = torch.arange(self.max_length)
        mirror = (lengths.unsqueeze(1) - 1 - steps).clamp(min=0)
        half = whole(1, self.num_symbols + 1, n, self.max_length)
        x = half.gather(1, torch.minimum(steps.expand(n, -1), mirror))
        other = y == 0
        if self.negatives == "hard":
            # Not the middle one, whose change leaves a palindrome.
            place = (torch.rand(n, generator=generator) * (lengths // 2)).long()
            place = torch.where(whole(0, 2, n) == 1, lengths - 1 - place, place)
            changed = (x.gather(1, place.unsqueeze(1)) - 1 + whole(1, self.num_symbols, n, 1)) % self.num_symbols + 1
            x = torch.where(other.unsqueeze(1), x.scatter(1, place.unsqueeze(1), changed), x)
        else:
            while other.any():
                x[other] = whole(1, self.num_symbols + 1, int(other.sum()), self.max_length)
                other = other & is_palindrome(x, lengths)
        real = steps < lengths.unsqueeze(1)
        return {"x": Ragged(x[real].int(), lengths), "y": y}


def is_palindrome(x: Tensor, lengths: Tensor) -> Tensor:
    """Which sequences read the same backwards: (n, width), (n,) -> (n,), bool."""
    steps = torch.arange(x.shape[1])
    mirror = (lengths.unsqueeze(1) - 1 - steps).clamp(min=0)
    return ((x == x.gather(1, mirror)) | (steps >= lengths.unsqueeze(1))).all(1)
