"""Refusing a batch that a method was not built for, in a sentence that names what was given and what is expected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_examples(x: Tensor, data_shape: Sequence[int], method: str) -> None:
    """Refuses examples of another shape than the method was built for.

    Raises:
        ValueError: naming both shapes.
    """
    if tuple(x.shape[1:]) != tuple(data_shape):
        raise ValueError(
            f"{method} was built for examples of shape {tuple(data_shape)} and was given {tuple(x.shape[1:])}: "
            f"set data_shape to the data's shape"
        )


def check_labels(y: Tensor | None, num_classes: int, method: str) -> Tensor:
    """Refuses missing labels, labels that are no class indices, and labels outside 0 .. num_classes - 1.

    Raises:
        ValueError: naming what was given.
    """
    if y is None:
        raise ValueError(f"{method} needs labels and the data has none: use a datamodule with classes")
    if y.dim() != 1 or y.dtype != torch.int64:
        raise ValueError(
            f"{method} was given labels of shape {tuple(y.shape)}, {y.dtype}: give a vector of int64 class indices"
        )
    # Looked at on the CPU only: on an accelerator the look would make the step wait, and indexing there asserts itself.
    if y.is_cpu and len(y) and (int(y.min()) < 0 or int(y.max()) >= num_classes):
        wrong = int(y.max()) if int(y.max()) >= num_classes else int(y.min())
        raise ValueError(f"label {wrong} is outside 0..{num_classes - 1}: set num_classes to the number of classes")
    return y
