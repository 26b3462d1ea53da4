"""StackedDigits: three grey digits as the red, green and blue of one picture, a distribution of 1000 known modes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from datamodules.base import ImageData, MemoryData
from datamodules.digits import Digits
from datamodules.mnist import MNIST
from dlkit.batches import Examples

NUM_TEST = 10_000


class StackedDigits(MemoryData):
    """Colour pictures whose channels are independent grey digits a, b and c, float32 in [0, 1]: mode 100 a + 10 b + c.

    A generator is judged by how many of the 1000 modes it reaches (Metz et al. 2017, arXiv:1611.02163), counted with a
    classifier of one channel, for which `single()` is the data. In memory lie the grey images once and, for each picture,
    which three of them it is made of; `prepare` puts the pictures together on the device that trains.

    Deviation from the paper: the pictures are a table of `num_examples`, drawn once, so that an epoch has an end; the
    test part is 10,000 pictures of the source's test images, and all others are of its training images.

    Args:
        source: "digits", scikit-learn's of 8x8 pixels, or "mnist", padded with zeros from 28x28 to 32x32 pixels.
        num_examples: pictures drawn for training and validation together.
        batch_size, val_size: see `MemoryData`.
        root: where the files of "mnist" lie; see `MNIST`.
        split_seed: of the pictures, and of the validation split.

    Raises:
        FileNotFoundError: a file of "mnist" is absent and cannot be downloaded.
        ValueError: a file of "mnist" is damaged.

    Attributes:
        num_modes: 1000, as `num_classes`.
        num_levels: how many values a pixel can take.
        images: the source's grey images after `setup()`, training images first: (images, height, width), uint8.
    """

    num_classes = num_modes = 1000
    class_names = tuple(f"{mode:03}" for mode in range(1000))
    images: Tensor

    def __init__(
        self,
        source: Literal["digits", "mnist"] = "digits",
        num_examples: int = 100_000,
        batch_size: int = 64,
        val_size: int = 5000,
        root: str | None = None,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, split_seed)
        if source not in ("digits", "mnist"):
            raise ValueError(f"unknown source {source!r}: use 'digits' or 'mnist'")
        if num_examples < 1:
            raise ValueError(f"num_examples={num_examples}: give at least 1")
        self.source: Literal["digits", "mnist"] = source
        self.num_examples = num_examples
        self.root = root
        single = self.single()
        self.num_levels = single.num_levels
        self.data_shape = (3, *single.data_shape[1:])

    def single(self) -> ImageData:
        """The labelled grey images of one channel, (1, height, width): what a judge of the modes is trained on."""
        return Digits() if self.source == "digits" else MNIST(self.root, pad=2)

    def prepare_data(self) -> None:
        self.single().prepare_data()

    def load(self) -> dict[str, Examples]:
        """The parts: x (n, 3), int64, which of `images` are the red, green and blue of a picture; y (n,), int64."""
        parts = self.single().load()
        train, test = parts["train"], parts["test"]
        assert train.y is not None and test.y is not None
        self.images = torch.cat([train.x, test.x]).squeeze(1)
        labels, num_train = torch.cat([train.y, test.y]), len(train.x)
        # A seed for each part, and none that of the validation split: randperm and randint would use the same numbers.
        seed = 1000 * self.split_seed
        return {
            "train": draw(labels, 0, num_train, self.num_examples, seed + 1),
            "test": draw(labels, num_train, len(labels), NUM_TEST, seed + 2),
        }

    def prepare(self, batch: Examples, training: bool = False) -> Examples:
        """Triples of images to pictures.

        Args:
            batch: x (batch, 3), as `load` gives it. The pictures are (batch, 3, height, width), float32 in [0, 1].
            training: makes no difference.
        """
        self.images = self.images.to(batch.x.device)  # moved by the first batch, and there for the others
        return batch._replace(x=self.images[batch.x].float().div_(self.num_levels - 1))


def draw(labels: Tensor, start: int, stop: int, n: int, seed: int) -> Examples:
    """n triples of independent images in start .. stop - 1: x (n, 3), int64, and their modes y (n,), int64."""
    triples = torch.randint(start, stop, (n, 3), generator=torch.Generator().manual_seed(seed))
    red, green, blue = labels[triples].unbind(1)
    return Examples(triples, 100 * red + 10 * green + blue)
