"""Bags: bags of vectors from a file, in folds for cross-validation."""

from __future__ import annotations

import zipfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.base import data_root
from datamodules.columns import Columns, select
from datamodules.folds import check_folds, stratified_parts
from datamodules.ragged import Ragged
from datamodules.sets import SetData

FILES = {"musk1": "Musk1.npz", "elephant": "Elephant.npz", "tiger": "Tiger.npz", "mutagenesis1": "Mutagenesis1.npz"}
NUM_GENERATED, GENERATED_FEATURES, LARGEST_GENERATED = 200, 10, 10


class Contents(NamedTuple):
    """What a file says.

    Attributes:
        x: the instances of each bag, (instances, features), float32.
        y: (bags,), int64, 0 or 1.
        witnesses: (instances,), int64, 1 of those that make their bag positive; None where it is not known.
    """

    x: Ragged
    y: Tensor
    witnesses: Tensor | None = None


class Bags(SetData):
    """Bags of vectors, labelled 0 or 1, one fold of which is the test part.

    Folds are whole bags, with nearly the same share of each class; a published figure is a mean over the folds, one run for
    each. Features are standardised by their mean and standard deviation over the instances of the training part; one that is
    the same in all of them says nothing, and is 0.

    Args:
        source: "generated", where a positive bag has instances, its witnesses, of which one feature is larger; "musk1"
            (Dietterich et al. 1997), "elephant", "tiger" (Andrews et al. 2003) or "mutagenesis1", from `mil/Musk1.npz` and so
            on; or the path of an `.npz` of your own with the arrays `x`, (instances, features),
            `offsets`, (bags + 1,), the first instance of each bag and then the number of instances, and `y`, (bags,), 0 or 1.
        root: the folder that holds `mil`; DLKIT_DATA if None.
        fold: which is the test part, from 0.
        num_folds: how many there are.
        batch_size: bags a batch and device.
        validate: whether the fold behind it is the validation part, rather than another one to train on.
        split_seed: of the folds.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a fold that there is not, a part with one class alone; a file that is not what is said above, with an empty
            bag, or with a feature that is not a finite number.
    """

    num_classes = 2
    class_names = ("negative", "positive")
    makes_validation = "validate=True"

    def __init__(
        self,
        source: str = "generated",
        root: str | None = None,
        fold: int = 0,
        num_folds: int = 10,
        batch_size: int = 8,
        validate: bool = False,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, split_seed=split_seed)
        check_folds(fold, num_folds, validate)
        self.source = source
        self.root = root
        self.fold = fold
        self.num_folds = num_folds
        self.validate = validate

    @cached_property
    def contents(self) -> Contents:
        """All bags, as they are read."""
        if self.source == "generated":
            return generated()
        if self.source in FILES:
            path = data_root(self.root) / "mil" / FILES[self.source]
            how = "put it there, or name another folder with --data.root or DLKIT_DATA"
        else:
            path = Path(self.source).expanduser()
            how = f"name a file of your own, or one of 'generated', {', '.join(map(repr, FILES))}"
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}, an .npz with the arrays x, offsets and y: {how}")
        return read_bags(path)

    @property
    def data_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.contents.x.values.shape[1:])

    def load(self) -> dict[str, Columns]:
        """The parts, standardised."""
        x, y, witnesses = self.contents
        rows = stratified_parts(y, self.fold, self.num_folds, self.split_seed, self.source, self.validate)
        train = x[rows["train"]].values.double()
        mean, std = train.mean(0), train.std(0, correction=0)
        varies = (train != train[0]).any(0) & (std > 0)
        columns: Columns = {"x": Ragged(torch.where(varies, (x.values - mean) / std, 0.0).float(), x.lengths), "y": y}
        if witnesses is not None:
            columns["member_y"] = Ragged(witnesses, x.lengths)
        return {part: select(columns, chosen) for part, chosen in rows.items()}


def generated() -> Contents:
    """Bags of normal instances. In a positive one each is a witness with probability 1/4, and one always is."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, LARGEST_GENERATED + 1, (NUM_GENERATED,), generator=generator)
    y = torch.arange(NUM_GENERATED) % 2
    total = int(sizes.sum())
    witness = torch.rand(total, generator=generator) < 0.25
    witness[sizes.cumsum(0) - sizes] = True
    witness &= torch.repeat_interleave(y == 1, sizes)
    x = torch.randn(total, GENERATED_FEATURES, generator=generator)
    x[:, 0] += 3 * witness
    return Contents(Ragged(x, sizes), y, witness.long())


def read_bags(path: Path) -> Contents:
    """The bags of an `.npz`; pickles are not opened.

    Raises:
        ValueError: it is not what `Bags` says a file is.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "offsets", "y") if name not in arrays]
            if not missing:
                x, offsets, y = (arrays[name] for name in ("x", "offsets", "y"))
    except (ValueError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz of plain arrays ({error}): save it anew by numpy.savez") from error
    if missing:
        raise ValueError(f"{path} has no array {missing[0]!r}: give x, offsets and y")
    if x.ndim != 2 or x.dtype.kind not in "biuf" or not x.size:
        raise ValueError(f"{path}: x has the shape {x.shape}, {x.dtype}: give real numbers, (instances, features)")
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(x):
        ends = f"{offsets.ravel()[:1].tolist()} .. {offsets.ravel()[-1:].tolist()}"
        raise ValueError(
            f"{path}: offsets {ends} do not fit the {len(x)} instances: give whole numbers from 0 to {len(x)}, one more than "
            f"there are bags"
        )
    sizes = np.diff(offsets.astype(np.int64))
    if sizes.min() < 1:
        bag = int(np.flatnonzero(sizes < 1)[0])
        raise ValueError(f"{path}: bag {bag} has {sizes[bag]} instances: leave empty bags out, and let offsets rise")
    if y.shape != sizes.shape or not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{path}: y has the shape {y.shape} and the values {np.unique(y)[:4].tolist()}, and there are {len(sizes)} bags: "
            f"give each 0 or 1"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is refused below
        x = x.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(x).all(1))
    if len(broken):
        bag = int(np.searchsorted(offsets, broken[0], side="right")) - 1
        raise ValueError(f"{path}: bag {bag} has a feature that is not a finite float32 number: mend it, or leave the bag out")
    return Contents(Ragged(torch.from_numpy(x), torch.from_numpy(sizes)), torch.from_numpy(y.astype(np.int64)))
