"""Data for dlkit's methods: LightningDataModules that know `dlkit.batches` and nothing else of dlkit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.char_text import CharText
    from datamodules.cifar import CIFAR10
    from datamodules.conllu import CoNLLU
    from datamodules.density2d import Density2D
    from datamodules.digits import Digits
    from datamodules.gaussians import Gaussians
    from datamodules.images import Images
    from datamodules.mnist import KMNIST, MNIST, FashionMNIST
    from datamodules.nothing import NoData
    from datamodules.palindromes import Palindromes
    from datamodules.parallel_text import ParallelText
    from datamodules.stacked import StackedDigits
    from datamodules.table import Table
    from datamodules.text_classification import TextClassification

# Public name -> the module that defines it; names are imported when they are first used.
EXPORTS = {
    "Digits": "datamodules.digits",
    "MNIST": "datamodules.mnist",
    "FashionMNIST": "datamodules.mnist",
    "KMNIST": "datamodules.mnist",
    "CIFAR10": "datamodules.cifar",
    "Images": "datamodules.images",
    "Gaussians": "datamodules.gaussians",
    "Density2D": "datamodules.density2d",
    "Table": "datamodules.table",
    "NoData": "datamodules.nothing",
    "StackedDigits": "datamodules.stacked",
    "ParallelText": "datamodules.parallel_text",
    "CharText": "datamodules.char_text",
    "CoNLLU": "datamodules.conllu",
    "Palindromes": "datamodules.palindromes",
    "TextClassification": "datamodules.text_classification",
}

__all__ = [
    "CIFAR10",
    "KMNIST",
    "MNIST",
    "CharText",
    "CoNLLU",
    "Density2D",
    "Digits",
    "FashionMNIST",
    "Gaussians",
    "Images",
    "NoData",
    "Palindromes",
    "ParallelText",
    "StackedDigits",
    "Table",
    "TextClassification",
]


def __getattr__(name: str) -> Any:
    if name in EXPORTS:
        return getattr(importlib.import_module(EXPORTS[name]), name)
    raise AttributeError(f"module 'datamodules' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
