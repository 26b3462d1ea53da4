"""Table: rows of numbers from a file, standardised, whose density is to be learnt."""

from __future__ import annotations

import csv
import io
from array import array
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.base import MemoryData, select
from datamodules.text_files import read_text
from dlkit.batches import Examples

SUFFIXES = (".csv", ".tsv", ".npy")
LARGEST = float(np.finfo(np.float32).max)


class Table(MemoryData):
    """Rows x (n, columns), float32, of a file of numbers; with a `target`, the classes y (n,), int64, from one of its columns.

    Every column but the target is standardised by its mean and standard deviation (the root of the mean square) in the training
    part alone: x = (original - mean) / std. A model of x is one of the original rows, in the user's units, by

        log p(original) = log p(x) - log_scale,    log_scale = sum over columns of log std,

    and its samples are turned into such rows by mean + std x. Values that many rows share, such as zeros or rounded numbers,
    have no density: a model that is free enough becomes infinitely likely there.

    Args:
        path: a `.csv` (commas) or `.tsv` (tabs), UTF-8, whose first line names the columns and whose other lines hold a number
            in each of them, lines that are empty passed over; or a `.npy` of two dimensions, (rows, columns), whose columns are
            called 0, 1, ... Nothing in it is run. "" is scikit-learn's embedded `load_wine`: 178 wines, 13 measurements and the
            column "cultivar", the target unless another is named.
        target: the name of a column of whole numbers that is left out of x and is the class label: each different value is a
            class. "" for none.
        test_size: the share of rows that are the test part, rounded down, and one at the least; chosen by `split_seed`.
        standardize: False leaves the numbers as they are: mean 0 and std 1.
        batch_size: see `MemoryData`.
        val_size: rows held out of the training part for validation; 18 is a tenth of the wines.
        split_seed: of the test part and of the validation split.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that cannot be read as said, columns without a name or with the same one, a cell that is not a finite
            number, a column that does not vary in the training part and cannot be standardised, an unknown target or one that
            is not whole numbers, fewer training rows than a batch has.

    Attributes:
        data_shape: (columns,), without the target.
        columns: their names.
        num_classes: how many classes, or None without a target.
        class_names: the target's values, in ascending order.
        mean, std: of the original columns, (columns,), float64.
    """

    def __init__(
        self,
        path: str = "",
        target: str = "",
        test_size: float = 0.1,
        standardize: bool = True,
        batch_size: int = 64,
        val_size: int = 18,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, split_seed)
        if not 0 < test_size < 1:
            raise ValueError(f"test_size={test_size}: give a share of the rows between 0 and 1")
        self.path = path
        self.target = target
        self.test_size = test_size
        self.standardize = standardize

    # What the file says ----------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> Rows:
        """Every row, as it is read."""
        if self.path:
            return read_rows(Path(self.path).expanduser())
        from sklearn.datasets import load_wine

        wine: Any = load_wine()
        values = np.column_stack([wine["data"], wine["target"]])
        return Rows("scikit-learn's load_wine", (*wine["feature_names"], "cultivar"), values, "row", range(len(values)))

    @cached_property
    def target_column(self) -> int | None:
        """Which column is the target."""
        name = self.target or ("" if self.path else "cultivar")
        if not name:
            return None
        if name not in self.rows.columns:
            names = ", ".join(self.rows.columns[:20]) + (", ..." if len(self.rows.columns) > 20 else "")
            raise ValueError(f"{self.rows.source} has no column {name!r} to be the target: name one of {names}")
        if len(self.rows.columns) == 1:
            raise ValueError(f"{self.rows.source} has no column but the target {name!r}: leave the target out")
        return self.rows.columns.index(name)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for index, name in enumerate(self.rows.columns) if index != self.target_column)

    @cached_property
    def data_shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The target's values, in ascending order."""
        if self.target_column is None:
            return ()
        values = self.rows.values[:, self.target_column]
        broken = np.flatnonzero(values != np.floor(values))
        if len(broken):
            name = self.rows.columns[self.target_column]
            raise ValueError(
                f"{self.rows.place(broken[0])} column {name!r} holds {values[broken[0]]:g}, but a target is a class: give "
                f"whole numbers, or another target"
            )
        return tuple(int(value) for value in np.unique(values))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, self.classes))

    @property
    def num_classes(self) -> int | None:
        return len(self.classes) or None

    # The parts -------------------------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, Examples]:
        """The parts in the original units, float64."""
        values = self.rows.values
        x, y = torch.from_numpy(values), None
        if self.target_column is not None:
            x = torch.from_numpy(np.delete(values, self.target_column, axis=1))
            y = torch.from_numpy(np.searchsorted(self.classes, values[:, self.target_column]))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.split_seed))
        cut = max(1, int(self.test_size * len(x)))
        test, train = (select(Examples(x, y), rows.sort().values) for rows in (order[:cut], order[cut:]))
        left = max(0, len(train.x) - self.val_size)
        if left < self.batch_size:
            raise ValueError(
                f"{self.rows.source} has {len(x)} rows, of which {left} are left for training with {cut} for testing and "
                f"val_size={self.val_size}, fewer than batch_size={self.batch_size}: lower one of these, or give more rows"
            )
        return super().divide({"train": train, "test": test})

    @cached_property
    def mean(self) -> Tensor:
        x = self.parts["train"].x
        return x.mean(0) if self.standardize else torch.zeros(x.shape[1], dtype=x.dtype)

    @cached_property
    def std(self) -> Tensor:
        x = self.parts["train"].x
        if not self.standardize:
            return torch.ones(x.shape[1], dtype=x.dtype)
        std = x.std(0, correction=0)
        # The mean of equal numbers may be rounded away from them, so that their deviation is not always zero.
        constant = ((x == x[0]).all(0) | (std == 0)).nonzero().flatten().tolist()
        if constant:
            first = constant[0]
            raise ValueError(
                f"{self.rows.source} column {self.columns[first]!r} has the one value {x[0, first].item():g} in all the "
                f"{len(x)} training rows: remove the column, which cannot be standardised, or set standardize to false"
            )
        return std

    @property
    def log_scale(self) -> float:
        """The logarithm of the volume, in the user's units, of a unit of x: log p(original) = log p(x) - log_scale."""
        return self.std.log().sum().item()

    def load(self) -> dict[str, Examples]:
        # float64 until the mean is gone: large numbers that differ little would be the same in float32
        return {name: part._replace(x=((part.x - self.mean) / self.std).float()) for name, part in self.parts.items()}

    def divide(self, parts: dict[str, Examples]) -> dict[str, Examples]:
        """The loaded parts, from which validation has been taken out: the mean and std are of what is left."""
        return parts


class Rows(NamedTuple):
    """A table of numbers, and where it was read.

    Attributes:
        source: the file.
        columns: their names.
        values: (rows, columns), float64.
        unit: "line" or "row", of `places`.
        places: where each row stands in the file.
    """

    source: str
    columns: tuple[str, ...]
    values: np.ndarray
    unit: str
    places: list[int] | range

    def place(self, row: int) -> str:
        """A row of the file, for an error."""
        return f"{self.source} {self.unit} {self.places[row]}" + (" (the first is 0)" if self.unit == "row" else "")


def read_rows(path: Path) -> Rows:
    """The rows of a `.csv`, `.tsv` or `.npy`.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it is not what `Table` says a file is.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}: give the path of a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
        )
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}: save it as one of them")
    rows = read_array(path) if suffix == ".npy" else read_table(path, "," if suffix == ".csv" else "\t")
    if not rows.values.size:
        raise ValueError(f"{path} holds no numbers: give at least one row with one column")
    # Comparisons with NaN are false, so that this finds NaN too.
    broken = ~(np.abs(rows.values) <= LARGEST)
    if broken.any():
        at = np.flatnonzero(broken.any(1))
        column = int(np.flatnonzero(broken[at[0]])[0])
        raise ValueError(
            f"{rows.place(at[0])} column {rows.columns[column]!r} holds {rows.values[at[0], column]:g}, the first of {len(at)} "
            f"rows with a value that is not a finite float32 number: remove the rows, or fill in the values"
        )
    return rows


def read_array(path: Path) -> Rows:
    """The rows of a `.npy`; neither pickles nor archives are opened.

    Raises:
        ValueError: it is not a plain array of real numbers of two dimensions.
    """
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise ValueError(
            f"{path} is not a plain array of numbers ({error}): save it anew by numpy.save(path, array.astype(float))"
        ) from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {values.dtype} and not real numbers: save it anew as array.astype(float)")
    if values.ndim != 2:
        raise ValueError(f"{path} has the shape {values.shape}: give an array of two dimensions, (rows, columns)")
    values = np.ascontiguousarray(values, dtype=np.float64)
    return Rows(str(path), tuple(map(str, range(values.shape[1]))), values, "row", range(len(values)))


def read_table(path: Path, delimiter: str) -> Rows:
    """The rows of a text file whose first line names the columns.

    Raises:
        ValueError: no such line, or a line that has not a number for each column.
    """
    reader = csv.reader(io.StringIO(read_text(path)), delimiter=delimiter)
    columns: tuple[str, ...] = ()
    values = array("d")  # eight bytes a number, where a list has several times as many
    places: list[int] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not columns:
                columns = tuple(cell.strip() for cell in cells)
                check_columns(path, reader.line_num, columns)
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{path} line {reader.line_num} has {len(cells)} cells where the columns are {len(columns)}: mend the line"
                )
            try:
                values.extend(map(float, cells))
            except ValueError as error:
                name, cell = next((name, cell) for name, cell in zip(columns, cells, strict=True) if not is_number(cell))
                raise ValueError(
                    f"{path} line {reader.line_num} column {name!r} holds {cell[:40]!r}, which is not a number: mend it, or "
                    f"remove the line or the column"
                ) from error
            places.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num} cannot be read ({error}): mend it") from error
    return Rows(str(path), columns, np.array(values).reshape(len(places), len(columns)), "line", places)


def check_columns(path: Path, line: int, columns: tuple[str, ...]) -> None:
    """Raises:
    ValueError: a column has no name, or that of another, or the line does not hold names.
    """
    if "" in columns:
        raise ValueError(f"{path} line {line} has no name for column {columns.index('') + 1}: name it, or remove the column")
    twice = next((name for index, name in enumerate(columns) if name in columns[:index]), None)
    if all(map(is_number, columns)) and columns != tuple(map(str, range(len(columns)))):
        raise ValueError(f"{path} line {line} holds numbers where it should name the columns: put a line of names above it")
    if twice is not None:
        raise ValueError(f"{path} line {line} names two columns {twice!r}: give each its own name")


def is_number(cell: str) -> bool:
    """Whether a cell can be read as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
