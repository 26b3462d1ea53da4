"""SmilesCSV: molecules do not depend on how they are written, and broken lines are told."""

from __future__ import annotations

import math
import os
import sys

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Descriptors

from datamodules import SmilesCSV
from datamodules.chemistry import (
    ATOM_FEATURES,
    BOND_FEATURES,
    DESCRIPTORS,
    describe_molecule,
    molecular_graphs,
    read_smiles,
)
from datamodules.columns import select

DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C)C(=O)N2C",
    "C/C=C/C(=O)N[C@@H](C)C(=O)O",
    "C[N+](C)(C)CC(=O)[O-].[Na+].[Cl-]",
    "O=S(=O)(N)c1ccc(Br)cc1F",
)
LINES = "name,smiles,a,b\nethanol,CCO,1.5,2\nwater,O,,3\nsalt,[Na+].[Cl-],-1,\nbenzene,c1ccccc1,0,1e2\n"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("datamodules.molecules.NUM_GENERATED", 200)


def table(tmp_path, text=LINES, **settings):
    (tmp_path / "molecules.csv").write_text(text)
    return SmilesCSV(str(tmp_path / "molecules.csv"), **{"target_columns": ("a", "b"), **settings})


def graph_of(smiles):
    columns = molecular_graphs([read_smiles(smiles)])
    return columns["x"].values, columns["edges"].values, columns["edge_attr"].values


def fingerprint(x, edges, edge_attr):
    """Three rounds of colour refinement in real numbers: the sorted colours of a graph."""
    generator = torch.Generator().manual_seed(0)
    into, along = (
        torch.randn(width, 8, generator=generator, dtype=torch.float64) for width in (x.shape[1], edge_attr.shape[1])
    )
    h = x.double() @ into
    for _ in range(3):
        h = torch.tanh(h + h.new_zeros(h.shape).index_add_(0, edges[:, 1], h[edges[:, 0]] * (1 + edge_attr.double() @ along)))
    return h.sum(0)


@pytest.mark.parametrize("smiles", DRUGS)
def test_a_molecule_written_in_another_order_is_the_same_graph(smiles):
    from rdkit import Chem

    expected = fingerprint(*graph_of(smiles))
    molecule = read_smiles(smiles)
    for _ in range(5):
        other = Chem.MolToSmiles(molecule, doRandom=True)
        torch.testing.assert_close(fingerprint(*graph_of(other)), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(fingerprint(*graph_of("CC(=O)Oc1cccc(c1)C(=O)O")), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("one", "other"),
    [("C[C@H](N)O", "C[C@@H](N)O"), ("C/C=C/C", r"C/C=C\C"), ("CC=O", "CCO"), ("C[O-]", "CO"), ("c1ccccc1", "C1CCCCC1")],
)
def test_what_differs_by_hand_geometry_bond_charge_or_ring_differs(one, other):
    assert not torch.allclose(fingerprint(*graph_of(one)), fingerprint(*graph_of(other)), atol=1e-6)


def test_a_bond_is_two_edges_of_equal_features_sorted_by_target():
    x, edges, edge_attr = graph_of(DRUGS[0])
    assert x.shape == (13, ATOM_FEATURES)
    assert edge_attr.shape == (26, BOND_FEATURES)
    assert (edges[:, 1].diff() >= 0).all()
    there = {tuple(edge): tuple(features) for edge, features in zip(edges.tolist(), edge_attr.tolist(), strict=True)}
    assert all(there[j, i] == features for (i, j), features in there.items())
    assert (x[:, :13].sum(1) == 1).all()  # each atom is of one element


def test_molecules_at_once_are_molecules_one_by_one():
    together = molecular_graphs([read_smiles(smiles) for smiles in DRUGS])
    for number, smiles in enumerate(DRUGS):
        one = select(together, torch.tensor([number]))
        for name, expected in zip(("x", "edges", "edge_attr"), graph_of(smiles), strict=True):
            assert torch.equal(one[name].values, expected)


def test_salts_are_one_graph_of_several_pieces_and_an_atom_alone_has_no_edges():
    x, edges, _ = graph_of("[Na+].[Cl-]")
    assert len(x) == 2 and len(edges) == 0
    assert len(graph_of("O")[0]) == 1


def test_a_batch_is_its_molecules_one_behind_the_other():
    data = SmilesCSV()
    data.setup()
    part = data.splits["test"]
    rows = torch.tensor([5, 0, 9])
    batch = data.collate(part, rows)
    for place, row in enumerate(rows.tolist()):
        one = select(part, torch.tensor([row]))
        nodes = slice(int(batch.ptr[place]), int(batch.ptr[place + 1]))
        mine = (batch.index[batch.edge_index[1]] == place).nonzero().flatten()
        assert torch.equal(batch.x[nodes], one["x"].values)
        assert torch.equal(batch.edge_index[:, mine].T - batch.ptr[place], one["edges"].values)
        assert torch.equal(batch.edge_attr[mine], one["edge_attr"].values)
        assert torch.equal(batch.y[place], one["y"][0])
    assert batch.index.tolist() == sorted(batch.index.tolist())
    assert (batch.edge_index[1].diff() >= 0).all()


def test_descriptors_are_of_the_whole_molecule():
    data = SmilesCSV(descriptors=True)
    data.setup()
    batch = next(data.batches("test"))
    molecules = [Chem.MolFromSmiles(smiles) for smiles in data.smiles["test"]]
    assert data.graph_features == DESCRIPTORS and batch.u.shape == (20, DESCRIPTORS)
    torch.testing.assert_close(3 * batch.u[:, :1], batch.y)  # log P is what is to be predicted of generated molecules
    assert batch.u[:, 7].mul(2).tolist() == [float(Descriptors.NumAromaticRings(molecule)) for molecule in molecules]
    benzene, hydrogen, salt = (describe_molecule(read_smiles(smiles)) for smiles in ("c1ccccc1", "[H][H]", "[Na+].[Cl-]"))
    assert benzene[4:] == (0, 0, 0, 0.5, 1, 0) and benzene[2] == pytest.approx(78.047 / 200, rel=1e-4)
    assert all(math.isfinite(value) for value in (*hydrogen, *salt))
    assert SmilesCSV().graph_features == 0


def test_generated_molecules_are_all_different_and_the_split_follows_its_seed():
    data, again, other = SmilesCSV(), SmilesCSV(), SmilesCSV(split_seed=1)
    for each in (data, again, other):
        each.setup()
    parts = [data.smiles[name] for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [160, 20, 20]
    assert len({Chem.MolToSmiles(Chem.MolFromSmiles(smiles)) for part in parts for smiles in part}) == 200
    assert data.smiles == again.smiles
    assert {smiles for part in other.smiles.values() for smiles in part} == {smiles for part in parts for smiles in part}
    assert len(set(data.smiles["test"]) & set(other.smiles["test"])) < 12
    assert torch.equal(data.collate(data.splits["test"], torch.tensor([3])).x, graph_of(data.smiles["test"][3])[0])


def test_mean_and_deviation_are_of_the_training_part_with_missing_targets_left_out(tmp_path):
    data = table(tmp_path, val_size=0, test_size=0.2)
    y = next(data.batches("train")).y
    assert y.isnan().any()
    for target in range(2):
        known = y[~y[:, target].isnan(), target].double()
        assert data.target_mean[target] == pytest.approx(known.mean().item())
        assert data.target_std[target] == pytest.approx(known.std(correction=0).item())
    assert data.target_names == ("a", "b")
    assert data.num_targets == 2
    assert "val" not in data.splits


def test_lines_that_are_no_molecules_are_left_out_with_a_warning_or_refused(tmp_path):
    text = LINES + "bad,c1ccc,1,1\nworse,not a molecule,1,1\nempty,,1,1\n"
    data = table(tmp_path, text, val_size=0)
    with pytest.warns(UserWarning, match=r"3 of 7 SMILES .* line 6 'c1ccc', line 7 'not a molecule', line 8 ''; their lines"):
        data.setup()
    assert sorted(data.smiles["train"] + data.smiles["test"]) == sorted(["CCO", "O", "[Na+].[Cl-]", "c1ccccc1"])
    with pytest.raises(ValueError, match=r"molecules.csv: 3 of 7 SMILES .* line 6 'c1ccc'.* or set invalid to 'skip'"):
        table(tmp_path, text, invalid="refuse").setup()
    with pytest.raises(ValueError, match=r"2 of 2 SMILES strings are no molecules.*: mend or remove the lines$"):
        table(tmp_path, "smiles,a,b\nxyz,1,1\nC(,1,1\n").setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES + "methane,C,abc,1\n", r"molecules.csv line 6 column 'a' holds 'abc', which is not a number"),
        (LINES + "methane,C,inf,1\n", r"line 6 column 'a' holds 'inf', which is not a number"),
        (LINES + "methane,C,nan,1\n", r"line 6 column 'a' holds 'nan', which is not a number"),
        (LINES + "methane,C,1e39,1\n", r"line 6 column 'a' holds '1e39', which is not a number"),
        (LINES + "methane,C,1\n", r"line 6 has not a cell for each of the 4 columns"),
        (LINES + "methane,C,1,2,3\n", r"line 6 has not a cell for each of the 4 columns"),
        ("smiles,a\nC,1\n", r"has no column 'b', only 'smiles', 'a': name one of them"),
        ("smiles,a,b\n", r"holds no molecules: give at least one line"),
        ("smiles,a,b\nC,1,1\nCC,2,2\n", r"has 2 molecules: give enough for a training part"),
        ("smiles,a,b\n" + "C,1,\n" * 9, r"the training part has no value of target b: drop the target"),
    ],
)
def test_a_table_that_is_not_as_said_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"invalid": "mend"}, "unknown invalid 'mend': use 'skip' or 'refuse'"),
        ({"test_size": 0}, "test_size=0: give shares"),
        ({"test_size": 20}, "test_size=20: give shares"),
        ({"val_size": 0.5, "test_size": 0.5}, "give shares of the molecules, between 0 and 1 and in sum below 1"),
        ({"source": "mine.csv"}, "target_columns is empty: name the columns of mine.csv"),
        ({"target_columns": ("log S",)}, r"target_columns=\('log S',\): generated molecules have log P alone"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SmilesCSV(**arguments)


def test_a_missing_file_says_where_it_is_looked_for_and_where_it_is_to_be_had(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"moleculenet/esol.csv: save https://.*delaney-processed.csv there, or name"):
        SmilesCSV("esol", root=str(tmp_path)).setup()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other.csv"):
        SmilesCSV(str(tmp_path / "other.csv"), target_columns=("a",)).setup()


def test_without_rdkit_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install dlkit\[chem\]"):
        SmilesCSV().setup()


@pytest.mark.skipif(not os.environ.get("DLKIT_DATA"), reason="DLKIT_DATA names no folder with the real files")
def test_a_real_table_is_read_whole():
    data = SmilesCSV("freesolv")
    data.setup()
    assert [len(data.smiles[name]) for name in ("train", "val", "test")] == [514, 64, 64]
    assert data.num_targets == 1
    assert data.trivial_baselines()["rmse_of_the_mean"] == pytest.approx(3.8, abs=1)
