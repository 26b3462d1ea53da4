"""Precision, recall, density and coverage against written-out loops, against the authors' package and against theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlkit.metrics import two_sample
from dlkit.metrics.manifolds import PrecisionRecallDensityCoverage, radii


def scores(real, generated, k=5):
    metric = PrecisionRecallDensityCoverage(k)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return {name: value.item() for name, value in metric.compute().items()}


def written_out(real, generated, k):
    """The definitions, point by point."""

    def radius(x, others):
        return sorted(np.linalg.norm(others - x, axis=1))[k]  # the zeroth is x itself

    real, generated = real.double().numpy(), generated.double().numpy()
    real_radii = [radius(x, real) for x in real]
    generated_radii = [radius(y, generated) for y in generated]
    inside = np.array([[np.linalg.norm(x - y) < r for y in generated] for x, r in zip(real, real_radii, strict=True)])
    reached = np.array([[np.linalg.norm(x - y) < r for y, r in zip(generated, generated_radii, strict=True)] for x in real])
    return {
        "precision": inside.any(0).mean(),
        "recall": reached.any(1).mean(),
        "density": inside.sum() / (k * len(generated)),
        "coverage": inside.any(1).mean(),
    }


@pytest.fixture
def clouds():
    """Fewer generated than real points, shifted and narrower: all four scores differ."""
    return torch.randn(90, 3), 0.7 * torch.randn(60, 3) + 0.5


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("distances", [2**24, 400], ids=["at once", "few rows at a time"])
def test_the_scores_equal_written_out_loops(clouds, k, distances, monkeypatch):
    monkeypatch.setattr(two_sample, "DISTANCES", distances)
    expected = written_out(*clouds, k)
    assert len({round(value, 6) for value in expected.values()}) == 4
    assert scores(*clouds, k) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dimension", [2, 64])
def test_the_scores_equal_those_of_the_authors_package(dimension):
    from prdc import compute_prdc

    real, generated = torch.randn(500, dimension), 0.9 * torch.randn(400, dimension) + 0.3
    expected = compute_prdc(real.double().numpy(), generated.double().numpy(), nearest_k=5)
    assert scores(real, generated) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equal_distributions_have_the_density_and_the_coverage_of_theory(k):
    """Coverage: no generated point is among the k nearest of the other points, drawn without replacement."""
    n, m = 300, 200
    found = [scores(torch.randn(n, 2), torch.randn(m, 2), k) for _ in range(60)]
    missed = np.prod([(n - 1 - i) / (n + m - 1 - i) for i in range(k)])
    assert np.mean([one["coverage"] for one in found]) == pytest.approx(1 - missed, abs=0.015)
    assert np.mean([one["density"] for one in found]) == pytest.approx(1, abs=0.05)


def test_samples_of_one_mode_are_faithful_and_not_diverse():
    modes = torch.tensor([[-10.0, 0.0], [10.0, 0.0]])
    real = modes[torch.arange(400) % 2] + torch.randn(400, 2)
    found = scores(real, modes[0] + torch.randn(400, 2))
    assert found["precision"] > 0.9
    assert found["density"] > 0.8
    assert found["recall"] < 0.55
    assert found["coverage"] < 0.55


def test_samples_spread_too_wide_are_diverse_and_not_faithful():
    found = scores(torch.randn(400, 2), 4 * torch.randn(400, 2))
    assert found["recall"] > 0.95
    assert found["precision"] < 0.5
    assert found["density"] < 0.5


def test_precision_and_recall_change_places_with_the_sets(clouds):
    forth, back = scores(*clouds), scores(*reversed(clouds))
    assert (forth["precision"], forth["recall"]) == (back["recall"], back["precision"])


def test_one_real_outlier_raises_precision_and_hardly_density():
    """Naeem et al., figure 1: why density is there."""
    real = torch.cat([torch.randn(200, 2), torch.tensor([[100.0, 0.0]])])
    generated = torch.tensor([50.0, 0.0]) + torch.randn(200, 2)
    found = scores(real, generated)
    assert found["precision"] == 1
    assert found["density"] == pytest.approx(1 / 5)


def test_distances_far_from_the_origin_are_as_exact(clouds):
    near, far = scores(*clouds), scores(*(x.double() + 1e6 for x in clouds))
    assert far == pytest.approx(near)


def test_a_point_is_not_its_own_neighbour():
    torch.testing.assert_close(radii(torch.tensor([[0.0], [1.0], [4.0]]), 1), torch.tensor([1.0, 1.0, 3.0]))
    torch.testing.assert_close(radii(torch.tensor([[0.0], [1.0], [4.0]]), 2), torch.tensor([4.0, 3.0, 4.0]))
    torch.testing.assert_close(radii(torch.tensor([[2.0], [2.0], [4.0]]), 1), torch.tensor([0.0, 0.0, 2.0]))


def test_several_updates_and_merged_metrics_equal_one_update_and_reset_forgets(clouds):
    real, generated = clouds
    metric, other = PrecisionRecallDensityCoverage(), PrecisionRecallDensityCoverage()
    metric.update(torch.zeros(40, 7), real=True)
    metric.reset()
    for batch in generated.split(7):
        metric.update(batch, real=False)
    for batch in real.split([1, 49, 40]):
        metric.update(batch, real=True)
    assert metric.compute() == scores(real, generated)
    metric.reset()
    metric.update(real[:50], real=True)
    metric.update(generated, real=False)
    other.update(real[50:], real=True)
    other.merge_state(metric)  # the incoming states come first
    assert other.compute() == scores(real, generated)


def test_features_keep_no_graph(clouds):
    metric = PrecisionRecallDensityCoverage()
    metric.update(clouds[0].requires_grad_(), real=True)
    assert not metric.real_features[0].requires_grad


def test_a_mistake_is_named(clouds):
    with pytest.raises(ValueError, match="k=0"):
        PrecisionRecallDensityCoverage(0)
    metric = PrecisionRecallDensityCoverage(5)
    with pytest.raises(ValueError, match=r"\(n, d\), got \(3, 1, 8, 8\)"):
        metric.update(torch.zeros(3, 1, 8, 8), real=True)
    with pytest.raises(ValueError, match="generated features contain NaN"):
        metric.update(torch.full((3, 3), torch.nan), real=False)
    metric.update(clouds[0], real=True)
    with pytest.raises(ValueError, match="width 3, these have 4"):
        metric.update(torch.zeros(3, 4), real=False)
    metric.update(clouds[1][:5], real=False)
    with pytest.raises(ValueError, match="90 real and 5 generated examples: update it with at least 6"):
        metric.compute()
