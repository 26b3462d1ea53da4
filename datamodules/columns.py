"""ColumnData and TargetData: the bases of datamodules whose examples are rows of several columns, some of them ragged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.base import SplitData, hold_out, not_negative
from datamodules.ragged import Ragged

Columns = dict[str, Any]  # names -> Tensor or `Ragged`, all of the same number of examples


class ColumnData(SplitData):
    """Rows of columns held in memory.

    A subclass gives `load()`, `collate()` and `serve()`.

    Args:
        batch_size: examples a batch and device.
        val_size: examples held out of the training part for validation, where `load()` gives no part "val".
        split_seed: of that split. The order of training comes from the run's seed.
    """

    def __init__(self, batch_size: int, val_size: int = 0, split_seed: int = 0) -> None:
        super().__init__(batch_size)
        self.val_size = not_negative("val_size", val_size, "examples")
        self.split_seed = split_seed

    def collate(self, part: Columns, rows: Tensor) -> Any:
        """The batch of some examples: (n,), int64."""
        raise NotImplementedError(f"{type(self).__name__} has to define collate()")

    def divide(self, parts: dict[str, Columns]) -> dict[str, Columns]:
        """The loaded parts with "val" taken out of "train".

        Raises:
            ValueError: nothing would be left to train on.
        """
        if "val" not in parts and self.val_size:
            train = parts["train"]
            kept, held_out = hold_out(len(next(iter(train.values()))), self.val_size, self.split_seed)
            parts["val"], parts["train"] = select(train, held_out), select(train, kept)
        return parts


class TargetData(ColumnData):
    """Columns of which "y" is to be predicted: classes, or targets of which some may be missing.

    Attributes:
        num_classes: how many classes; None where there are targets.
        class_names: a name for each class.
        num_targets: how many targets; 0 where there are classes.
        target_names: a name for each target, with its unit.
    """

    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    num_targets: int = 0
    target_names: tuple[str, ...] = ()

    @property
    def target_mean(self) -> tuple[float, ...]:
        """The mean of each target over the training part, missing ones left out."""
        return tuple(column.mean().item() for column in self.known_targets())

    @property
    def target_std(self) -> tuple[float, ...]:
        """The standard deviation of each target over the training part, missing ones left out."""
        return tuple(column.std(correction=0).item() for column in self.known_targets())

    def known_targets(self) -> list[Tensor]:
        """What the training part knows of each target, float64.

        Raises:
            ValueError: nothing is known of a target; or in another part, of all of them.
        """
        if not self.num_targets:
            return []
        self.setup()
        for name, part in self.splits.items():
            y = part["y"].values if isinstance(part["y"], Ragged) else part["y"]
            if bool(y.isnan().all()):
                raise ValueError(f"the {name} part has no value of any target: look at the data, or split it otherwise")
        return known_values(self.splits["train"]["y"], self.target_names)

    def trivial_baselines(self) -> dict[str, float]:
        """What the training part's most frequent class, or its mean, scores in the test part."""
        self.setup()
        both = [self.splits[name]["y"] for name in ("train", "test")]
        train, y = (column.values if isinstance(column, Ragged) else column for column in both)
        if self.num_classes:
            return {"majority": float((y == train.mode().values).float().mean())}
        error = y.double() - torch.tensor(self.target_mean, dtype=torch.float64)
        return {"rmse_of_the_mean": float(error.square().nanmean(0).sqrt().mean())}


def known_values(y: Tensor | Ragged, names: tuple[str, ...] = ()) -> list[Tensor]:
    """What a part knows of each target, float64.

    Args:
        y: (n, targets), or `Ragged` of as many targets, NaN where one is missing.
        names: of the targets.

    Raises:
        ValueError: nothing is known of a target.
    """
    columns = (y.values if isinstance(y, Ragged) else y).double().unbind(1)
    found = [column[~column.isnan()] for column in columns]
    for number, known in enumerate(found):
        if not len(known):
            name = names[number] if names else str(number)
            raise ValueError(f"the training part has no value of target {name}: drop the target, or look at the data")
    return found


def select(part: Columns, rows: Tensor) -> Columns:
    """The examples at `rows`."""
    return {name: column[rows] for name, column in part.items()}
