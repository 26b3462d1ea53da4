"""Modes, high quality and KL against a written-out count; what a collapsed, a perfect and a leaning sampler get."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dlkit.metrics.modes import ClassModes, MixtureModes

STD = 0.05
GRID = torch.cartesian_prod(torch.arange(-4.0, 5, 2), torch.arange(-4.0, 5, 2))  # 25 modes


@pytest.fixture
def samples():
    """Some of the modes, unevenly, with a third of the samples too far out."""
    modes = torch.randint(18, (600,)).square() % 25
    return GRID[modes] + STD * 2 * torch.randn(600, 2)


def counted(x, means, std, radius):
    """The published count, one sample after the other."""
    counts = [0] * len(means)
    for point in x.double().numpy():
        distances = [math.dist(point, mean) for mean in means.double().numpy()]
        if min(distances) < radius * std:
            counts[int(np.argmin(distances))] += 1
    p = [count / sum(counts) for count in counts if count]
    kl = sum(share * math.log(share * len(means)) for share in p)
    return {"modes": len(p), "high_quality": sum(counts) / len(x), "kl": kl}


@pytest.mark.parametrize("radius", [3.0, 1.0])
def test_the_scores_equal_a_written_out_count(samples, radius):
    metric = MixtureModes(GRID, STD, radius)
    metric.update(samples)
    expected = counted(samples, GRID, STD, radius)
    assert 1 < expected["modes"] < 25
    assert 0.1 < expected["high_quality"] < 0.95
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(expected, rel=1e-5)


def test_samples_of_the_mixture_itself_reach_the_values_of_theory():
    metric = MixtureModes(GRID, STD)
    number = 50_000
    metric.update(GRID[torch.randint(25, (number,))] + STD * torch.randn(number, 2))
    scores = metric.compute()
    assert scores["modes"] == 25
    assert scores["high_quality"].item() == pytest.approx(1 - math.exp(-9 / 2), abs=0.002)
    assert 0 <= scores["kl"].item() < 5 * 24 / (2 * number)


def test_one_mode_alone_has_the_largest_kl():
    metric = MixtureModes(GRID, STD)
    metric.update(GRID[7].repeat(100, 1))
    scores = metric.compute()
    assert (scores["modes"], scores["high_quality"]) == (1, 1)
    assert scores["kl"].item() == pytest.approx(math.log(25))


def test_a_leaning_sampler_is_told_by_kl_alone():
    metric = MixtureModes(torch.tensor([[0.0], [1.0]]), 0.01)
    metric.update(torch.tensor([0.0, 0.0, 0.0, 1.0]).unsqueeze(1))
    scores = metric.compute()
    assert (scores["modes"], scores["high_quality"]) == (2, 1)
    assert scores["kl"].item() == pytest.approx(math.log(2) - (0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


def test_a_sample_between_two_modes_counts_for_the_nearer_one_only():
    metric = MixtureModes(torch.tensor([[0.0], [1.0]]), 1.0)
    metric.update(torch.tensor([[0.4]]))
    assert metric.compute()["modes"] == 1


def test_samples_far_off_and_samples_that_are_not_finite_are_of_low_quality():
    metric = MixtureModes(GRID, STD)
    metric.update(torch.tensor([[1.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0], [1e9, 0.0]]))
    scores = metric.compute()
    assert (scores["modes"], scores["high_quality"]) == (0, 0)
    assert scores["kl"].isnan()
    metric.update(GRID[:4])
    assert metric.compute()["high_quality"] == 0.5


def test_several_updates_and_merged_metrics_equal_one_update(samples):
    several, whole = MixtureModes(GRID, STD), MixtureModes(GRID, STD)
    first, second = MixtureModes(GRID, STD), MixtureModes(GRID, STD)
    for batch in samples.split([1, 399, 0, 200]):
        several.update(batch)
    whole.update(samples)
    first.update(samples[:100])
    second.update(samples[100:])
    first.merge_state(second)
    assert several.compute() == whole.compute() == first.compute()


def test_reset_forgets(samples):
    metric = MixtureModes(GRID, STD)
    metric.update(samples)
    metric.reset()
    metric.update(GRID[:3])
    assert metric.compute()["modes"] == 3
    assert metric.compute()["high_quality"] == 1


def test_class_modes_equal_the_modes_of_a_mixture(samples):
    """The same counts give the same KL."""
    mixture, classes = MixtureModes(GRID, STD, 1e9), ClassModes(25)
    mixture.update(samples)
    for batch in torch.cdist(samples, GRID).argmin(1).split([1, 0, 599]):
        classes.update(batch)
    assert classes.compute() == {name: mixture.compute()[name] for name in ("modes", "kl")}
    classes.reset()
    classes.update(torch.arange(25))
    assert classes.compute() == {"modes": 25, "kl": 0}


def test_class_modes_of_true_samples_have_the_kl_of_their_number():
    """26 000 samples of 1000 modes: the floor that papers leave out."""
    metric = ClassModes(1000)
    metric.update(torch.randint(1000, (26_000,)))
    assert metric.compute()["modes"] == 1000
    assert metric.compute()["kl"].item() == pytest.approx(999 / 52_000, rel=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MixtureModes(torch.zeros(3), 1.0), r"\(modes, d\), got \(3,\)"),
        (lambda: MixtureModes(GRID, 0.0), r"std=0.0"),
        (lambda: MixtureModes(GRID, 1.0, -1.0), r"radius=-1.0"),
        (lambda: MixtureModes(GRID, 1.0).update(torch.zeros(4, 3)), r"\(n, 2\), got \(4, 3\)"),
        (lambda: ClassModes(0), r"num_modes=0"),
        (lambda: ClassModes(3).update(torch.tensor([0, 3])), r"mode 0 or 3 is not in 0 ... 2"),
        (lambda: ClassModes(3).update(torch.tensor([-1])), r"is not in 0 ... 2"),
        (lambda: ClassModes(3).update(torch.zeros(3)), r"integers of the shape \(n,\), got torch.float32"),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
