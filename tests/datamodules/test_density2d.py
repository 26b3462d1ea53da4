"""Density2D: published entropies, and that density, entropy and points are of one and the same distribution."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.datasets import make_moons

from datamodules import Density2D
from datamodules.density2d import EightGaussians

# Name -> parts, usual noise and half the side of a square that holds all but 1e-8 of the points.
NAMES = {
    "moons": (2, 0.1, 3.0),
    "rings": (4, 0.08, 4.0),
    "eight-gaussians": (8, 0.5, 8.0),
    "checkerboard": (8, 0.0, 4.0),
    "spirals": (2, 0.1, 4.0),
    "pinwheel": (5, 0.2, 6.0),
}
names = pytest.mark.parametrize("name", NAMES)


def ready(name="moons", **arguments):
    data = Density2D(name, **arguments)
    data.setup()
    return data


def grid(half, number):
    """The middles of number^2 equal squares, and the area of one."""
    places = (torch.arange(number, dtype=torch.float64) + 0.5) * (2 * half / number) - half
    return torch.cartesian_prod(places, places), (2 * half / number) ** 2


def curve_density(x, centre, length, weight, noise):
    """The definition: a Gaussian's mean over a curve, by adaptive quadrature."""

    def integrand(t):
        return weight(t) * math.exp(-sum((a - b) ** 2 for a, b in zip(x, centre(t), strict=True)) / (2 * noise**2))

    ends = np.linspace(0, length, 60)
    total = sum(quad(integrand, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(ends))
    return total / (2 * math.pi * noise**2)


# The density ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "noise", "entropy"),
    [
        ("moons", None, 1.0076),
        ("moons", 0.05, 0.2892),
        ("eight-gaussians", None, 3.5247),
        ("checkerboard", None, math.log(32)),
    ],
)
def test_the_entropy_is_the_published_one(name, noise, entropy):
    assert Density2D(name, noise).entropy == pytest.approx(entropy, abs=5e-4)


def test_the_entropy_of_eight_gaussians_is_the_published_one_at_half_the_radius(monkeypatch):
    monkeypatch.setattr(EightGaussians, "radius", 2.0)
    assert Density2D("eight-gaussians", 0.2).entropy == pytest.approx(1.6981, abs=5e-4)


@pytest.mark.parametrize("noise", [None, 0.5])
@names
def test_the_points_have_the_entropy(name, noise):
    data = Density2D(name, noise)
    surprise = -data.log_density(data.draw(10_000, seed=3).x)
    assert abs(surprise.mean() - data.entropy) <= 4 * surprise.std() / 10_000**0.5 + 1e-12


@names
def test_the_density_integrates_to_one_and_its_entropy_over_the_grid_is_the_entropy(name):
    data = Density2D(name)
    x, area = grid(NAMES[name][2], 120 if name == "checkerboard" else 160)
    log_density = data.log_density(x)
    assert log_density.exp().sum() * area == pytest.approx(1, abs=2e-4)
    assert -torch.xlogy(log_density.exp(), log_density.exp()).sum() * area == pytest.approx(data.entropy, abs=1e-3)


@pytest.mark.parametrize("noise", [1e-2, 10.0])
@pytest.mark.parametrize("name", ["moons", "rings", "eight-gaussians"])
def test_the_entropy_has_its_limits(name, noise):
    """With little noise, that of the curves plus that of the noise across them; with much, that of one Gaussian."""
    data = Density2D(name, noise)
    if noise > 1:
        x = data.draw(100_000, seed=1).x.double()
        expected = 0.5 * torch.logdet(2 * math.pi * math.e * torch.cov(x.T)).item()
        assert data.entropy == pytest.approx(expected, abs=0.02)
    else:
        gaussian = 0.5 * math.log(2 * math.pi * math.e * noise**2)
        lengths = {
            "moons": [math.pi] * 2,
            "rings": [2 * math.pi * radius for radius in (0.75, 1.5, 2.25, 3)],
            "eight-gaussians": [math.exp(gaussian)] * 8,
        }[name]
        expected = gaussian + sum(math.log(length * len(lengths)) for length in lengths) / len(lengths)
        assert data.entropy == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("noise", [0.1, 0.4])
@pytest.mark.parametrize("x", [(0.1, 0.9), (0.5, 0.25), (0.0, 0.0), (-1.0, -0.7), (1.7, 1.5), (-0.4, -1.3)])
def test_the_moons_are_the_integral_that_defines_them(x, noise):
    upper = curve_density(x, lambda t: (math.cos(t), math.sin(t)), math.pi, lambda t: 1 / math.pi, noise)
    lower = curve_density(x, lambda t: (1 - math.cos(t), 0.5 - math.sin(t)), math.pi, lambda t: 1 / math.pi, noise)
    assert Density2D("moons", noise).log_density(torch.tensor([x], dtype=torch.float64)).item() == pytest.approx(
        math.log((upper + lower) / 2), abs=1e-9
    )


@pytest.mark.parametrize("x", [(0.0, 0.0), (1.0, -2.0), (-3.0, 0.1), (0.3, 0.3)])
def test_the_spirals_are_the_integral_that_defines_them(x):
    length = 3 * math.pi
    arms = [
        curve_density(
            x, lambda t, s=s: (s * t / 3 * math.cos(t), s * t / 3 * math.sin(t)), length, lambda t: 2 * t / length**2, 0.1
        )
        for s in (1, -1)
    ]
    found = Density2D("spirals").log_density(torch.tensor([x], dtype=torch.float64)).item()
    assert found == pytest.approx(math.log(sum(arms) / 2), abs=1e-9)


@pytest.mark.parametrize("r", [0.0, 0.8, 1.9, 3.3])
def test_the_rings_are_the_integral_that_defines_them_in_every_direction(r):
    expected = sum(
        curve_density((r, 0.0), lambda t, R=R: (R * math.cos(t), R * math.sin(t)), 2 * math.pi, lambda t: 0.5 / math.pi, 0.08)
        for R in (0.75, 1.5, 2.25, 3)
    )
    angle = torch.linspace(0, 6, 7, dtype=torch.float64)
    found = Density2D("rings").log_density(r * torch.stack([angle.cos(), angle.sin()], dim=1))
    assert found.tolist() == pytest.approx([math.log(expected / 4)] * 7, abs=1e-9)


def test_the_checkerboard_has_density_on_its_squares_alone():
    x = torch.tensor([[-4.0, -4.0], [-3.0, -3.0], [-1.0, -3.0], [3.0, 1.0], [3.0, 3.0], [4.0, 4.0], [1.0, -1.0], [5.0, 5.0]])
    inside = torch.tensor([True, True, False, False, True, True, False, False])
    assert torch.equal(Density2D("checkerboard").log_density(x).isfinite(), inside)


@names
def test_the_density_is_of_the_plane_in_double_precision_and_far_points_are_only_unlikely(name):
    data = Density2D(name)
    assert "entropy" not in vars(data)  # it is not computed unless it is asked for
    log_density = data.log_density(torch.tensor([[30.0, -40.0], [0.0, 0.0]], dtype=torch.float16))
    assert log_density.dtype == torch.float64
    assert not log_density.isnan().any()
    assert log_density[0] < -100
    assert name == "checkerboard" or log_density[0].isfinite()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "checkerboard"])
def test_the_gradient_of_the_density_is_that_of_its_differences(name):
    data = Density2D(name)
    x = data.draw(5, seed=8).x.double().requires_grad_()
    assert torch.autograd.gradcheck(data.log_density, (x,))


# The points ----------------------------------------------------------------------------------------------------------


@names
def test_every_part_has_an_equal_share_and_a_name(name):
    data = ready(name)
    parts, noise, half = NAMES[name]
    assert (data.num_classes, data.noise) == (parts, noise)
    assert len(set(data.class_names)) == parts
    for split in ("train", "val", "test"):
        x, y = data.splits[split]
        n = len(x)
        assert ((y.bincount(minlength=parts) - n / parts).abs() < 5 * (n / parts * (1 - 1 / parts)) ** 0.5).all()
        assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (n, *data.data_shape))
        assert x.abs().max() <= half


@names
def test_every_label_is_of_a_part_near_its_points(name):
    """By the definitions, with the noise in the units that it has; 5.5 standard deviations hold all of 10,000 points."""
    data = Density2D(name)
    x, y = data.draw(10_000, seed=4)
    x, noise = x.double(), data.noise
    if name == "checkerboard":
        column, row = ((x + 4) / 2).floor().long().unbind(1)
        assert torch.equal(y, 2 * row + torch.div(column, 2, rounding_mode="floor"))
        return
    if name == "eight-gaussians":
        offset = x - 4 * torch.stack([(y * math.pi / 4).cos(), (y * math.pi / 4).sin()], dim=1)
        assert ((offset / noise).std(0) - 1).abs().max() < 5 / 20_000**0.5
        return
    if name == "pinwheel":
        z = torch.polar(x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0]) - x.norm(dim=1) / 2 - 2 * math.pi * y / 5)
        for values, mean, std in ((z.real, 2, 0.6), (z.imag, 0, 0.2)):
            assert abs(values.mean() - mean) < 5 * std / 100
            assert abs(values.std() / std - 1) < 5 / 20_000**0.5
        return
    if name == "rings":
        distance = x.norm(dim=1) - torch.tensor([0.75, 1.5, 2.25, 3.0])[y]
    else:
        t = torch.linspace(0, math.pi if name == "moons" else 3 * math.pi, 2000, dtype=torch.float64)
        circle = torch.stack([t.cos(), t.sin()], dim=1)
        if name == "moons":
            curves = torch.stack([circle, torch.tensor([1, 0.5]) - circle])
        else:
            curves = torch.stack([circle, -circle]) * (t / 3).unsqueeze(1)
        distance = torch.cat([torch.cdist(x[y == part], curves[part]).amin(1) for part in (0, 1)])
    assert distance.abs().max() < 5.5 * noise
    # a distance across a curve has the noise's standard deviation, but for bends and ends
    assert distance.square().mean().sqrt() == pytest.approx(noise, rel=0.15)


def test_the_moons_have_the_moments_of_scikit_learn_s():
    ours = Density2D("moons").draw(100_000, seed=0)
    theirs, labels = make_moons(100_000, noise=0.1, random_state=0)
    for part in (0, 1):
        a, b = ours.x[ours.y == part].double(), torch.from_numpy(theirs[labels == part])
        assert (a.mean(0) - b.mean(0)).abs().max() < 0.02
        assert (torch.cov(a.T) - torch.cov(b.T)).abs().max() < 0.02


@names
def test_the_points_come_from_the_split_seed_alone(name):
    splits = []
    for global_seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        splits.append(ready(name, num_examples=2_000, val_size=500, split_seed=split_seed).splits)
    for part in ("train", "val", "test"):
        assert torch.equal(splits[0][part].x, splits[1][part].x)
        assert torch.equal(splits[0][part].y, splits[1][part].y)
        assert not torch.equal(splits[0][part].x, splits[2][part].x)


@names
def test_the_splits_have_their_sizes_and_share_no_point(name):
    splits = ready(name, num_examples=20_000, val_size=4_000).splits
    assert {part: len(examples.x) for part, examples in splits.items()} == {"train": 16_000, "val": 4_000, "test": 10_000}
    assert len(torch.cat([examples.x for examples in splits.values()]).unique(dim=0)) == 30_000


def test_the_test_part_does_not_depend_on_the_training_part():
    few, many = ready(num_examples=10, val_size=0), ready()
    assert torch.equal(few.splits["test"].x, many.splits["test"].x)


def test_the_points_are_served_as_they_are():
    data = ready("pinwheel")
    batch = next(data.batches("test"))
    assert torch.equal(batch.x, data.splits["test"].x[:256])
    assert torch.equal(batch.y, data.splits["test"].y[:256])


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "star"},
            "unknown name 'star': use 'moons', 'rings', 'eight-gaussians', 'checkerboard', 'spirals', 'pinwheel'",
        ),
        ({"noise": 0.0}, "noise=0.0: give a finite standard deviation above 0, without which there is no density"),
        ({"noise": -1.0}, "noise=-1.0: give a finite standard deviation above 0"),
        ({"noise": math.nan}, "noise=nan: give a finite standard deviation above 0"),
        ({"noise": math.inf}, "noise=inf: give a finite standard deviation above 0"),
        ({"num_examples": 0}, "num_examples=0: give at least 1"),
        ({"num_examples": 10_000}, "val_size=10000 leaves nothing of the 10000 training examples: lower it"),
    ],
)
def test_impossible_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ready(**arguments)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 2, 2)])
def test_points_of_another_space_are_named(shape):
    with pytest.raises(ValueError, match=r"x has the shape \(.*\): give points of the plane, \(n, 2\)"):
        Density2D().log_density(torch.zeros(shape))
