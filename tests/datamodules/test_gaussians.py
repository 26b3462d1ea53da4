"""Gaussians: the published layouts, and that the points are the mixture they are said to be."""

from __future__ import annotations

import math

import pytest
import torch

from datamodules import Gaussians

LAYOUTS = {"ring": (8, 0.01), "grid": (25, 0.05), "pair": (2, 1.0)}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def ready(layout="ring", **arguments):
    data = Gaussians(layout, **arguments)
    data.setup()
    return data


# The modes -----------------------------------------------------------------------------------------------------------


@layouts
def test_each_layout_has_its_published_modes(layout):
    data = Gaussians(layout)
    assert (data.num_classes, data.std) == LAYOUTS[layout]
    assert data.means.shape == (data.num_classes, 2)
    assert data.means.dtype == torch.float32
    assert data.data_shape == (2,)
    assert len(set(data.class_names)) == data.num_classes


def test_the_ring_has_equal_gaps_on_the_unit_circle():
    means = Gaussians("ring").means
    assert torch.allclose(means.norm(dim=1), torch.ones(8))
    gaps = (means - means.roll(1, 0)).norm(dim=1)
    assert torch.allclose(gaps, torch.full((8,), 2 * math.sin(math.pi / 8)))


def test_the_grid_has_every_pair_of_places():
    places = (-4.0, -2.0, 0.0, 2.0, 4.0)
    assert {tuple(mean) for mean in Gaussians("grid").means.tolist()} == {(x, y) for x in places for y in places}


@pytest.mark.parametrize("separation", [0, 1.5, 10.0])
def test_the_pair_is_apart_by_its_separation(separation):
    assert Gaussians("pair", separation=separation).means.tolist() == [[-separation / 2, 0], [separation / 2, 0]]


# The points ----------------------------------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_mode_has_its_mean_its_deviation_and_an_equal_share(layout, split):
    data = ready(layout)
    x, y = data.splits[split]
    modes, n = data.num_classes, len(x)
    assert ((y.bincount(minlength=modes) - n / modes).abs() < 5 * (n / modes * (1 - 1 / modes)) ** 0.5).all()
    for mode, mean in enumerate(data.means):
        points = (x[y == mode].double() - mean) / data.std
        count = len(points)
        assert (points.mean(0).abs() < 5 / count**0.5).all()
        assert ((points.std(0) - 1).abs() < 5 / (2 * count) ** 0.5).all()
        assert abs(points.prod(1).mean()) < 5 / count**0.5  # the two directions do not correlate


@layouts
def test_the_points_are_gaussian(layout):
    """The squared distance to the mean, in variances, is exponential with mean 2."""
    data = ready(layout)
    x, y = data.splits["train"]
    squares = ((x - data.means[y]) / data.std).square().sum(1)
    for level in (0.1, 0.5, 0.9, 0.999):
        beyond = (squares > -2 * math.log(level)).double().mean()
        assert abs(beyond - level) < 5 * (level * (1 - level) / len(x)) ** 0.5


def test_the_points_come_from_the_split_seed_alone():
    splits = []
    for global_seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        splits.append(ready(split_seed=split_seed).splits)
    for name in ("train", "val", "test"):
        assert torch.equal(splits[0][name].x, splits[1][name].x)
        assert not torch.equal(splits[0][name].x, splits[2][name].x)


def test_the_splits_have_their_sizes_and_share_no_point():
    splits = ready(num_examples=30_000, val_size=4_000).splits
    assert {name: len(examples.x) for name, examples in splits.items()} == {"train": 26_000, "val": 4_000, "test": 10_000}
    assert len(torch.cat([examples.x for examples in splits.values()]).unique(dim=0)) == 40_000


def test_the_test_part_does_not_depend_on_the_training_part():
    few, many = ready(num_examples=10, val_size=0), ready()
    assert torch.equal(few.splits["test"].x, many.splits["test"].x)


def test_the_parts_are_independent_draws():
    """The modes of the two parts agree as often as those of strangers: once in eight."""
    splits = ready(num_examples=10_000, val_size=0).splits
    agree = (splits["train"].y == splits["test"].y).double().mean()
    assert abs(agree - 1 / 8) < 5 * (1 / 8 * 7 / 8 / 10_000) ** 0.5


def test_the_points_are_served_as_they_are():
    data = ready("pair")
    batch = next(data.batches("test"))
    assert batch.x.shape == (256, *data.data_shape)
    assert batch.x.dtype == torch.float32
    assert batch.y.dtype == torch.int64
    assert torch.equal(batch.x, data.splits["test"].x[:256])
    for training in (False, True):
        assert data.prepare(batch, training) is batch


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "star"}, "unknown layout 'star': use 'ring', 'grid' or 'pair'"),
        ({"num_examples": 0}, "num_examples=0: give at least 1"),
        ({"separation": -0.5}, "separation=-0.5: give a finite distance of 0 or more"),
        ({"separation": float("nan")}, "separation=nan: give a finite distance of 0 or more"),
        ({"separation": float("inf")}, "separation=inf: give a finite distance of 0 or more"),
        ({"val_size": -1}, "val_size=-1: give 0 or more examples"),
        ({"num_examples": 10_000}, "val_size=10000 leaves nothing of the 10000 training examples: lower it"),
    ],
)
def test_impossible_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ready(**arguments)
