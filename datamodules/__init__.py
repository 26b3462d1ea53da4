"""Data for dlkit's methods: LightningDataModules that know `dlkit.batches` and nothing else of dlkit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.bags import Bags
    from datamodules.char_text import CharText
    from datamodules.charged_particles import ChargedParticles
    from datamodules.cifar import CIFAR10
    from datamodules.conllu import CoNLLU
    from datamodules.density2d import Density2D
    from datamodules.digit_bags import DigitBags
    from datamodules.digit_sum import DigitSum
    from datamodules.digits import Digits
    from datamodules.gaussians import Gaussians
    from datamodules.images import Images
    from datamodules.mnist import KMNIST, MNIST, FashionMNIST
    from datamodules.molecules import SmilesCSV
    from datamodules.nothing import NoData
    from datamodules.palindromes import Palindromes
    from datamodules.parallel_text import ParallelText
    from datamodules.quantum import QM7, QM9
    from datamodules.rings import Rings
    from datamodules.set_outliers import SetOutliers
    from datamodules.stacked import StackedDigits
    from datamodules.table import Table
    from datamodules.text_classification import TextClassification
    from datamodules.tu import TUDataset

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
    "DigitSum": "datamodules.digit_sum",
    "SetOutliers": "datamodules.set_outliers",
    "SmilesCSV": "datamodules.molecules",
    "Rings": "datamodules.rings",
    "DigitBags": "datamodules.digit_bags",
    "Bags": "datamodules.bags",
    "QM9": "datamodules.quantum",
    "QM7": "datamodules.quantum",
    "TUDataset": "datamodules.tu",
    "ChargedParticles": "datamodules.charged_particles",
}

__all__ = [
    "CIFAR10",
    "KMNIST",
    "MNIST",
    "QM7",
    "QM9",
    "Bags",
    "CharText",
    "ChargedParticles",
    "CoNLLU",
    "Density2D",
    "DigitBags",
    "DigitSum",
    "Digits",
    "FashionMNIST",
    "Gaussians",
    "Images",
    "NoData",
    "Palindromes",
    "ParallelText",
    "Rings",
    "SetOutliers",
    "SmilesCSV",
    "StackedDigits",
    "TUDataset",
    "Table",
    "TextClassification",
]


def __getattr__(name: str) -> Any:
    if name in EXPORTS:
        return getattr(importlib.import_module(EXPORTS[name]), name)
    raise AttributeError(f"module 'datamodules' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
