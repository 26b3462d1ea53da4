"""Digits: scikit-learn's own data, split as scikit-learn splits it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from datamodules import Digits


@pytest.fixture
def digits():
    data = Digits()
    data.setup()
    return data


def test_the_test_part_is_scikit_learn_s(digits):
    x, y = load_digits(return_X_y=True)
    _, x_test, _, y_test = train_test_split(x, y, test_size=0.2, random_state=0)
    assert np.array_equal(digits.splits["test"].x.flatten(1).numpy(), x_test)
    assert np.array_equal(digits.splits["test"].y.numpy(), y_test)


def test_without_validation_the_training_part_is_scikit_learn_s():
    x, y = load_digits(return_X_y=True)
    x_train, _, y_train, _ = train_test_split(x, y, test_size=0.2, random_state=0)
    data = Digits(val_size=0)
    data.setup()
    assert np.array_equal(data.splits["train"].x.flatten(1).numpy(), x_train)
    assert np.array_equal(data.splits["train"].y.numpy(), y_train)


def test_sizes_shapes_and_types(digits):
    assert {name: len(examples.x) for name, examples in digits.splits.items()} == {
        "train": 1200,
        "val": 237,
        "test": 360,
    }
    for examples in digits.splits.values():
        assert examples.x.shape[1:] == digits.data_shape == (1, 8, 8)
        assert examples.x.dtype == torch.uint8
        assert examples.y.dtype == torch.int64
        assert examples.y.unique().tolist() == list(range(digits.num_classes))
    assert digits.class_names == tuple("0123456789")


def test_every_example_is_in_one_split(digits):
    everything = torch.cat([examples.x for examples in digits.splits.values()]).flatten(1).numpy()
    expected = load_digits()["data"]
    order, expected_order = np.lexsort(everything.T), np.lexsort(expected.T)
    assert np.array_equal(everything[order], expected[expected_order])


def test_the_values_are_sixteenths(digits):
    x = torch.cat([batch.x for batch in digits.batches("test")])
    assert x.dtype == torch.float32
    assert digits.num_levels == 17
    assert torch.equal(x.unique(), torch.arange(17) / 16)
    assert torch.equal((x * 16).to(torch.uint8), digits.splits["test"].x)


def test_binarised_values_are_zero_and_one():
    for binarize in ("static", "dynamic"):
        data = Digits(binarize=binarize)
        for split in ("train", "val", "test"):
            assert next(data.batches(split)).x.unique().tolist() == [0.0, 1.0]


def test_too_large_a_validation_part_is_refused():
    with pytest.raises(ValueError, match=r"val_size=1437 leaves nothing of the 1437 training examples: lower it"):
        Digits(val_size=1437).setup()
