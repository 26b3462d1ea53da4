"""A classifier cannot tell equal distributions apart and reaches Bayes' accuracy on known ones; copies are found."""

from __future__ import annotations

import math

import pytest
import torch

from dlkit.metrics import two_sample
from dlkit.metrics.two_sample import ClassifierTwoSampleTest, NearestNeighbours


def judged(real, generated, classifier="neighbours", seed=0):
    metric = ClassifierTwoSampleTest(classifier, seed)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("classifier", ["neighbours", "logistic"])
def test_two_gaussians_are_told_apart_as_well_as_is_possible(classifier):
    """N(-1, 1) and N(1, 1): Bayes' accuracy is Phi(1)."""
    bayes = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    found = judged(torch.randn(4000, 1) - 1, torch.randn(4000, 1) + 1, classifier)
    assert found["accuracy"] == pytest.approx(bayes, abs=0.02)
    assert found["p_value"] < 1e-12


@pytest.mark.parametrize("classifier", ["neighbours", "logistic"])
def test_equal_distributions_are_rejected_as_often_as_the_p_value_says(classifier):
    found = [judged(torch.randn(60, 2), torch.randn(60, 2), classifier) for _ in range(200)]
    assert torch.tensor([one["accuracy"] for one in found]).mean().item() == pytest.approx(0.5, abs=0.02)
    assert sum(one["p_value"] <= 0.1 for one in found) / 200 < 0.17  # three standard errors above .1
    assert sum(one["p_value"] <= 0.5 for one in found) / 200 > 0.3


def test_a_difference_in_spread_is_seen_by_neighbours_and_not_by_a_plane():
    real, generated = torch.randn(1000, 2), 3 * torch.randn(1000, 2)
    assert judged(real, generated, "neighbours")["accuracy"] > 0.7
    assert judged(real, generated, "logistic")["accuracy"] < 0.6


def test_the_p_value_is_the_binomial_tail():
    """Worlds apart: all 20 held-out examples are told right."""
    found = judged(torch.randn(20, 2), torch.randn(20, 2) + 100)
    assert found == pytest.approx({"accuracy": 1, "p_value": 0.5**20})


def test_more_of_one_kind_gives_no_better_accuracy():
    """Answering "real" always would be right nine times in ten."""
    found = judged(torch.randn(2700, 2), torch.randn(300, 2))
    assert found["accuracy"] == pytest.approx(0.5, abs=0.1)


def test_the_split_comes_from_the_seed():
    real, generated = torch.randn(200, 2), torch.randn(200, 2) + 0.5
    assert judged(real, generated, seed=3) == judged(real, generated, seed=3)
    assert len({judged(real, generated, seed=seed)["accuracy"] for seed in range(6)}) > 1


def test_the_test_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    real, generated = torch.ones(20, 2), torch.zeros(20, 2)
    judged(real, generated)
    assert torch.equal(torch.get_rng_state(), state)


def test_several_updates_equal_one_update_and_reset_forgets():
    real, generated = torch.randn(101, 2), torch.randn(87, 2) + 0.5
    metric = ClassifierTwoSampleTest()
    metric.update(torch.zeros(40, 7), real=True)
    metric.reset()
    for batch in generated.split(30):
        metric.update(batch, real=False)
    for batch in real.split([1, 50, 50]):
        metric.update(batch, real=True)
    assert metric.compute() == judged(real, generated)


def gathered(metric):
    """The result on one of two processes that hold the same examples."""
    metric.sync(dist_sync_fn=lambda x, group: [x, x], distributed_available=lambda: True)
    return type(metric).compute(metric)


def test_gathered_processes_equal_one():
    real, generated = torch.randn(51, 2), torch.randn(37, 2) + 0.5
    metric = ClassifierTwoSampleTest()
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert gathered(metric) == judged(real.repeat(2, 1), generated.repeat(2, 1))
    few = ClassifierTwoSampleTest()
    few.update(torch.zeros(1, 9), real=True)
    few.update(torch.zeros(1, 9), real=False)
    with pytest.raises(ValueError, match="has 2 real and 2 generated examples"):
        gathered(few)


def test_gathered_nearest_neighbours_equal_those_of_one_process(train):
    test, generated = torch.rand(41, 1, 2, 3), torch.rand(51, 1, 2, 3)
    assert gathered(memorised(train, test, generated)) == memorised(train, test, generated).compute()


def test_a_mistake_in_the_test_is_named():
    with pytest.raises(ValueError, match="classifier='forest' is unknown: write one of neighbours, logistic"):
        ClassifierTwoSampleTest("forest")
    with pytest.raises(ValueError, match="3 real and 9 generated examples: update it with at least 4"):
        judged(torch.randn(3, 2), torch.randn(9, 2))


@pytest.fixture
def train():
    return torch.rand(300, 1, 2, 3)


def memorised(train, test, generated):
    metric = NearestNeighbours()
    for split, x in (("train", train), ("test", test), ("generated", generated)):
        metric.update(x, split)
    return metric


def test_fresh_samples_have_a_ratio_of_one(train):
    ratio = memorised(train, torch.rand(2000, 1, 2, 3), torch.rand(2000, 1, 2, 3)).compute()["distance_ratio"]
    assert ratio.item() == pytest.approx(1, abs=0.05)


def test_copies_have_a_ratio_of_zero_and_noisy_copies_a_small_one(train):
    copies = train[torch.randint(300, (100,))]
    test = torch.rand(100, 1, 2, 3)
    assert memorised(train, test, copies).compute()["distance_ratio"] == 0
    noisy = copies + 0.01 * torch.randn(100, 1, 2, 3)
    assert 0 < memorised(train, test, noisy).compute()["distance_ratio"] < 0.3


def test_samples_far_off_have_a_large_ratio(train):
    assert memorised(train, torch.rand(100, 1, 2, 3), torch.rand(100, 1, 2, 3) + 5).compute()["distance_ratio"] > 10


@pytest.mark.parametrize("distances", [2**24, 1000], ids=["at once", "few rows at a time"])
def test_the_ratio_equals_a_written_out_one(train, distances, monkeypatch):
    monkeypatch.setattr(two_sample, "DISTANCES", distances)
    test, generated = torch.rand(41, 1, 2, 3), 0.5 + 0.2 * torch.randn(51, 1, 2, 3)

    def median(x):
        return torch.stack([(train - one).flatten(1).norm(dim=1).min() for one in x]).median()

    ratio = memorised(train, test, generated).compute()["distance_ratio"]
    torch.testing.assert_close(ratio, median(generated) / median(test))


def test_neighbours_finds_the_copies_first_and_keeps_the_shape(train):
    generated = torch.rand(50, 1, 2, 3)
    generated[20], generated[30] = train[7], train[9] + 1e-4
    found, nearest = memorised(train, train[:9] + 1, generated).neighbours(4)
    assert found.shape == nearest.shape == (4, 1, 2, 3)
    assert torch.equal(found[:2], generated[[20, 30]])
    assert torch.equal(nearest[:2], train[[7, 9]])
    gaps = (found - nearest).flatten(1).norm(dim=1)
    assert torch.equal(gaps, gaps.sort().values)
    every = torch.cdist(generated.flatten(1), train.flatten(1)).min(1).values.sort().values
    torch.testing.assert_close(gaps[2:], every[2:4], atol=1e-3, rtol=1e-3)
    assert len(memorised(train, train, generated).neighbours(1000)[0]) == 50


def test_a_copy_far_from_the_origin_is_still_at_distance_zero(train):
    far = train.double() / 3 + 1000
    distances, indices = memorised(far, far, far).nearest("generated")
    assert torch.equal(indices, torch.arange(300))
    assert not distances.any()


def test_several_updates_equal_one_update_and_nearest_neighbours_are_forgotten(train):
    test, generated = torch.rand(41, 1, 2, 3), torch.rand(51, 1, 2, 3)
    metric = NearestNeighbours()
    metric.update(torch.zeros(4, 5), "train")
    metric.reset()
    for batch in generated.split(20):
        metric.update(batch, "generated")
    for batch in train.split([1, 250, 49]):
        metric.update(batch, "train")
    metric.update(test[:11], "test")
    metric.update(test[11:], "test")
    assert metric.compute() == memorised(train, test, generated).compute()
    metric.reset()
    metric.update(train, "train")
    with pytest.raises(ValueError, match="no generated examples"):
        metric.compute()


def test_a_mistake_with_neighbours_is_named(train):
    metric = NearestNeighbours()
    with pytest.raises(ValueError, match="real_split='validation' is unknown: write one of train, test, generated"):
        metric.update(train, "validation")
    metric.update(train, "train")
    with pytest.raises(ValueError, match=r"generated examples have the shape \(6,\), train ones \(1, 2, 3\)"):
        metric.update(torch.zeros(4, 6), "generated")
    with pytest.raises(ValueError, match="half of the test examples stand in the training set"):
        memorised(train, train[:20], train + 1).compute()
