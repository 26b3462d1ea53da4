"""Molecules as graphs: what RDKit says of atoms and bonds, as numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from datamodules.columns import Columns
from datamodules.ragged import Ragged
from datamodules.sets import sorted_edges

ELEMENTS = ("B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I")  # and any other
HYBRIDIZATIONS = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2")  # and any other
HANDS = ("", "R", "S")  # no stereocentre, or Cahn-Ingold-Prelog's labels, which do not depend on the order of atoms
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")  # and any other
GEOMETRIES = {"STEREOE": 1, "STEREOTRANS": 1, "STEREOZ": 2, "STEREOCIS": 2}  # 0 for none
# One column is 1 for each of: element, bonds to other heavy atoms (0 to 5 and more), charge (-2 and less to 2 and more),
# hydrogens (0 to 4 and more), hybridisation, hand.
ATOM_CHOICES = (len(ELEMENTS) + 1, 6, 5, 5, len(HYBRIDIZATIONS) + 1, len(HANDS))
ATOM_FEATURES = sum(ATOM_CHOICES) + 3  # and whether aromatic, whether in a ring, mass / 100 u
BOND_CHOICES = (len(BONDS) + 1, 3)  # kind and geometry
BOND_FEATURES = sum(BOND_CHOICES) + 2  # and whether conjugated, whether in a ring
DESCRIPTORS = 10


def read_smiles(smiles: str) -> Any | None:
    """RDKit's molecule of a SMILES string; None of one that is no molecule, or has no atoms.

    Raises:
        ModuleNotFoundError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "molecules are read by RDKit, which is not installed: pip install dlkit[chem]", name=error.name
        ) from error
    with rdBase.BlockLogs():  # it writes its complaints to the terminal; here the caller says what is wrong
        molecule = Chem.MolFromSmiles(smiles)
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def canonical_smiles(molecule: Any) -> str:
    """The same string for the same molecule, from whichever atom it was read."""
    from rdkit import Chem

    return Chem.MolToSmiles(molecule)


def log_p(molecule: Any) -> float:
    """The octanol-water partition coefficient, by the contributions of Wildman and Crippen 1999."""
    from rdkit.Chem import rdMolDescriptors

    return rdMolDescriptors.CalcCrippenDescriptors(molecule)[0]


def describe_molecule(molecule: Any) -> tuple[float, ...]:
    """What is known of a whole molecule, divided by what is usual: `DESCRIPTORS` numbers of about 1.

    Wildman and Crippen's log P and molar refractivity, mass, polar surface (Ertl et al. 2000), donors and acceptors of hydrogen
    bonds, rotatable bonds, aromatic rings, and the shares of aromatic atoms and of carbons with four neighbours.
    """
    from rdkit.Chem import rdMolDescriptors as rdkit

    log_p, refractivity = rdkit.CalcCrippenDescriptors(molecule)
    return (
        log_p / 3,
        refractivity / 60,
        rdkit.CalcExactMolWt(molecule) / 200,
        rdkit.CalcTPSA(molecule) / 60,
        rdkit.CalcNumHBD(molecule) / 2,
        rdkit.CalcNumHBA(molecule) / 3,
        rdkit.CalcNumRotatableBonds(molecule) / 4,
        rdkit.CalcNumAromaticRings(molecule) / 2,
        sum(atom.GetIsAromatic() for atom in molecule.GetAtoms()) / molecule.GetNumAtoms(),
        rdkit.CalcFractionCSP3(molecule),
    )


def molecular_graphs(molecules: Iterable[Any]) -> Columns:
    """The columns "x", "edges" and "edge_attr" of RDKit's molecules, as `GraphData` takes them.

    Nodes are the heavy atoms, with `ATOM_FEATURES` numbers each; hydrogens are counted with their atom, unless the molecule
    has atoms of its own for them. Every bond is two edges, one in each direction, with `BOND_FEATURES` numbers. A molecule may
    be in several pieces, as salts are, or without bonds.
    """
    atoms: list[tuple[float, ...]] = []
    bonds: list[tuple[int, ...]] = []
    sizes: list[tuple[int, int]] = []
    for molecule in molecules:
        atoms.extend(map(describe_atom, molecule.GetAtoms()))
        bonds.extend(map(describe_bond, molecule.GetBonds()))
        sizes.append((molecule.GetNumAtoms(), molecule.GetNumBonds()))
    numbers = torch.tensor(atoms).view(-1, len(ATOM_CHOICES) + 3)
    x = torch.cat([one_hot(numbers[:, :-3].long(), ATOM_CHOICES), numbers[:, -3:]], 1)
    codes = torch.tensor(bonds, dtype=torch.int64).view(-1, 2 + len(BOND_CHOICES) + 2)
    features = torch.cat([one_hot(codes[:, 2:-2], BOND_CHOICES), codes[:, -2:].float()], 1)
    counts = torch.tensor(sizes, dtype=torch.int64).view(-1, 2)
    # All molecules at once: their atoms are numbered through, so that sorting keeps molecules apart.
    first = torch.repeat_interleave(counts[:, 0].cumsum(0) - counts[:, 0], counts[:, 1]).unsqueeze(1)
    ends = codes[:, :2] + first
    edges, edge_attr = sorted_edges(torch.cat([ends, ends.flip(1)]), torch.cat([features, features]))
    number_of_edges = 2 * counts[:, 1]
    edges = edges - torch.repeat_interleave(counts[:, 0].cumsum(0) - counts[:, 0], number_of_edges).unsqueeze(1)
    return {
        "x": Ragged(x, counts[:, 0]),
        "edges": Ragged(edges, number_of_edges),
        "edge_attr": Ragged(edge_attr, number_of_edges),
    }


def describe_atom(atom: Any) -> tuple[float, ...]:
    """The choices of ATOM_CHOICES, then whether aromatic, whether in a ring, and mass / 100 u."""
    symbol, hybridization = atom.GetSymbol(), atom.GetHybridization().name
    hand = atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else ""
    return (
        place(symbol, ELEMENTS),
        min(atom.GetDegree(), 5),
        min(max(atom.GetFormalCharge(), -2), 2) + 2,
        min(atom.GetTotalNumHs(), 4),
        place(hybridization, HYBRIDIZATIONS),
        HANDS.index(hand) if hand in HANDS else 0,
        atom.GetIsAromatic(),
        atom.IsInRing(),
        atom.GetMass() / 100,
    )


def describe_bond(bond: Any) -> tuple[int, ...]:
    """The two atoms, the choices of BOND_CHOICES, then whether conjugated and whether in a ring."""
    return (
        bond.GetBeginAtomIdx(),
        bond.GetEndAtomIdx(),
        place(bond.GetBondType().name, BONDS),
        GEOMETRIES.get(bond.GetStereo().name, 0),
        bond.GetIsConjugated(),
        bond.IsInRing(),
    )


def place(name: str, names: tuple[str, ...]) -> int:
    """Where a name stands among `names`; behind the last where it does not."""
    return names.index(name) if name in names else len(names)


def one_hot(choices: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """Each column's choice out of as many: (n, columns), int64 -> (n, sum of numbers), float32."""
    offsets = torch.tensor((0, *numbers[:-1])).cumsum(0)
    return torch.zeros(len(choices), sum(numbers)).scatter_(1, choices + offsets, 1.0)
