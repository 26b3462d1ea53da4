"""Digit sums: right sums, all sizes to the greatest, other pictures in every part."""

from __future__ import annotations

import os

import pytest
import torch

from datamodules import Digits, DigitSum, SetOutliers
from dlkit.batches import owners

SETTINGS = {"num_examples": 600, "test_sizes": (2, 7, 30), "val_size": 30}


def of(split, source="symbols", **settings):
    """All sets of a part: members, bounds, targets, digits."""
    batches = list(DigitSum(source, **{**SETTINGS, **settings}).batches(split))
    x, y = torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])
    sizes, digits = torch.cat([batch.ptr.diff() for batch in batches]), torch.cat([batch.member_y for batch in batches])
    return x, sizes, y, digits


@pytest.mark.parametrize("source", ["symbols", "digits"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_target_is_the_sum_of_the_members(source, split):
    x, sizes, y, digits = of(split, source)
    assert y.dtype == torch.float32 and y.shape == (len(sizes), 1)
    sums = torch.zeros(len(sizes), dtype=torch.int64).index_add_(0, torch.repeat_interleave(sizes), digits)
    assert torch.equal(sums.float(), y.squeeze(1))
    if source == "symbols":
        assert torch.equal(x, digits + 1)  # 0 is padding's


def test_training_sets_have_every_size_up_to_the_greatest_and_this_one_too():
    _, sizes, _, digits = of("train", num_examples=5000, max_size=10, batch_size=100)
    counts = sizes.bincount(minlength=12)
    assert counts[0] == counts[11] == 0
    assert counts[1:11].tolist() == pytest.approx([500] * 10, abs=100)
    assert digits.bincount(minlength=10).tolist() == pytest.approx([len(digits) / 10] * 10, rel=0.1)


def test_validation_and_test_have_as_many_sets_of_each_size():
    assert of("val")[1].bincount().nonzero().flatten().tolist() == [2, 7, 30]
    assert of("val")[1].bincount()[[2, 7, 30]].tolist() == [10, 10, 10]
    assert of("test")[1].bincount()[[2, 7, 30]].tolist() == [2000, 2000, 2000]


def test_members_are_the_pictures_of_their_digits_and_no_picture_is_in_two_parts():
    source = Digits()
    source.setup()
    known = {}
    for part, examples in source.splits.items():
        known[part] = {picture.numpy().tobytes(): int(digit) for picture, digit in zip(examples.x, examples.y, strict=True)}
    for part in ("train", "val", "test"):
        x, _, _, digits = of(part, "digits", test_sizes=(5,), num_examples=100)
        assert x.shape[1:] == (1, 8, 8) and x.min() >= 0 and x.max() <= 1
        pictures = [picture.numpy().tobytes() for picture in (16 * x).to(torch.uint8)]
        assert [known[part].get(picture) for picture in pictures] == digits.tolist()
    pairs = [("train", "val"), ("train", "test"), ("val", "test")]
    assert not any(set(known[one]) & set(known[other]) for one, other in pairs)


@pytest.mark.parametrize("how", [{"shift": 1}, {"deform": 0.1}], ids=str)
def test_training_pictures_alone_are_moved(how):
    moved, still = DigitSum("digits", **how, **SETTINGS), DigitSum("digits", **SETTINGS)
    one, other = next(iter(moved.batches("train"))), next(iter(still.batches("train")))
    assert torch.equal(one.y, other.y)
    assert not torch.equal(one.x, other.x)
    assert torch.equal(next(iter(moved.batches("val"))).x, next(iter(still.batches("val"))).x)


def test_a_seed_gives_the_same_sets_again_and_another_one_others():
    assert torch.equal(of("test")[0], of("test")[0])
    assert not torch.equal(of("test")[2], of("test", split_seed=1)[2])
    assert not torch.equal(of("test", test_sizes=(5,))[3][:100], of("val", test_sizes=(5,))[3][:100])


def test_a_sum_is_scaled_and_not_shifted():
    data = DigitSum(**SETTINGS)
    y = of("train")[2]
    assert data.target_mean == (0.0,)
    assert data.target_std[0] == pytest.approx(of("train", batch_size=600)[2].square().mean().sqrt().item(), rel=1e-5)
    assert len(y) == 512  # whole batches
    assert data.trivial_baselines()["rmse_of_the_mean"] == pytest.approx((13 * 8.25) ** 0.5, rel=0.05)


def test_in_memory_lie_the_pictures_once():
    data = DigitSum("digits", **SETTINGS)
    data.setup()
    assert data.images.dtype == torch.uint8 and len(data.images) == 1797
    assert data.splits["train"]["x"].values.dtype == torch.int32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "letters"}, "unknown source 'letters': use 'symbols' or 'digits' or 'mnist'"),
        ({"max_size": 0}, "max_size=0 and num_examples=100000: give at least 1"),
        ({"num_examples": 0}, "max_size=10 and num_examples=0: give at least 1"),
        ({"test_sizes": ()}, r"test_sizes=\(\): give sizes of 1 or more"),
        ({"test_sizes": (5, 0)}, r"test_sizes=\(5, 0\): give sizes of 1 or more"),
        ({"val_size": 3}, "val_size=3 is less than a set of each of the 6 test_sizes: give more"),
        ({"shift": -1}, "shift=-1: give 0 or more pixels"),
        ({"deform": 1.0}, r"deform=1\.0: give a share of the picture's size, 0 or more and below 1"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitSum(**arguments).loader("train")


# Outliers ------------------------------------------------------------------------------------------------------------


def outlier_sets(split="train", **settings):
    data = SetOutliers(**{"num_examples": 640, "set_size": 8, "val_size": 500, **settings})
    batches = list(data.batches(split))
    size = settings.get("set_size", 8)
    marks = torch.cat([batch.member_y for batch in batches]).view(-1, size)
    x = torch.cat([batch.x for batch in batches]).view(len(marks), size, *data.data_shape)
    assert all(torch.equal(owners(batch.ptr, len(batch.x)).bincount(), torch.full((len(batch.y),), size)) for batch in batches)
    return data, x, torch.cat([batch.y for batch in batches]), marks


def test_all_but_one_of_a_set_are_of_one_digit_and_no_picture_is_there_twice():
    data, x, y, marks = outlier_sets("val")
    assert torch.equal(marks.argmax(1), y) and (marks.sum(1) == 1).all()
    pictures = data.splits["val"]["x"].values.view(-1, 8).long()
    digits = data.labels[pictures]
    odd = digits.gather(1, y.unsqueeze(1)).squeeze(1)
    for row, place in enumerate(y.tolist()):
        others = torch.cat([digits[row, :place], digits[row, place + 1 :]])
        assert len(others.unique()) == 1 and others[0] != odd[row]
        assert len(pictures[row].unique()) == 8
    assert torch.equal((16 * x).to(torch.uint8).flatten(0, 1), data.images[pictures.flatten()])


def test_the_odd_one_may_be_anywhere_and_of_any_digit():
    data, _, y, _ = outlier_sets("test")
    assert y.bincount(minlength=8).tolist() == pytest.approx([250] * 8, abs=60)
    digits = data.labels[data.splits["test"]["x"].values.view(-1, 8).long()]
    odd = digits.gather(1, y.unsqueeze(1)).squeeze(1)
    common = torch.where(y == 0, digits[:, 1], digits[:, 0])
    assert odd.bincount(minlength=10).tolist() == pytest.approx([200] * 10, abs=60)
    assert common.bincount(minlength=10).tolist() == pytest.approx([200] * 10, abs=60)
    assert data.trivial_baselines() == {"chance": 1 / 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "symbols"}, "unknown source 'symbols': use 'digits' or 'mnist'"),
        ({"set_size": 2}, "set_size=2: of fewer than 3 members none is the odd one"),
        ({"num_examples": 0}, "num_examples=0 and val_size=1000: give at least 1"),
        ({"val_size": 0}, "val_size=0: give at least 1"),
        ({"set_size": 60}, r"set_size=60: the val part of digits has \d+ pictures of a 0: give at most \d+"),
    ],
    ids=str,
)
def test_outliers_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SetOutliers(**arguments).setup()


@pytest.mark.skipif(not os.environ.get("DLKIT_DATA"), reason="DLKIT_DATA is unset: it names a folder with mnist/*.gz")
def test_sets_of_mnist_keep_its_test_pictures_for_the_test():
    data = DigitSum("mnist", **SETTINGS)
    data.setup()
    train, test = (data.splits[part]["x"].values for part in ("train", "test"))
    assert data.images.shape == (70_000, 1, 28, 28)
    assert train.max() < 55_000 and test.min() >= 60_000
    batch = next(iter(data.batches("val")))
    assert batch.x.shape[1:] == (1, 28, 28)


def test_an_absent_file_of_mnist_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.mnist.MNIST.url", "http://127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match=r"is neither in .*mnist nor could it be downloaded"):
        DigitSum("mnist", root=str(tmp_path)).prepare_data()
