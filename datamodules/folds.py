"""Folds for cross-validation, with nearly the same share of each class."""

from __future__ import annotations

import torch
from torch import Tensor


def check_folds(fold: int, num_folds: int, validate: bool = True) -> None:
    """Refuses folds that leave a part without one, and a fold that there is not.

    Raises:
        ValueError: naming it.
    """
    if num_folds < 2 + validate:
        parts = "testing, validation and training" if validate else "testing and training"
        raise ValueError(f"num_folds={num_folds}: give {2 + validate} or more, one each for {parts}")
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold={fold}: there are {num_folds} folds, 0 to {num_folds - 1}")


def stratified_parts(
    y: Tensor, fold: int, num_folds: int, seed: int, source: str = "the data", validate: bool = True
) -> dict[str, Tensor]:
    """The examples of one fold of `num_folds` for testing, of the next one for validation, of the others for training.

    The folds are the same whichever is for testing. Each has as many examples of a class as every other, or one more.

    Args:
        y: (n,), int64 class indices.
        fold: which one is for testing, from 0.
        num_folds: 3 or more, 2 or more without validation.
        seed: of the folds.
        source: what is named when the folds cannot be used.
        validate: False trains on the next fold too.

    Returns:
        "train", "val" if there is one, and "test": rows in ascending order, int64, each example in one of them.

    Raises:
        ValueError: a part has one class alone.
    """
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    # Dealt out class by class, in one round: neighbours of one class go to different folds, and no fold gets all remainders.
    dealt = shuffled[y[shuffled].argsort(stable=True)]
    folds = torch.empty_like(y)
    folds[dealt] = torch.arange(len(y)) % num_folds
    following = (fold + 1) % num_folds
    chosen = {"train": folds != fold, "test": folds == fold}
    if validate:
        chosen = {**chosen, "train": chosen["train"] & (folds != following), "val": folds == following}
    parts = {name: rows.nonzero().flatten() for name, rows in chosen.items()}
    for name, rows in parts.items():
        if len(y[rows].unique()) < 2:
            held = f"class {int(y[rows[0]])} alone" if len(rows) else "no examples"
            raise ValueError(
                f"fold {fold} of {num_folds} of {source} gives a {name} part with {held}: give more data, or fewer folds"
            )
    return parts
