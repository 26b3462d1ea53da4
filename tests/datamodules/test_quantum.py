"""QM7 and QM9: complete graphs made a batch at a time, from files that are not here."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset

from datamodules import QM7, QM9
from datamodules.conformers import generated_molecules


def qm9_graphs(number=30, seed=0):
    """Molecules with the fields of torch-geometric's QM9."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for molecule in range(number):
        atoms = 1 + molecule % 5
        chain = torch.stack([torch.arange(atoms - 1), torch.arange(1, atoms)])
        kinds = torch.randint(4, (atoms - 1,), generator=generator).repeat(2)
        found.append(
            Data(
                x=torch.rand(atoms, 11, generator=generator),
                z=torch.full((atoms,), 6),
                pos=torch.randn(atoms, 3, generator=generator),
                edge_index=torch.cat([chain, chain.flip(0)], 1),
                edge_attr=torch.nn.functional.one_hot(kinds, 4).float(),
                y=torch.arange(19.0).unsqueeze(0) + 100 * molecule,
                smiles="C",
                name=f"gdb {molecule}",
                idx=molecule,
            )
        )
    return found


def qm9(tmp_path, graphs=None, **settings):
    (tmp_path / "qm9" / "processed").mkdir(parents=True, exist_ok=True)
    InMemoryDataset.save(graphs or qm9_graphs(), str(tmp_path / "qm9" / "processed" / "data_v3.pt"))
    return QM9(**{"source": "qm9", "root": str(tmp_path), "batch_size": 4, "val_size": 5, "test_size": 6, **settings})


def test_a_batch_is_of_complete_graphs_that_know_distance_and_bond(tmp_path):
    graphs = qm9_graphs()
    data = qm9(tmp_path, targets=("mu",))
    data.setup()
    seen = 0
    for batch in data.batches("test"):
        assert (batch.edge_index[1].diff() >= 0).all()
        for number in range(len(batch.y)):
            graph = graphs[int(batch.y[number, 0] / 100)]
            nodes = slice(int(batch.ptr[number]), int(batch.ptr[number + 1]))
            assert torch.equal(batch.x[nodes], graph.x)
            mine = (batch.index[batch.edge_index[1]] == number).nonzero().flatten()
            edges = {
                (int(i) - nodes.start, int(j) - nodes.start): features
                for i, j, features in zip(*batch.edge_index[:, mine], batch.edge_attr[mine], strict=True)
            }
            assert set(edges) == {(i, j) for i in range(graph.num_nodes) for j in range(graph.num_nodes) if i != j}
            bonds = {(int(i), int(j)): kind for i, j, kind in zip(*graph.edge_index, graph.edge_attr, strict=True)}
            for (i, j), features in edges.items():
                assert features[0] == pytest.approx((graph.pos[i] - graph.pos[j]).norm().item(), rel=1e-5)
                assert torch.equal(features[1:], bonds.get((i, j), torch.zeros(4)))
            seen += 1
    assert seen == 6


def test_targets_are_chosen_by_name_and_the_split_covers_each_molecule_once(tmp_path):
    data = qm9(tmp_path, targets=("cv", "u0_atom"))
    data.setup()
    assert data.num_targets == 2
    assert data.target_names == ("cv in cal per mol K", "u0_atom in eV")
    assert {name: len(part["y"]) for name, part in data.splits.items()} == {"test": 6, "val": 5, "train": 19}
    y = torch.cat([part["y"] for part in data.splits.values()])
    assert torch.equal(y[:, 0].sort().values, 11 + 100 * torch.arange(30.0))
    assert torch.equal(y[:, 1] - y[:, 0], torch.ones(30))
    assert data.target_mean[0] == pytest.approx(data.splits["train"]["y"][:, 0].mean().item())
    other = qm9(tmp_path, targets=("cv", "u0_atom"), split_seed=1)
    other.setup()
    assert not torch.equal(other.splits["test"]["y"], data.splits["test"]["y"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("u0",)}, r"target 'u0' is a total energy, .* float32 .*: use 'u0_atom', from which the atoms' energies"),
        ({"targets": ("mu", "g")}, r"target 'g' is a total energy"),
        ({"targets": ("dipole",)}, r"unknown target 'dipole': use some of mu, alpha"),
        ({"source": "generated"}, r"root='.*': generated molecules lie in no folder, set source='qm9'"),
        (
            {"targets": ("cv",), "source": "generated", "root": None},
            r"target 'cv': generated molecules have 'mu' alone, set source='qm9'",
        ),
        ({"source": "qm8"}, r"unknown source 'qm8': use 'generated' or 'qm9'"),
        ({"targets": ()}, r"targets is empty: name some of mu"),
        ({"test_size": 0}, r"test_size=0: give at least 1 molecule"),
        ({"val_size": -1}, r"val_size=-1: give 0 or more"),
        ({"val_size": 24}, r"val_size=24 and test_size=6 leave nothing of the 30 molecules: lower them"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        qm9(tmp_path, **settings).setup()


def test_a_position_that_is_no_number_is_refused(tmp_path):
    graphs = qm9_graphs()
    graphs[3].pos[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"part: an atom's position is not a finite number: drop its molecule"):
        qm9(tmp_path, graphs).setup()


def test_an_absent_file_says_where_it_is_looked_for_and_how_it_is_got(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"QM9 is neither in .*data_v3.pt nor in .*raw: on a computer with network, run"
    ):
        QM9("qm9", root=str(tmp_path)).setup()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*qm7.npz: put it there, or name another folder"):
        QM7(root=str(tmp_path)).setup()


class Code:
    """What a pickle could run."""

    def __reduce__(self):
        return exec, ("raise AssertionError('code in a data file was run')",)


def test_a_processed_file_with_code_in_it_is_refused_and_nothing_is_run(tmp_path):
    data = qm9(tmp_path)
    torch.save(({"x": Code()}, {}, Data), tmp_path / "qm9" / "processed" / "data_v3.pt")
    with pytest.raises(ValueError, match=r"data_v3.pt is damaged or holds other things than tensors: remove it"):
        data.setup()


@pytest.mark.parametrize("damaged", [b"", b"hello", b"PK\x03\x04 and no more"], ids=str)
def test_damaged_files_are_refused(tmp_path, damaged):
    data, other = qm9(tmp_path), qm7(tmp_path)
    (tmp_path / "qm9" / "processed" / "data_v3.pt").write_bytes(damaged)
    (tmp_path / "qm7" / "qm7.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"data_v3.pt is damaged or holds other things than tensors: remove it"):
        data.setup()
    with pytest.raises(ValueError, match=r"qm7.npz does not hold z, pos, offsets and energy as plain arrays"):
        other.setup()


def qm7(tmp_path, **arrays):
    (tmp_path / "qm7").mkdir(exist_ok=True)
    sizes = np.arange(20) % 4 + 1
    offsets = np.concatenate([[0], sizes.cumsum()])
    generator = np.random.default_rng(0)
    fields = {
        "z": generator.choice([1, 6, 7, 8, 16], offsets[-1]).astype(np.int8),
        "pos": generator.normal(size=(offsets[-1], 3)).astype(np.float32),
        "offsets": offsets.astype(np.int32),
        "energy": np.stack([np.arange(20.0), np.zeros(20)], 1),
    }
    np.savez(tmp_path / "qm7" / "qm7.npz", **{**fields, **arrays})
    return QM7(root=str(tmp_path), val_size=4, test_size=4)


def test_qm7_knows_elements_and_distances(tmp_path):
    data = qm7(tmp_path)
    batch = next(data.batches("test"))
    assert len(batch.y) == 4
    assert (batch.x.sum(1) == 1).all()
    sizes = batch.ptr.diff()
    assert batch.edge_attr.shape == (int((sizes * (sizes - 1)).sum()), data.edge_features)
    # Gaussians give the distance away: their weighted centre, where several of them see it.
    expected = data.describe(torch.tensor([2.0]))
    assert expected.argmax() == 3 and expected.max() == 1
    assert expected[0, 2] == pytest.approx(np.exp(-0.5))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.full(50, 26)}, r"qm7.npz has an atom of number 26, which is none of \(1, 6, 7, 8, 16\)"),
        ({"offsets": np.arange(5)}, r"qm7.npz holds arrays that do not go together: get it again"),
        ({"pos": np.array([None] * 50)}, r"qm7.npz does not hold z, pos, offsets and energy as plain arrays"),
    ],
    ids=["element", "lengths", "objects"],
)
def test_a_qm7_file_that_is_not_as_said_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        qm7(tmp_path, **arrays).setup()


@pytest.mark.skipif(not os.environ.get("DLKIT_DATA"), reason="DLKIT_DATA names no folder with the real files")
def test_the_real_qm7_has_methane_bonds_of_its_length():
    data = QM7()
    data.setup()
    assert sum(len(part["y"]) for part in data.splits.values()) == 7101
    assert data.target_std[0] == pytest.approx(223, abs=5)
    batch = next(data.batches("test"))
    carbon_to_hydrogen = (batch.x[batch.edge_index[0], 1] == 1) & (batch.x[batch.edge_index[1], 0] == 1)
    nearest = batch.edge_attr[carbon_to_hydrogen][:, 1].max()  # the Gaussian at 1.2 angstrom; the bond has 1.09
    assert nearest == pytest.approx(np.exp(-0.5 * (0.11 / 0.4) ** 2), abs=0.03)


def test_generated_molecules_are_small_organic_ones_in_space():
    data = QM9()
    data.setup()
    assert {name: len(part["y"]) for name, part in data.splits.items()} == {"test": 50, "val": 50, "train": 200}
    lengths = []
    for part in data.splits.values():
        elements, sizes = part["x"].values[:, :5], part["x"].lengths
        assert (elements.sum(1) == 1).all()
        heavy = torch.segment_reduce(1 - elements[:, 0], "sum", lengths=sizes)
        assert heavy.min() >= 3 and heavy.max() <= 9
        first = torch.repeat_interleave(sizes.cumsum(0) - sizes, part["edges"].lengths)
        source, target = (part["edges"].values + first.unsqueeze(1)).T
        assert (target.bincount(minlength=len(elements)) > 0).all()
        lengths.append((part["pos"].values[source] - part["pos"].values[target]).norm(dim=1))
        hydrogens = torch.zeros(len(elements)).index_add_(0, target, elements[source, 0])
        assert torch.equal(hydrogens, part["x"].values[:, 10])
        assert (part["y"] > 0).all() and part["y"].max() < 10  # debye
    assert torch.cat(lengths).min() > 0.9 and torch.cat(lengths).max() < 1.8  # angstrom
    assert 1.5 < data.splits["train"]["y"].mean() < 3


def test_the_generated_molecules_are_the_same_each_time():
    first, again = generated_molecules.__wrapped__(5), generated_molecules.__wrapped__(6)
    assert torch.equal(first["pos"].values, again["pos"].values[: len(first["pos"].values)])
    assert torch.equal(first["y"], again["y"][:5])
