"""Bags of digits: labels that follow from the instances, balanced classes, and parts that share no picture."""

from __future__ import annotations

import pytest
import torch

from datamodules import DigitBags, Digits


def parts(**settings):
    data = DigitBags(**{"num_bags": 300, "val_size": 201, **settings})
    data.setup()
    return data, {name: data.splits[name] for name in ("train", "val", "test")}


def test_a_bag_is_positive_where_the_target_is_among_its_digits_and_every_other_one_is():
    for target in (9, 0):
        data, found = parts(target=target)
        assert {name: len(part["y"]) for name, part in found.items()} == {"train": 300, "val": 201, "test": 1000}
        for part in found.values():
            digits = data.labels[part["x"].values].split(part["x"].lengths.tolist())
            assert [int((bag == target).any()) for bag in digits] == part["y"].tolist()
            assert torch.equal(part["member_y"].values == 1, torch.cat(digits) == target)
            assert torch.equal(part["y"], 1 - torch.arange(len(part["y"])) % 2)


def test_sizes_are_normal_rounded_and_at_least_one():
    _, found = parts(num_bags=4000, mean_size=10.0, std_size=2.0)
    sizes = found["train"]["x"].lengths
    negative = sizes[1::2].float()
    assert negative.mean().item() == pytest.approx(10, abs=0.15) and negative.std().item() == pytest.approx(2.02, abs=0.1)
    # A larger bag is more likely to hold the target.
    assert 10 < sizes[::2].float().mean() < 10.6
    _, found = parts(mean_size=1.0, std_size=3.0)
    assert found["train"]["x"].lengths.min() == 1
    _, found = parts(mean_size=7.0, std_size=0.0)
    assert (found["train"]["x"].lengths == 7).all()


def test_witnesses_are_as_frequent_as_the_target_is_among_the_pictures():
    data, found = parts(num_bags=4000)
    train = found["train"]
    share = (data.labels[train["x"].values.unique()] == 9).float().mean().item()
    in_positive = torch.repeat_interleave(train["y"] == 1, train["x"].lengths)
    # Given at least one of ten: 10 q / (1 - (1 - q)^10) of them.
    expected = share / (1 - (1 - share) ** 10)
    assert train["member_y"].values[in_positive].float().mean().item() == pytest.approx(expected, rel=0.06)


def test_parts_share_no_picture_and_come_from_those_of_the_source():
    _, found = parts()
    used = [set(part["x"].values.tolist()) for part in found.values()]
    assert not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])
    data, _ = parts()
    source = Digits()
    source.setup()
    batch = next(iter(data.batches("test")))
    assert batch.x.dtype == torch.float32 and batch.x.shape[1:] == (1, 8, 8) and batch.ptr[-1] == len(batch.x)
    test = source.splits["test"].x.float() / 16
    assert all((test == picture).flatten(1).all(1).any() for picture in batch.x)


def test_bags_follow_from_the_seed_of_the_split():
    (_, one), (_, again), (_, other) = parts(), parts(), parts(split_seed=1)
    assert torch.equal(one["train"]["x"].values, again["train"]["x"].values)
    assert not torch.equal(one["test"]["x"].lengths, other["test"]["x"].lengths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "letters"}, "unknown source 'letters': use 'digits' or 'mnist'"),
        ({"target": 10}, "target=10: name a digit, 0 to 9"),
        ({"num_bags": 1}, "num_bags=1 and val_size=200: give at least 2, a positive and a negative bag"),
        ({"val_size": 0}, "num_bags=200 and val_size=0: give at least 2"),
        ({"mean_size": 0.5}, r"mean_size=0\.5 and std_size=2\.0: give a mean of 1 or more"),
        ({"std_size": -1.0}, r"mean_size=10\.0 and std_size=-1\.0: give a mean of 1 or more and a deviation of 0 or more"),
        ({"shift": -1}, "shift=-1: give 0 or more"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitBags(**arguments)


def test_real_mnist_makes_bags(mnist_root):
    data = DigitBags("mnist", num_bags=20, val_size=20, root=mnist_root)
    batch = next(iter(data.batches("val")))
    assert batch.x.shape[1:] == data.data_shape == (1, 28, 28) and 0 <= batch.x.min() < batch.x.max() == 1
