"""Table: standardised by what is trained on, densities in the user's units, and files that cannot be read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from datamodules import Table


def numbers(n=200, seed=0):
    """Columns of very different means and scales, which depend on each other."""
    draw = np.random.default_rng(seed)
    z = draw.standard_normal((n, 3))
    return z @ np.array([[2.0, 0.5, 0], [0, 0.01, 0], [0, 0, 300]]) + np.array([-5.0, 1e6, 40.0])


def write(path, values, columns=None):
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [
            columns or [f"c{index}" for index in range(values.shape[1])],
            *([repr(float(v)) for v in row] for row in values),
        ]
        path.write_text("".join(mark.join(line) + "\n" for line in lines))
    return str(path)


def table(path, values=None, columns=None, **arguments):
    arguments = {"batch_size": 16, "val_size": 20} | arguments
    data = Table(str(path) if values is None else write(path, values, columns), **arguments)
    data.setup()
    return data


def original(data, split):
    return data.splits[split].x.double() * data.std + data.mean


# The rows ------------------------------------------------------------------------------------------------------------


def test_every_row_is_in_one_part(tmp_path):
    values = numbers()
    data = table(tmp_path / "a.npy", values)
    assert {part: len(examples.x) for part, examples in data.splits.items()} == {"train": 160, "val": 20, "test": 20}
    found = torch.cat([original(data, part) for part in ("train", "val", "test")]).numpy()
    found, expected = found[found[:, 2].argsort()], values[values[:, 2].argsort()]
    assert np.allclose((found - expected) / values.std(0), 0, atol=1e-5)


def test_csv_tsv_and_npy_say_the_same(tmp_path):
    values = numbers()
    comma, tab, array = (table(tmp_path / name, values) for name in ("a.csv", "a.tsv", "a.npy"))
    for part in ("train", "val", "test"):
        assert torch.equal(comma.splits[part].x, array.splits[part].x)
        assert torch.equal(tab.splits[part].x, array.splits[part].x)
    assert comma.columns == tab.columns == ("c0", "c1", "c2")
    assert array.columns == ("0", "1", "2")
    assert comma.log_scale == array.log_scale


def test_a_table_may_have_quotes_a_byte_order_mark_empty_lines_and_carriage_returns(tmp_path):
    values = numbers(30)
    lines = ['"a","b, c",d', "", *(",".join(f' "{value}"'.strip() for value in row) for row in values), ""]
    (tmp_path / "a.csv").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    data = table(tmp_path / "a.csv", val_size=0)
    assert data.columns == ("a", "b, c", "d")
    assert np.array_equal(data.rows.values, values)


def test_the_parts_come_from_the_split_seed_alone(tmp_path):
    path = write(tmp_path / "a.npy", numbers())
    splits = []
    for global_seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        splits.append(table(path, split_seed=split_seed).splits)
    for part in ("train", "val", "test"):
        assert torch.equal(splits[0][part].x, splits[1][part].x)
        assert not torch.equal(splits[0][part].x, splits[2][part].x)


def test_the_shape_is_known_before_the_parts_are_made(tmp_path):
    data = Table(write(tmp_path / "a.csv", numbers()), target="")
    assert data.data_shape == (3,)
    assert data.num_classes is None
    assert data.class_names == ()
    assert not data.splits


# Standardisation -----------------------------------------------------------------------------------------------------


def test_the_training_part_alone_has_mean_zero_and_deviation_one(tmp_path):
    data = table(tmp_path / "a.npy", numbers())
    x = data.splits["train"].x.double()
    assert x.mean(0).abs().max() < 1e-6
    assert (x.square().mean(0) - 1).abs().max() < 1e-6
    assert data.splits["train"].x.dtype == torch.float32
    for part in ("val", "test"):
        assert data.splits[part].x.mean(0).abs().min() > 1e-4


def test_rows_out_of_the_training_part_have_no_say(tmp_path):
    values = numbers()
    before = table(tmp_path / "a.npy", values)
    near = np.abs(values[:, 2:] - original(before, "train")[:, 2].numpy()).min(1) < 1e-3
    assert near.sum() == 160
    values[~near] *= 7
    after = table(tmp_path / "b.npy", values)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.std, after.std)
    assert torch.equal(before.splits["train"].x, after.splits["train"].x)
    assert not torch.equal(before.splits["test"].x, after.splits["test"].x)


def test_the_log_scale_is_the_change_of_variables(tmp_path):
    """The mean log-likelihood of a Gaussian fitted in the user's units is that of one fitted to x, less the log scale."""
    values = numbers()
    scaled = table(tmp_path / "a.npy", values)
    plain = table(tmp_path / "a.npy", standardize=False)
    assert plain.log_scale == 0

    def log_density(x, train):
        gaussian = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
        return gaussian.log_prob(x)

    in_units = log_density(plain.parts["test"].x, plain.parts["train"].x)
    x, train = (scaled.splits[part].x.double() for part in ("test", "train"))
    assert torch.allclose(in_units, log_density(x, train) - scaled.log_scale, atol=1e-3)
    slopes = torch.autograd.functional.jacobian(lambda row: (row - scaled.mean) / scaled.std, torch.zeros(3).double())
    assert -torch.logdet(slopes).item() == pytest.approx(scaled.log_scale)
    assert abs(scaled.log_scale) > 1


def test_numbers_are_left_as_they_are_where_that_is_asked_for(tmp_path):
    values = numbers()
    values[:, 1] = 3.0  # a column that does not vary is no harm then
    data = table(tmp_path / "a.npy", values, standardize=False)
    assert (data.mean == 0).all() and (data.std == 1).all()
    found = torch.cat([examples.x for examples in data.splits.values()])
    assert torch.equal(found[found[:, 2].argsort()], torch.from_numpy(values[values[:, 2].argsort()]).float())


def test_large_numbers_that_differ_little_are_not_made_equal(tmp_path):
    values = 1.7e9 + np.arange(100.0).reshape(100, 1)
    x = table(tmp_path / "a.npy", values).splits["train"].x
    assert len(x.unique()) == 70


# The target ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.npy"])
def test_the_target_is_the_class_and_no_column_of_x(tmp_path, name):
    values = numbers()
    kinds = np.where(values[:, 2] > 40, 7, -1)
    data = table(tmp_path / name, np.column_stack([values[:, :1], kinds, values[:, 1:]]), target={"a.csv": "c1"}.get(name, "1"))
    assert data.data_shape == (3,)
    assert data.num_classes == 2
    assert data.class_names == ("-1", "7")
    assert len(data.columns) == 3 and data.target not in data.columns
    for part, examples in data.splits.items():
        assert examples.y.dtype == torch.int64
        assert torch.equal(examples.y, (original(data, part)[:, 2] > 40).long())
    batch = next(data.batches("test"))
    assert torch.equal(batch.y, data.splits["test"].y[:16])


# The default ---------------------------------------------------------------------------------------------------------


def test_without_a_path_there_are_scikit_learn_s_wines():
    data = Table()
    data.setup()
    wine = load_wine()
    assert data.data_shape == (13,)
    assert data.columns == tuple(wine["feature_names"])
    assert data.class_names == ("0", "1", "2")
    assert {part: len(examples.x) for part, examples in data.splits.items()} == {"train": 143, "val": 18, "test": 17}
    found = np.column_stack(
        [np.concatenate([original(data, part) for part in data.splits]), np.concatenate([s.y for s in data.splits.values()])]
    )
    expected = np.column_stack([wine["data"], wine["target"]])
    assert np.allclose(np.sort(found, axis=0), np.sort(expected, axis=0), atol=1e-3)
    order, expected_order = (np.lexsort(np.round(rows, 2).T) for rows in (found, expected))
    assert np.allclose(found[order], expected[expected_order], atol=1e-3)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.csv holds no numbers: give at least one row with one column$"),
        ("\n\n", r"a\.csv holds no numbers"),
        ("a,b\n", r"a\.csv holds no numbers"),
        ("a,b\n1,2\n3,x\n", r"a\.csv line 3 column 'b' holds 'x', which is not a number: mend it, or remove the line"),
        ("a,b\n\n,2\n", r"a\.csv line 3 column 'a' holds '', which is not a number"),
        ("a,b\n1,2\n1,2,3\n", r"a\.csv line 3 has 3 cells where the columns are 2: mend the line"),
        ("a,b\n1\n", r"a\.csv line 2 has 1 cells where the columns are 2"),
        (
            "a,b\n1,2\n3,nan\n4,5\ninf,6\n",
            r"line 3 column 'b' holds nan, the first of 2 rows with a value that is not a finite",
        ),
        ("a,b\n-inf,2\n", r"line 2 column 'a' holds -inf, the first of 1 rows .*: remove the rows, or fill in the values"),
        ("a,b\n1,2\n1e39,2\n", r"line 3 column 'a' holds 1e\+39, the first of 1 rows .* not a finite float32 number"),
        ("a,b,a\n1,2,3\n", r"a\.csv line 1 names two columns 'a': give each its own name"),
        ("a,,b\n1,2,3\n", r"a\.csv line 1 has no name for column 2: name it, or remove the column"),
        ("1.5,2\n3,4\n", r"a\.csv line 1 holds numbers where it should name the columns: put a line of names above it"),
        ("a,b\n1,2\n" + "1" * 200_000 + ",2\n", r"a\.csv line 3 cannot be read \(field larger than field limit"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "a.csv")


class Harmful:
    """What a pickle could do to whoever opens it."""

    def __reduce__(self):
        return pytest.fail, ("a file ran code",)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"a\.npy has the shape \(5,\): give an array of two dimensions, \(rows, columns\)"),
        (np.zeros((5, 2, 2)), r"a\.npy has the shape \(5, 2, 2\)"),
        (np.zeros((0, 2)), r"a\.npy holds no numbers"),
        (np.zeros((5, 2), complex), r"a\.npy holds complex128 and not real numbers"),
        (np.array([["1", "2"]]), r"a\.npy holds <U1 and not real numbers"),
        (np.array([[1.0, 2], [np.nan, 2]]), r"a\.npy row 1 \(the first is 0\) column '0' holds nan, the first of 1 rows"),
        (np.array([[Harmful()]], dtype=object), r"a\.npy is not a plain array of numbers \(Object arrays .*: save it anew by"),
    ],
)
def test_an_array_that_is_no_table_is_named(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "a.npy")


def test_neither_pickles_nor_archives_nor_torn_arrays_are_opened(tmp_path):
    np.savez(tmp_path / "b.npz", np.zeros((5, 2)))
    write(tmp_path / "c.npy", np.ones((50, 2)))
    for content in (pickle.dumps(Harmful()), (tmp_path / "b.npz").read_bytes(), (tmp_path / "c.npy").read_bytes()[:-8], b""):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy is not a plain array of numbers \(.*\): save it anew by numpy\.save"):
            table(tmp_path / "a.npy")


def test_an_absent_file_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.csv: give the path of a \.csv, \.tsv or \.npy file"):
        table(tmp_path / "none.csv")
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"a\.xlsx is none of \.csv, \.tsv, \.npy: save it as one of them"):
        table(tmp_path / "a.xlsx")


@pytest.mark.parametrize("value", [3.0, 0.1])
def test_a_column_that_does_not_vary_is_named(tmp_path, value):
    values = numbers()
    values[:, 1] = value
    with pytest.raises(
        ValueError, match=rf"a\.csv column 'c1' has the one value {value:g} in all the 160 training rows: remove"
    ):
        table(tmp_path / "a.csv", values)


def test_a_column_that_varies_only_out_of_the_training_part_is_named(tmp_path):
    values = numbers()
    data = table(tmp_path / "a.npy", values)
    values[:, 1] = 0
    values[np.abs(values[:, 2] - original(data, "test")[0, 2].item()).argmin(), 1] = 1
    with pytest.raises(ValueError, match="column '1' has the one value 0 in all the 160 training rows"):
        table(tmp_path / "b.npy", values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "x"}, r"a\.csv has no column 'x' to be the target: name one of c0, c1, c2$"),
        (
            {"target": "c0"},
            r"a\.csv line 2 column 'c0' holds -4\.7\d+, but a target is a class: give whole numbers, or another",
        ),
        (
            {"batch_size": 161},
            r"a\.csv has 200 rows, of which 160 are left .* val_size=20, fewer than batch_size=161: lower one",
        ),
        ({"val_size": 300}, r"of which 0 are left for training with 20 for testing and val_size=300, fewer than batch_size=16"),
        ({"test_size": 0.0}, r"test_size=0\.0: give a share of the rows between 0 and 1"),
        ({"test_size": 20}, r"test_size=20: give a share of the rows between 0 and 1"),
        ({"val_size": -1}, r"val_size=-1: give 0 or more examples"),
    ],
)
def test_impossible_settings_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "a.csv", numbers(), **arguments)


def test_a_target_alone_leaves_nothing_to_learn(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv has no column but the target 'c0': leave the target out"):
        table(tmp_path / "a.csv", np.arange(100.0).reshape(100, 1), target="c0")
