"""SmilesCSV: molecules and what was measured of them, from a table."""

from __future__ import annotations

import csv
import io
import math
import random
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from datamodules.base import data_root
from datamodules.chemistry import (
    ATOM_FEATURES,
    BOND_FEATURES,
    DESCRIPTORS,
    canonical_smiles,
    describe_molecule,
    log_p,
    molecular_graphs,
    read_smiles,
)
from datamodules.columns import Columns, select
from datamodules.sets import GraphData
from datamodules.text_files import read_text

Invalid = Literal["skip", "refuse"]
SHOWN = 5  # invalid SMILES that a warning names


class Source(NamedTuple):
    """What is to be predicted of a named source: the columns, and their names with units; and where its file is to be had."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    url: str = ""


MOLECULENET = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/"
SOURCES = {
    "generated": Source(("log P",), ("log P",)),
    "esol": Source(
        ("measured log solubility in mols per litre",),
        ("log10 solubility in mol per litre",),
        MOLECULENET + "delaney-processed.csv",
    ),
    "freesolv": Source(("expt",), ("hydration free energy in kcal per mol",), MOLECULENET + "SAMPL.csv"),
    "lipo": Source(("exp",), ("log D at pH 7.4",), MOLECULENET + "Lipophilicity.csv"),
}
# The generated molecules: chains of so many pieces between two ends.
NUM_GENERATED = 1000
ENDS = ("C", "O", "N", "Cl", "Br")
PIECES = ("C", "CC", "O", "N", "S", "C(C)", "C(F)", "C(=O)", "C=C", "C#C", "C1CC1", "c1ccc(cc1)", "c1ccc(o1)", "N1CCC(CC1)")


class SmilesCSV(GraphData):
    """Molecules, as graphs of their heavy atoms and bonds, and the numbers to be predicted for each, from a csv file.

    What is known of atoms and bonds: see `datamodules.chemistry`. RDKit reads the molecules: pip install dlkit[chem].

    Args:
        source: "generated", 1,000 chains of common groups with their octanol-water partition coefficient log P as Wildman and
            Crippen 1999 estimate it from the kinds of atoms; "esol" (Delaney 2004, 1,128 molecules), "freesolv" (Mobley and
            Guthrie 2014, 642) or "lipo" (ChEMBL, 4,200), the tables `moleculenet/NAME.csv` of MoleculeNet (Wu et al. 2018,
            arXiv:1703.00564); or the path of a file of your own: UTF-8, commas, the first line names the columns.
        smiles_column: the column of SMILES strings.
        target_columns: the columns to be predicted, numbers; an empty cell is a missing target. Empty for a named source's own.
        invalid: what is done with a SMILES string that is no molecule: "skip" leaves its line out with a warning, "refuse"
            refuses the file.
        descriptors: whether a graph has features of its own, what RDKit computes of the whole molecule: see
            `datamodules.chemistry.describe_molecule`.
        root: the folder that holds `moleculenet`; DLKIT_DATA if None.
        batch_size: see `GraphData`.
        val_size, test_size: the shares of the molecules that are the validation part and the test part.
        split_seed: of the whole split, which is at random: molecules of the test part resemble those of the training part, and
            one that a table has twice may be in both, as in published figures (2 of the 113 test molecules of "esol").

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: RDKit is not installed.
        ValueError: a share outside its range, an unknown column, a cell that is not a number, a SMILES string that is no
            molecule where it is refused, no molecules, a target of which the training part has no value.

    Attributes:
        smiles: the SMILES strings of each part, in the order of its batches in evaluation.
        num_targets, target_names: see `GraphData`.
    """

    node_features = ATOM_FEATURES
    edge_features = BOND_FEATURES

    def __init__(
        self,
        source: str = "generated",
        smiles_column: str = "smiles",
        target_columns: tuple[str, ...] = (),
        invalid: Invalid = "skip",
        descriptors: bool = False,
        root: str | None = None,
        batch_size: int = 32,
        val_size: float = 0.1,
        test_size: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, split_seed=split_seed)
        if invalid not in ("skip", "refuse"):
            raise ValueError(f"unknown invalid {invalid!r}: use 'skip' or 'refuse'")
        if not (0 <= val_size < 1 and 0 < test_size < 1 and val_size + test_size < 1):
            raise ValueError(
                f"val_size={val_size} and test_size={test_size}: give shares of the molecules, between 0 and 1 and in sum "
                f"below 1, such as 0.1 each"
            )
        known = SOURCES.get(source)
        if not target_columns and known is None:
            raise ValueError(f"target_columns is empty: name the columns of {source} to be predicted")
        if source == "generated" and target_columns:
            raise ValueError(f"target_columns={tuple(target_columns)}: generated molecules have log P alone, so leave it out")
        self.source = source
        self.smiles_column = smiles_column
        self.target_columns = tuple(target_columns) or (known.columns if known else ())
        self.target_names = known.names if known and self.target_columns == known.columns else self.target_columns
        self.num_targets = len(self.target_columns)
        self.invalid: Invalid = invalid
        self.descriptors = descriptors
        self.graph_features = DESCRIPTORS if descriptors else 0
        self.root = root
        self.shares = {"test": test_size, "val": val_size}
        self.smiles: dict[str, tuple[str, ...]] = {}

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            FileNotFoundError: it is absent.
        """
        if self.source not in SOURCES:
            return Path(self.source).expanduser()
        path = data_root(self.root) / "moleculenet" / f"{self.source}.csv"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {path}: save {SOURCES[self.source].url} there, or name another folder with --data.root or "
                f"DLKIT_DATA"
            )
        return path

    def load(self) -> dict[str, Columns]:
        smiles, columns = self.generate() if self.source == "generated" else self.read(self.path)
        order = torch.randperm(len(smiles), generator=torch.Generator().manual_seed(self.split_seed))
        counts = [max(1, round(share * len(smiles))) if share else 0 for share in self.shares.values()]
        if len(smiles) <= sum(counts):
            raise ValueError(f"{self.source} has {len(smiles)} molecules: give enough for a training part")
        rows = dict(zip((*self.shares, "train"), order.split([*counts, len(smiles) - sum(counts)]), strict=True))
        rows = {name: found.sort().values for name, found in rows.items() if len(found)}
        self.smiles = {name: tuple(smiles[row] for row in found.tolist()) for name, found in rows.items()}
        return {name: select(columns, found) for name, found in rows.items()}

    def generate(self) -> tuple[list[str], Columns]:
        """The generated molecules, the same each time, and the columns made of them."""
        draw = random.Random(0)
        found: dict[str, Any] = {}
        while len(found) < NUM_GENERATED:
            smiles = "".join([draw.choice(ENDS), *draw.choices(PIECES, k=draw.randint(1, 6)), draw.choice(ENDS)])
            molecule = read_smiles(smiles)
            found[canonical_smiles(molecule)] = molecule  # chains that are read from either end are the same molecule
        y = torch.tensor([[log_p(molecule)] for molecule in found.values()])
        return list(found), {**self.graphs(found.values()), "y": y}

    def read(self, path: Path) -> tuple[list[str], Columns]:
        """The SMILES strings of a file that are molecules, and the columns made of them."""
        smiles: list[str] = []
        molecules, y, broken = [], [], []
        for line, string, targets in read_rows(path, self.smiles_column, self.target_columns):
            molecule = read_smiles(string)
            if molecule is None:
                broken.append(f"line {line} {string[:60]!r}")
                continue
            smiles.append(string)
            molecules.append(molecule)
            y.append(targets)
        self.report(path, broken, len(smiles) + len(broken))
        return smiles, {**self.graphs(molecules), "y": torch.tensor(y).view(-1, self.num_targets)}

    def graphs(self, molecules: Collection[Any]) -> Columns:
        """The columns made of molecules."""
        columns = molecular_graphs(molecules)
        if self.descriptors:
            columns["u"] = torch.tensor([describe_molecule(molecule) for molecule in molecules]).view(-1, DESCRIPTORS)
        return columns

    def report(self, path: Path, broken: list[str], total: int) -> None:
        """Warns of SMILES strings that are left out.

        Raises:
            ValueError: they are refused, or are all there are.
        """
        if not broken:
            return
        named = ", ".join(broken[:SHOWN]) + (", ..." if len(broken) > SHOWN else "")
        found = f"{path}: {len(broken)} of {total} SMILES strings are no molecules: {named}"
        if self.invalid == "refuse" or len(broken) == total:
            raise ValueError(
                f"{found}: mend or remove the lines" + ("" if len(broken) == total else ", or set invalid to 'skip'")
            )
        warnings.warn(f"{found}; their lines are left out", stacklevel=2)


def read_rows(path: Path, smiles_column: str, target_columns: tuple[str, ...]) -> Iterator[tuple[int, str, list[float]]]:
    """Line number, SMILES string and targets of each row, NaN for an empty cell.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a column is absent, a line has cells missing, a target is not a finite number, or there are no rows.
    """
    table = csv.DictReader(io.StringIO(read_text(path)))
    names = tuple(table.fieldnames or ())
    for name in (smiles_column, *target_columns):
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}, only {', '.join(map(repr, names[:20]))}: name one of them")
    line = 0
    try:
        for row in table:
            line = table.line_num
            cells = [row[name] for name in (smiles_column, *target_columns)]
            if None in row or any(cell is None for cell in cells):
                raise ValueError(f"{path} line {line} has not a cell for each of the {len(names)} columns: mend the line")
            yield line, cells[0].strip(), [number(path, line, *cell) for cell in zip(target_columns, cells[1:], strict=True)]
    except csv.Error as error:
        raise ValueError(f"{path} line {table.line_num} cannot be read ({error}): mend it") from error
    if not line:
        raise ValueError(f"{path} holds no molecules: give at least one line below the names of the columns")


def number(path: Path, line: int, name: str, cell: str) -> float:
    """A target.

    Raises:
        ValueError: it is not a finite number, or too large for float32.
    """
    if not cell.strip():
        return math.nan
    try:
        found = torch.tensor(float(cell), dtype=torch.float32).item()
    except ValueError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(
            f"{path} line {line} column {name!r} holds {cell[:40]!r}, which is not a number: mend it, or leave the cell empty "
            f"for a missing target"
        )
    return found
