"""DigitSets: the base of datamodules of sets whose members are digits, pictures of them or symbols."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.base import ImageData, Split, not_negative, random_deformation, random_shift
from datamodules.columns import Columns
from datamodules.digits import Digits
from datamodules.mnist import MNIST
from datamodules.sets import SetData
from dlkit.batches import Sets

DigitSource = Literal["symbols", "digits", "mnist"]
PARTS: tuple[Split, ...] = ("train", "val", "test")


class DigitSets(SetData):
    """Sets of digits: tokens, or grey pictures from `Digits` or `MNIST`.

    In memory lie the pictures once, as bytes, and of each set which pictures it has; `prepare` puts them in their places on the
    device that trains. Training, validation and test sets are made of the training, validation and test pictures of the source,
    so that no picture is in two parts.

    A subclass gives `draw`.

    Args:
        source: "digits", scikit-learn's of 8x8 pixels; "mnist", of 28x28; or "symbols", a token for each digit: 1 for 0, ...,
            10 for 9, so that 0 is left for padding.
        batch_size: sets a batch and device.
        root: where the files of "mnist" lie; see `MNIST`.
        shift: training pictures are moved by up to so many pixels in each direction, filled with zeros.
        deform: training pictures are turned, stretched, sheared and bent by up to so much; see
            `datamodules.base.random_deformation`.
        split_seed: of the sets. Which pictures are whose is the source's choice, by its defaults.

    Raises:
        ValueError: an unknown source, a negative shift, or a deformation outside [0, 1); in use, a damaged file of "mnist".
        FileNotFoundError: in use, a file of "mnist" is absent and cannot be downloaded.

    Attributes:
        data_shape: (1, height, width) of pictures, () of symbols.
        vocab_size: 11 of symbols, None of pictures.
        sources: what a subclass allows.
        images: after `setup()`, every picture of the source: (images, 1, height, width), uint8.
        labels: their digits, (images,), int64; of symbols 0 .. 9.
    """

    sources: tuple[DigitSource, ...] = ("digits", "mnist")
    images: Tensor
    labels: Tensor

    def __init__(
        self,
        source: DigitSource,
        batch_size: int,
        root: str | None = None,
        shift: int = 0,
        split_seed: int = 0,
        deform: float = 0.0,
    ) -> None:
        super().__init__(batch_size, split_seed=split_seed)
        if source not in self.sources:
            raise ValueError(f"unknown source {source!r}: use {' or '.join(map(repr, self.sources))}")
        self.source: DigitSource = source
        self.root = root
        self.shift = not_negative("shift", shift, "pixels")
        if not 0 <= deform < 1:
            raise ValueError(f"deform={deform}: give a share of the picture's size, 0 or more and below 1, such as 0.15")
        self.deform = deform
        if source == "symbols":
            self.data_shape, self.vocab_size = (), 11
        else:
            self.data_shape, self.num_levels = self.single().data_shape, self.single().num_levels

    def single(self) -> ImageData:
        """The labelled pictures that members are taken from."""
        return Digits() if self.source == "digits" else MNIST(self.root)

    def draw(self, part: Split, pictures: Tensor, generator: torch.Generator) -> Columns:
        """The sets of a part.

        Args:
            part: "train", "val" or "test".
            pictures: (n,), int64, which of `labels`, and of `images`, they may have.
            generator: of what is random.

        Returns:
            The columns of `SetData`, where "x" says which pictures a set has: `Ragged`, int32.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define draw()")

    def prepare_data(self) -> None:
        if self.source != "symbols":
            self.single().prepare_data()

    def load(self) -> dict[str, Columns]:
        pictures = self.read()
        # A seed for each part, and for each split_seed.
        generators = (torch.Generator().manual_seed(1000 * self.split_seed + number) for number in (1, 2, 3))
        return {part: self.draw(part, pictures[part], generator) for part, generator in zip(PARTS, generators, strict=True)}

    def read(self) -> dict[Split, Tensor]:
        """Sets `labels` and `images`, and tells which of them each part may use: (n,), int64."""
        if self.source == "symbols":
            self.labels = torch.arange(10)
            return dict.fromkeys(PARTS, self.labels)
        single = self.single()
        single.setup()
        parts = [single.splits[part] for part in PARTS]
        self.images = torch.cat([part.x for part in parts])
        self.labels = torch.cat([part.y for part in parts])
        rows = torch.arange(len(self.labels)).split([len(part.x) for part in parts])
        return dict(zip(PARTS, rows, strict=True))

    def prepare(self, batch: Sets, training: bool = False) -> Any:
        """Which members to the members: x (members,) -> (members, 1, height, width), float32 in [0, 1]; or tokens.

        Args:
            batch: as it lies in memory.
            training: whether to move the pictures.
        """
        if self.source == "symbols":
            return batch._replace(x=batch.x + 1)
        self.images = self.images.to(batch.x.device)  # moved by the first batch, and there for the others
        x = self.images[batch.x].float().div_(self.num_levels - 1)
        if training and self.deform:
            x = random_deformation(x, self.deform, self.shift)
        elif training and self.shift:
            x = random_shift(x, self.shift)
        dtype = torch.float32 if self.trainer is None else self.trainer.lightning_module.dtype
        return batch._replace(x=x.to(dtype))  # other than float32 in "true" half precision
