"""Bags of vectors: folds by bag, features standardised by the training part, and files that cannot be read as said."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from datamodules import Bags

SIZES = range(1, 9)


def write(path, sizes=(2, 3, 1, 4), y=(0, 1, 0, 1), **arrays):
    """An `.npz` of so many instances a bag, of which `arrays` replace some, or drop them by None."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rng = np.random.default_rng(0)
    content = {"x": rng.normal(5, 3, (offsets[-1], 3)).astype(np.float32), "offsets": offsets, "y": np.array(y, np.uint8)}
    content = {name: value for name, value in {**content, **arrays}.items() if value is not None}
    np.savez(path, **content)
    return str(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bags.npz"


def part_of(data, name):
    """The bags of a part, by their sizes."""
    data.setup()
    return set(data.splits[name]["x"].lengths.tolist())


def test_folds_share_no_bag_and_each_has_its_share_of_both_classes(path):
    file = write(path, sizes=range(1, 45), y=[0, 0, 0, 1] * 11)
    tested, sizes = [], []
    for fold in range(6):
        data = Bags(file, fold=fold, num_folds=6, validate=True)
        test, val, train = (part_of(data, name) for name in ("test", "val", "train"))
        assert len(test) + len(val) + len(train) == 44 == len(test | val | train)
        for name in ("test", "val", "train"):
            lengths, y = data.splits[name]["x"].lengths, data.splits[name]["y"]
            assert torch.equal(y, (lengths % 4 == 0).long())
            assert abs(y.sum().item() - len(y) / 4) < 1
        tested.append(test)
        sizes.append(len(test))
        trained = part_of(Bags(file, fold=fold, num_folds=6), "train")
        assert trained == train | val
    assert len(set.union(*tested)) == 44 == sum(sizes) and max(sizes) - min(sizes) <= 1
    assert part_of(Bags(file, num_folds=6, split_seed=1), "test") != tested[0]
    with pytest.raises(ValueError, match=r"there is no split 'val', only test, train: .* with validate=True"):
        Bags(file).loader("val")


def test_features_are_standardised_by_the_instances_of_the_training_part_alone(path):
    x = np.random.default_rng(1).normal(3, 2, (36, 3)).astype(np.float32)
    x[:, 1] = 7  # the same everywhere
    data = Bags(write(path, sizes=SIZES, y=[0, 1] * 4, x=x), num_folds=4, fold=2)
    data.setup()
    train, test = data.splits["train"]["x"].values, data.splits["test"]["x"].values
    assert data.data_shape == (3,) and len(train) + len(test) == 36 and train.dtype == torch.float32
    torch.testing.assert_close(train[:, [0, 2]].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(train[:, [0, 2]].std(0, correction=0), torch.ones(2))
    assert (train[:, 1] == 0).all() and (test[:, 1] == 0).all()
    assert test.mean(0).abs().max() > 1e-3
    # A feature that varies in the test part alone says nothing either.
    in_test = np.repeat(np.isin(SIZES, list(part_of(data, "test"))), SIZES)
    x[:, 1] = np.where(in_test, np.arange(36), 7)
    changed = Bags(write(path, sizes=SIZES, y=[0, 1] * 4, x=x), num_folds=4, fold=2)
    changed.setup()
    assert (changed.splits["test"]["x"].values[:, 1] == 0).all()
    assert torch.equal(changed.splits["train"]["x"].values, train)


def test_a_file_is_read_whole(path):
    data = Bags(write(path, sizes=[2, 3, 1, 4], y=[0, 1, 0, 1]), num_folds=2, batch_size=2)
    batch = next(iter(data.batches("test")))
    assert batch.member_y is None and batch.y.sum() == 1 and batch.ptr.tolist()[-1] == len(batch.x)
    assert data.contents.x.lengths.tolist() == [2, 3, 1, 4] and data.contents.y.tolist() == [0, 1, 0, 1]
    assert data.trivial_baselines() == {"majority": 0.5}


def test_generated_bags_are_positive_where_they_have_witnesses():
    data = Bags()
    for name in ("train", "test"):
        for batch in data.batches(name):
            held = torch.zeros(len(batch.y), dtype=torch.int64).index_add_(0, batch.index, batch.member_y)
            assert torch.equal((held > 0).long(), batch.y)


@pytest.mark.skipif(not os.environ.get("DLKIT_DATA"), reason="DLKIT_DATA is unset: it names a folder with mil/*.npz")
@pytest.mark.parametrize(
    ("source", "bags", "instances", "features"),
    [("musk1", 92, 476, 166), ("elephant", 200, 1391, 230), ("tiger", 200, 1220, 230), ("mutagenesis1", 188, 10486, 7)],
)
def test_the_real_files_are_read(source, bags, instances, features):
    data = Bags(source)
    data.setup()
    assert data.data_shape == (features,) and len(data.contents.y) == bags and len(data.contents.x.values) == instances
    assert all(part["x"].values.isfinite().all() for part in data.splits.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_folds": 1}, "num_folds=1: give 2 or more, one each for testing and training"),
        ({"num_folds": 2, "validate": True}, "num_folds=2: give 3 or more, one each for testing, validation"),
        ({"fold": 10}, "fold=10: there are 10 folds, 0 to 9"),
        ({"fold": -1}, "fold=-1: there are 10 folds"),
    ],
    ids=str,
)
def test_folds_that_there_are_not_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Bags(**arguments)


def test_folds_with_one_class_are_refused(path):
    with pytest.raises(
        ValueError, match=r"fold 0 of 4 of .*bags\.npz gives a test part with class 0 alone: give more data, or"
    ):
        Bags(write(path), num_folds=4).setup()
    with pytest.raises(ValueError, match=r"gives a train part with class 1 alone"):
        Bags(write(path, y=(1, 1, 1, 1)), num_folds=2).setup()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"sizes": (2, 0, 4, 4)}, "bag 1 has 0 instances: leave empty bags out"),
        ({"offsets": np.array([0, 5, 3, 6, 10])}, "bag 1 has -2 instances: .* let offsets rise"),
        (
            {"offsets": np.array([0, 2, 5, 6, 9])},
            r"offsets \[0\] \.\. \[9\] do not fit the 10 instances: give whole numbers from",
        ),
        ({"offsets": np.array([1, 2, 5, 6, 10])}, r"offsets \[1\] \.\. \[10\] do not fit"),
        ({"offsets": np.array([0.0, 2, 5, 6, 10])}, r"offsets \[0\.0\] \.\. \[10\.0\] do not fit"),
        ({"offsets": np.array([0])}, r"offsets \[0\] \.\. \[0\] do not fit"),
        ({"y": (0, 1, 0)}, r"y has the shape \(3,\) and the values \[0, 1\], and there are 4 bags: give each 0 or 1"),
        ({"y": (0, 1, 0, 2)}, r"the values \[0, 1, 2\], and there are 4 bags"),
        ({"x": np.zeros((10,))}, r"x has the shape \(10,\), float64: give real numbers, \(instances, features\)"),
        ({"x": np.full((10, 2), "a")}, r"x has the shape \(10, 2\), <U1"),
        ({"x": np.where(np.arange(20).reshape(10, 2) == 8, np.nan, 1.0)}, "bag 1 has a feature that is not a finite float32"),
        ({"x": np.where(np.arange(20).reshape(10, 2) == 19, 1e300, 1.0)}, "bag 3 has a feature that is not a finite"),
        ({"x": None}, "has no array 'x': give x, offsets and y"),
        ({"x": np.array([{}, 1, 0, 1], dtype=object)}, r"is no \.npz of plain arrays \(Object arrays cannot be loaded"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_a_file_that_is_not_as_said_is_refused(path, arrays, message):
    with pytest.raises(ValueError, match=message):
        Bags(write(path, **arrays), num_folds=2).setup()


def test_what_is_no_archive_is_refused_and_a_missing_file_named(tmp_path):
    for name, content in (("a.npz", b"not an archive"), ("b.npz", b""), ("c.npz", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is no \.npz of plain arrays"):
            Bags(str(tmp_path / name)).setup()
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"is no \.npz of plain arrays"):
        Bags(str(tmp_path / "d.npy")).setup()
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*mil/Musk1\.npz, an \.npz with the arrays x, .* DLKIT_DATA"
    ):
        Bags("musk1", root=str(tmp_path)).setup()
    with pytest.raises(
        FileNotFoundError, match=r"no file .*none\.npz.*: name a file of your own, or one of 'generated', 'musk1'"
    ):
        Bags(str(tmp_path / "none.npz")).setup()
