"""QM7 and QM9: molecules in space, and what quantum chemistry computes of them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.base import data_root
from datamodules.columns import Columns, select
from datamodules.conformers import generated_molecules
from datamodules.graph_checks import check_graphs
from datamodules.pyg import from_collated
from datamodules.ragged import Ragged
from datamodules.sets import GraphData, bounds
from dlkit.batches import Graphs

# QM9's targets as torch-geometric has them, with their columns there and their units.
TARGETS = {
    "mu": (0, "D"),
    "alpha": (1, "a0^3"),
    "homo": (2, "eV"),
    "lumo": (3, "eV"),
    "gap": (4, "eV"),
    "r2": (5, "a0^2"),
    "zpve": (6, "eV"),
    "u0_atom": (12, "eV"),
    "u_atom": (13, "eV"),
    "h_atom": (14, "eV"),
    "g_atom": (15, "eV"),
    "cv": (11, "cal per mol K"),
}
QM9Source = Literal["generated", "qm9"]
NUM_GENERATED = 300
TOTAL_ENERGIES = ("u0", "u", "h", "g")
QM7_ELEMENTS = (1, 6, 7, 8, 16)  # H, C, N, O, S
CENTRES = torch.arange(0.8, 7.0, 0.4)  # angstrom
WIDTH = 0.4


class SpatialMolecules(GraphData):
    """Molecules whose every two atoms have an edge in both directions, which knows their distance and their bond.

    A subclass gives `load()`: parts of the columns that `GraphData` has, with the bonds for edges, and "pos", `Ragged` (atoms,
    3), in angstrom. Complete graphs are made a batch at a time: those of QM9 have 40 million edges.

    Args:
        batch_size, val_size, test_size, split_seed: molecules of the two parts, and the seed of the whole split.

    Attributes:
        bond_features: how many features a bond has.
    """

    bond_features: int = 0

    def __init__(self, batch_size: int, val_size: int, test_size: int, split_seed: int) -> None:
        super().__init__(batch_size, val_size, split_seed)
        if test_size < 1:
            raise ValueError(f"test_size={test_size}: give at least 1 molecule")
        self.test_size = test_size

    def split(self, columns: Columns) -> dict[str, Columns]:
        """Training, validation and test part.

        Raises:
            ValueError: nothing would be left to train on.
        """
        number, held = len(columns["x"]), self.test_size + self.val_size
        if held >= number:
            raise ValueError(
                f"val_size={self.val_size} and test_size={self.test_size} leave nothing of the {number} molecules: lower them"
            )
        order = torch.randperm(number, generator=torch.Generator().manual_seed(self.split_seed))
        rows = zip(("test", "val", "train"), order.split([self.test_size, self.val_size, number - held]), strict=True)
        return {name: select(columns, found.sort().values) for name, found in rows if len(found)}

    def check(self, part: Columns) -> None:
        check_graphs(part, self.node_features, self.bond_features)
        if not part["pos"].values.isfinite().all():
            raise ValueError("an atom's position is not a finite number: drop its molecule")

    def describe(self, distances: Tensor) -> Tensor:
        """What an edge knows of the distance: (edges,), in angstrom -> (edges, features); here the distance itself."""
        return distances.unsqueeze(1)

    def collate(self, part: Columns, rows: Tensor) -> Graphs:
        x, positions, bonds, kinds = (part[name][rows] for name in ("x", "pos", "edges", "edge_attr"))
        ptr = bounds(x.lengths)
        # Among the pairs of atoms of all molecules, an atom with itself among them, where those of each begin.
        first = bounds(x.lengths.square())[:-1]
        molecule = torch.repeat_interleave(torch.arange(len(rows)), x.lengths.square())
        pair = torch.arange(len(molecule)) - first[molecule]
        size = x.lengths[molecule]
        target = pair // size
        source = pair - target * size
        bond = torch.zeros(len(molecule), self.bond_features)
        of = torch.repeat_interleave(torch.arange(len(rows)), bonds.lengths)
        bond[first[of] + bonds.values[:, 1] * x.lengths[of] + bonds.values[:, 0]] = kinds.values
        two = target != source
        edge_index = (torch.stack([source, target]) + ptr[molecule])[:, two]
        distances = (positions.values[edge_index[0]] - positions.values[edge_index[1]]).norm(dim=1)
        edge_attr = torch.cat([self.describe(distances), bond[two]], 1)
        return Graphs(x.values, edge_index, edge_attr, ptr, part["y"][rows])


class QM7(SpatialMolecules):
    """Small organic molecules in space, and the energy of taking each apart into atoms (Rupp et al. 2012, arXiv:1109.2618).

    7,101 molecules of up to 23 atoms of H, C, N, O and S, from the file `qm7/qm7.npz`. The target is the energy of the molecule
    less that of its atoms, in kcal/mol, by density functional theory (PBE0). Atoms know their element; edges know their
    distance d, as Gaussians exp(-(d - c)^2 / (2 w^2)) with centres c from 0.8 to 6.8 angstrom and w = 0.4 angstrom (after
    Schuett et al. 2017, arXiv:1706.08566), which vanish for atoms far apart.

    Args:
        root: the folder that holds `qm7`; DLKIT_DATA if None.
        batch_size, val_size, test_size, split_seed: see `SpatialMolecules`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold what is said, or too little of it for the parts.
    """

    node_features = len(QM7_ELEMENTS)
    edge_features = len(CENTRES)
    num_targets = 1
    target_names = ("energy in kcal per mol",)

    def __init__(
        self, root: str | None = None, batch_size: int = 32, val_size: int = 700, test_size: int = 700, split_seed: int = 0
    ) -> None:
        super().__init__(batch_size, val_size, test_size, split_seed)
        self.root = root

    def describe(self, distances: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((distances.unsqueeze(1) - CENTRES) / WIDTH).square())

    def load(self) -> dict[str, Columns]:
        path = data_root(self.root) / "qm7" / "qm7.npz"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {path}: put it there, or name another folder with --data.root or DLKIT_DATA"
            )
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                numbers, positions, offsets, energy = (file[name] for name in ("z", "pos", "offsets", "energy"))
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} does not hold z, pos, offsets and energy as plain arrays ({error}): get it again"
            ) from error
        shaped = energy.ndim == 2 and positions.shape == (len(numbers), 3) and len(offsets) == len(energy) + 1
        if not shaped or offsets[-1] != len(numbers):
            raise ValueError(f"{path} holds arrays that do not go together: get it again")
        known = torch.from_numpy(numbers).long().unsqueeze(1) == torch.tensor(QM7_ELEMENTS)
        if not known.any(1).all():
            strange = int(numbers[int((~known.any(1)).nonzero()[0])])
            raise ValueError(f"{path} has an atom of number {strange}, which is none of {QM7_ELEMENTS}: get it again")
        sizes = torch.from_numpy(offsets).long().diff()
        none = torch.zeros_like(sizes)
        return self.split(
            {
                "x": Ragged(known.float(), sizes),
                "pos": Ragged(torch.from_numpy(positions).float(), sizes),
                "edges": Ragged(torch.zeros(0, 2, dtype=torch.int64), none),
                "edge_attr": Ragged(torch.zeros(0, 0), none),
                "y": torch.from_numpy(energy[:, :1]).float(),
            }
        )


class QM9(SpatialMolecules):
    """Small organic molecules in space and their properties (Ramakrishnan et al. 2014), as torch-geometric's `QM9` has them.

    130,831 molecules of up to 29 atoms of H, C, N, O and F; 3,054 more, whose geometry was found inconsistent, are left out. As
    Gilmer et al. 2017 (arXiv:1704.01212, section 5) have them, every two atoms have an edge, whose features are their distance
    in angstrom and their bond, one-hot: single, double, triple, aromatic. Atoms have torch-geometric's 11 features.

    "generated" needs no files: 300 molecules that RDKit puts into space, with dipole moments of empirical charges. See
    `datamodules.conformers.generated_molecules`; pip install dlkit[chem].

    The files of "qm9" are those of torch-geometric's `QM9(root / "qm9")`, which makes `processed/data_v3.pt` from the raw ones
    the first time; it is read as tensors alone, so that nothing in it can be run.

    Args:
        source: "generated" or "qm9".
        targets: of "mu" (dipole moment, D), "alpha" (polarisability, a0^3), "homo", "lumo" and "gap" (eV), "r2" (electronic
            extent, a0^2), "zpve" (vibration at rest, eV), "u0_atom", "u_atom", "h_atom" and "g_atom" (energies of atomisation,
            eV), and "cv" (heat capacity, cal/(mol K)). Generated molecules have "mu" alone.
        root: the folder that holds `qm9`; DLKIT_DATA if None.
        batch_size, val_size, test_size, split_seed: see `SpatialMolecules`. Where no size is given, 10,000 molecules each, or
            50 of the generated ones.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: an unknown source or target, a folder of generated molecules, a total energy, a file with other
            things than tensors in it.
        ModuleNotFoundError: RDKit, which generates molecules, is not installed.
    """

    node_features = 11
    bond_features = 4
    edge_features = 5

    def __init__(
        self,
        source: QM9Source = "generated",
        targets: tuple[str, ...] = ("mu",),
        root: str | None = None,
        batch_size: int = 20,
        val_size: int | None = None,
        test_size: int | None = None,
        split_seed: int = 0,
    ) -> None:
        if source not in get_args(QM9Source):
            raise ValueError(f"unknown source {source!r}: use {' or '.join(map(repr, get_args(QM9Source)))}")
        if source == "generated" and root is not None:
            raise ValueError(f"root={root!r}: generated molecules lie in no folder, set source='qm9' for those that do")
        held_out = 50 if source == "generated" else 10_000
        val_size, test_size = (held_out if size is None else size for size in (val_size, test_size))
        super().__init__(batch_size, val_size, test_size, split_seed)
        self.source: QM9Source = source
        if not targets:
            raise ValueError(f"targets is empty: name some of {', '.join(TARGETS)}")
        for name in targets:
            if name in TOTAL_ENERGIES:
                raise ValueError(
                    f"target {name!r} is a total energy, nearly all of which is the atoms' own and which float32 rounds to "
                    f"about 0.001 eV: use {name + '_atom'!r}, from which the atoms' energies are taken off"
                )
            if name not in TARGETS:
                raise ValueError(f"unknown target {name!r}: use some of {', '.join(TARGETS)}")
            if source == "generated" and name != "mu":
                raise ValueError(f"target {name!r}: generated molecules have 'mu' alone, set source='qm9' for the others")
        self.targets = tuple(targets)
        self.root = root
        self.num_targets = len(targets)
        self.target_names = tuple(f"{name} in {TARGETS[name][1]}" for name in targets)

    def load(self) -> dict[str, Columns]:
        if self.source == "generated":
            return self.split(generated_molecules(NUM_GENERATED))
        fields, slices = read_qm9(data_root(self.root) / "qm9")
        columns = from_collated(fields, slices)
        columns["pos"] = Ragged(fields["pos"].float(), columns["x"].lengths)
        columns["y"] = columns["y"][:, [TARGETS[name][0] for name in self.targets]]
        return self.split(columns)


def read_qm9(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """torch-geometric's tensors of all molecules one behind the other, and where each begins in them.

    Raises:
        FileNotFoundError: there are neither raw nor processed files.
        ValueError: the processed file has other things in it than tensors.
    """
    path = folder / "processed" / "data_v3.pt"
    raw = any((folder / "raw" / name).is_file() for name in ("gdb9.sdf", "qm9_v3.pt"))
    if not raw and not path.is_file():
        raise FileNotFoundError(
            f"QM9 is neither in {path} nor in {folder / 'raw'}: on a computer with network, run "
            f"torch_geometric.datasets.QM9({str(folder)!r}) and bring the folder here, or name another with --data.root or "
            f"DLKIT_DATA"
        )
    # It tells torch that its own classes, one of which the processed file names, are safe to load.
    from torch_geometric.datasets import QM9 as TorchGeometricQM9

    if not path.is_file():
        TorchGeometricQM9(str(folder))
    try:
        fields, slices, _ = torch.load(path, weights_only=True)
    except Exception as error:  # torch's reader fails on damaged bytes in every way there is
        raise ValueError(
            f"{path} is damaged or holds other things than tensors: remove it, to have it made anew from the raw files"
        ) from error
    return fields, slices
