"""Molecules in space made by RDKit, with the columns of QM9, for where its files are not."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from datamodules.chemistry import BONDS, canonical_smiles, read_smiles
from datamodules.columns import Columns
from datamodules.pyg import from_pyg
from datamodules.ragged import Ragged

if TYPE_CHECKING:
    from torch_geometric.data import Data

ELEMENTS = ("H", "C", "N", "O", "F")
HYBRIDIZATIONS = ("SP", "SP2", "SP3")
LARGEST = 9  # atoms other than hydrogen, as in QM9
DEBYE = 4.80320  # of an elementary charge at 1 angstrom
STARTS = ("C", "O", "N", "F")
ENDS = (*STARTS, "C#N", "C=O", "C#C")
PIECES = ("C", "CC", "O", "N", "C(C)", "C(F)", "C(O)", "C(=O)", "C=C", "C1CC1", "c1ccoc1")


@cache
def generated_molecules(number: int) -> Columns:
    """Chains of common groups of up to nine heavy atoms, each in one conformation, the same each time.

    Positions are those of distance geometry (Riniker and Landrum 2015, the method ETKDG) with all hydrogens. Bonds and the 11
    features of an atom are as in torch-geometric's QM9: element, one-hot; atomic number; whether aromatic; sp, sp2 or sp3; how
    many hydrogens. The target is the dipole moment |sum_i q_i r_i| in debye of the partial charges q by Gasteiger and Marsili
    1980: no quantum chemistry, but a property of the molecule in space.

    Args:
        number: of molecules.

    Returns:
        The columns "x", "pos", "edges", "edge_attr" and "y", (number, 1).

    Raises:
        ModuleNotFoundError: RDKit is not installed.
    """
    draw = random.Random(0)
    seen: set[str] = set()
    found: list[Data] = []
    while len(found) < number:
        smiles = "".join([draw.choice(STARTS), *draw.choices(PIECES, k=draw.randint(1, 4)), draw.choice(ENDS)])
        molecule = read_smiles(smiles)
        assert molecule is not None
        name = canonical_smiles(molecule)  # chains that are read from either end are the same molecule
        if molecule.GetNumAtoms() > LARGEST or name in seen:
            continue
        seen.add(name)
        if (graph := in_space(molecule)) is not None:
            found.append(graph)
    columns = from_pyg(found)
    positions = torch.cat([graph.pos for graph in found])  # pyright: ignore[reportArgumentType, reportCallIssue]
    return {**columns, "pos": Ragged(positions, columns["x"].lengths)}


def in_space(molecule: Any) -> Data | None:
    """One conformation of RDKit's molecule; None where none is found."""
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdPartialCharges
    from torch_geometric.data import Data

    molecule = Chem.AddHs(molecule)
    if rdDistGeom.EmbedMolecule(molecule, randomSeed=0) < 0:
        return None
    rdPartialCharges.ComputeGasteigerCharges(molecule)
    atoms = list(molecule.GetAtoms())
    charges = torch.tensor([atom.GetDoubleProp("_GasteigerCharge") for atom in atoms], dtype=torch.float64)
    positions = torch.from_numpy(molecule.GetConformer().GetPositions())
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    kinds = [BONDS.index(bond.GetBondType().name) for bond in molecule.GetBonds()]
    edge_index = torch.tensor(ends).T
    return Data(
        x=torch.tensor([describe(atom) for atom in atoms]),
        pos=positions.float(),
        edge_index=torch.cat([edge_index, edge_index.flip(0)], 1),
        edge_attr=F.one_hot(torch.tensor(kinds).repeat(2), len(BONDS)).float(),
        y=(DEBYE * (charges @ positions).norm()).float().view(1, 1),
    )


def describe(atom: Any) -> list[float]:
    """The features of an atom that torch-geometric's QM9 has."""
    symbol, hybridization = atom.GetSymbol(), atom.GetHybridization().name
    return [
        *(float(symbol == element) for element in ELEMENTS),
        float(atom.GetAtomicNum()),
        float(atom.GetIsAromatic()),
        *(float(hybridization == name) for name in HYBRIDIZATIONS),
        float(atom.GetTotalNumHs(includeNeighbors=True)),
    ]
