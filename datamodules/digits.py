"""Digits: scikit-learn's 1,797 real handwritten digits of 8x8 pixels, embedded in the library, no download."""

from __future__ import annotations

from typing import Any

from datamodules.base import Binarize, ImageData
from dlkit.batches import Examples


class Digits(ImageData):
    """8x8 grey digits with 17 levels, x = level / 16, in ten classes: UCI's optical recognition test set.

    The test part is a fifth, chosen by seed 0 as scikit-learn's `train_test_split(test_size=0.2, random_state=0)` does.

    Args:
        batch_size, val_size, split_seed, binarize, shift: see `ImageData`.
    """

    data_shape = (1, 8, 8)
    num_classes = 10
    num_levels = 17
    class_names = tuple("0123456789")

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 237,
        split_seed: int = 0,
        binarize: Binarize = "none",
        shift: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, split_seed, binarize, shift)

    def load(self) -> dict[str, Examples]:
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        x = torch.from_numpy(digits["images"]).to(torch.uint8).unsqueeze(1)
        y = torch.from_numpy(digits["target"]).long()
        train, test = train_test_split(torch.arange(len(x)).numpy(), test_size=0.2, random_state=0)
        return {"train": Examples(x[train], y[train]), "test": Examples(x[test], y[test])}
