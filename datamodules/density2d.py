"""Density2D: points of the plane from densities that are known exactly, against which a model's likelihood is held."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.drawn import DrawnPoints
from dlkit.batches import Examples

Name = Literal["moons", "rings", "eight-gaussians", "checkerboard", "spirals", "pinwheel"]
REACH = 8  # beyond so many standard deviations a Gaussian adds nothing to an integral, less than 1e-12


class Density2D(DrawnPoints):
    """Independent points x (n, 2), float32, of a density of the plane; the label is the part that a point is drawn from.

    The best mean of -log p(x) that any model can reach on such points is the `entropy`, in nats. Every part has the same
    probability. Gaussian noise is isotropic, with `noise` its standard deviation, unless another meaning is given:

    "moons": scikit-learn's `make_moons`, (cos t, sin t) and (1 - cos t, 1/2 - sin t) with noise (0.1), unstandardised; but t is
    uniform on [0, pi] where scikit-learn puts points at equal distances. "rings": four circles about the origin of radius 0.75,
    1.5, 2.25 and 3 with noise (0.08), as in Grathwohl et al. 2019 (arXiv:1810.01367, the authors' code). "eight-gaussians":
    Gaussians of standard deviation `noise` (0.5) whose centres are on the circle of radius 4, which is fixed. "checkerboard":
    uniform on 8 of the 16 squares of side 2 that make up [-4, 4]^2, edges included; it has no noise. "spirals": two arms
    (t/3) (cos t, sin t) and its opposite, t = 3 pi sqrt(u) with u uniform on [0, 1], with noise (0.1); the authors' code above
    adds uniform noise too, which this does not. "pinwheel": five arms, after Johnson et al. 2016 (arXiv:1603.06277): Gaussians
    with their centres on the circle of radius 2, of standard deviation 0.6 along the radius and `noise` (0.2) across it; then
    each point z is turned about the origin by |z| / 2 radians. Johnson et al. turn by the exponential of one coordinate
    of z; an angle that depends on |z| alone makes the map preserve area and have an inverse, so that the density is exact.

    Args:
        name: "moons", "rings", "eight-gaussians", "checkerboard", "spirals" or "pinwheel".
        noise: a standard deviation, in the units of x; the number in brackets above if None. "checkerboard" makes no use of it.
        num_examples, batch_size, val_size, split_seed: see `DrawnPoints`.

    Raises:
        ValueError: an unknown name, noise that is not positive and finite, no examples.

    Attributes:
        shape: the density.
    """

    data_shape = (2,)

    def __init__(
        self,
        name: Name = "moons",
        noise: float | None = None,
        num_examples: int = 100_000,
        batch_size: int = 256,
        val_size: int = 10_000,
        split_seed: int = 0,
    ) -> None:
        super().__init__(num_examples, batch_size, val_size, split_seed)
        if name not in SHAPES:
            raise ValueError(f"unknown name {name!r}: use {', '.join(map(repr, SHAPES))}")
        if noise is not None and not 0 < noise < math.inf:
            raise ValueError(f"noise={noise}: give a finite standard deviation above 0, without which there is no density")
        kind, usual = SHAPES[name]
        self.name: Name = name
        self.shape = kind(usual if noise is None else noise)
        self.noise = self.shape.noise
        self.class_names = self.shape.parts
        self.num_classes = len(self.class_names)

    @cached_property
    def entropy(self) -> float:
        """-E log p(x) in nats, of the points and not of their labels: by quadrature, to 1e-4 or better.

        It takes well under a second at the usual noise, and longer as 1 / noise^2 where the noise is much smaller.
        """
        return self.shape.entropy()

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats, -inf where nothing is drawn: (n, 2) of any dtype and device -> (n,), float64, on the CPU.

        Quadrature over a curve is exact to 1e-9 within 20 standard deviations of it.

        Raises:
            ValueError: x of another shape.
        """
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"x has the shape {tuple(x.shape)}: give points of the plane, (n, 2)")
        return self.shape.log_density(x.cpu().double())

    def draw(self, n: int, seed: int) -> Examples:
        """Independent points x (n, 2), float32, with their parts y (n,), int64."""
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(len(self.class_names), (n,), generator=generator)
        return Examples(self.shape.draw(y, generator).float(), y)


class Shape:
    """A density of the plane, an equal mixture of parts.

    Args:
        noise: a standard deviation.

    Attributes:
        parts: a name for each.
    """

    parts: tuple[str, ...]

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Points of the given parts: (n,) -> (n, 2), float64."""
        raise NotImplementedError(f"{type(self).__name__} has to define draw()")

    def log_density(self, x: Tensor) -> Tensor:
        """(n, 2), float64 -> (n,), in nats."""
        raise NotImplementedError(f"{type(self).__name__} has to define log_density()")

    def entropy(self) -> float:
        """In nats."""
        raise NotImplementedError(f"{type(self).__name__} has to define entropy()")


class Curves(Shape):
    """A point on one of several curves, plus isotropic Gaussian noise.

    p(x) = 1/parts sum_y int_0^length w(t) N(x; c_y(t), noise^2 I) dt, by Gauss-Legendre quadrature of 16 nodes on panels of
    the curve no longer than two standard deviations: a finite mixture of Gaussians that cannot be told from the integral. The
    curves have one length.

    Attributes:
        length: of the parameter's interval.
    """

    length: float

    def centre(self, y: Tensor, t: Tensor) -> Tensor:
        """The point at t of curve y: (n,), (n,) -> (n, 2)."""
        raise NotImplementedError(f"{type(self).__name__} has to define centre()")

    def parameter(self, u: Tensor) -> Tensor:
        """The quantile function of t, for u in [0, 1]; here t is uniform."""
        return self.length * u

    def weight(self, t: Tensor) -> Tensor:
        """The density w of t."""
        return torch.full_like(t, 1 / self.length)

    @cached_property
    def mixture(self) -> tuple[Tensor, Tensor]:
        """Centres (k, 2) and weights (k,), which sum to one."""
        t = torch.linspace(0, self.length, 10_001, dtype=torch.float64)
        arc = self.centre(torch.zeros(len(t)), t).diff(dim=0).norm(dim=1).cumsum(0).numpy()
        stops = np.linspace(0, arc[-1], math.ceil(arc[-1] / (2 * self.noise)) + 1)
        t, dt = panels(np.interp(stops, [0, *arc], t.numpy()))
        number = len(self.parts)
        y = torch.arange(number).repeat_interleave(len(t))
        return self.centre(y, t.repeat(number)), (self.weight(t) * dt / number).repeat(number)

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        t = self.parameter(torch.rand(len(y), generator=generator, dtype=torch.float64))
        return self.centre(y, t) + self.noise * normal(len(y), generator)

    def log_density(self, x: Tensor) -> Tensor:
        centres, weights = self.mixture
        precision = self.noise**-2
        offsets = weights.log() - precision / 2 * centres.square().sum(1)
        # log N = x.c / noise^2 - |c|^2 / (2 noise^2) - |x|^2 / (2 noise^2) + constant; 2 MiB of it at a time stay in the cache
        rows = max(1, 2**18 // len(weights))
        sums = torch.cat([(offsets + precision * (some @ centres.T)).logsumexp(1) for some in x.split(rows)])
        return sums - precision / 2 * x.square().sum(1) - math.log(2 * math.pi * self.noise**2)

    def entropy(self) -> float:
        centres, weights = self.mixture

        def density(first: Tensor, second: Tensor) -> Tensor:
            # An isotropic Gaussian is a product over the two axes, so that the sum over the mixture is a matrix product.
            reach = (first[-1] - first[0]) / 2 + (REACH + 2) * self.noise
            near = (centres[:, 0] - (first[0] + first[-1]) / 2).abs() < reach
            across, along = (
                ((places.unsqueeze(1) - centres[near, axis]) / self.noise).square().mul(-0.5).exp()
                for axis, places in enumerate((first, second))
            )
            return (across * weights[near]) @ along.T / (2 * math.pi * self.noise**2)

        margin = REACH * self.noise
        low, high = centres.amin(0) - margin, centres.amax(0) + margin
        return grid_entropy(density, low, high, self.noise / 3)


class Moons(Curves):
    """Two half circles of radius 1, about (0, 0) and (1, 1/2)."""

    parts = ("upper", "lower")
    length = math.pi

    def centre(self, y: Tensor, t: Tensor) -> Tensor:
        x = torch.stack([t.cos(), t.sin()], dim=1)
        return torch.where(y.unsqueeze(1) == 0, x, torch.tensor([1.0, 0.5], dtype=x.dtype) - x)


class Spirals(Curves):
    """Two arms of Archimedes from the origin, one and a half turns each."""

    parts = ("arm 0", "arm 1")
    length = 3 * math.pi

    def centre(self, y: Tensor, t: Tensor) -> Tensor:
        radius = (1 - 2 * y) * t / 3
        return torch.stack([radius * t.cos(), radius * t.sin()], dim=1)

    def parameter(self, u: Tensor) -> Tensor:
        # nearly as many points on each unit of an arm's length
        return self.length * u.sqrt()

    def weight(self, t: Tensor) -> Tensor:
        return 2 * t / self.length**2


class EightGaussians(Curves):
    """Curves that are points: (4, 0) and anticlockwise on the circle of radius 4."""

    parts = tuple(f"{45 * number} degrees" for number in range(8))
    length = 1.0
    radius = 4.0

    def centre(self, y: Tensor, t: Tensor) -> Tensor:
        angle = y.double() * (math.pi / 4)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    @cached_property
    def mixture(self) -> tuple[Tensor, Tensor]:
        y = torch.arange(8)
        return self.centre(y, y), torch.full((8,), 1 / 8, dtype=torch.float64)


class Rings(Shape):
    """Circles about the origin plus isotropic Gaussian noise s.

    p(x) = 1/4 sum_R exp(-(r - R)^2 / 2 s^2) I0e(r R / s^2) / (2 pi s^2), r = |x|, where I0e(a) = exp(-a) I0(a) is the mean of
    exp(a cos t - a) over the circle.
    """

    radii = (0.75, 1.5, 2.25, 3.0)
    parts = tuple(f"radius {radius:g}" for radius in radii)

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(len(y), generator=generator, dtype=torch.float64)
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        radius = torch.tensor(self.radii, dtype=torch.float64)[y]
        return radius.unsqueeze(1) * circle + self.noise * normal(len(y), generator)

    def log_density(self, x: Tensor) -> Tensor:
        return self.radial(x.norm(dim=1))

    def radial(self, r: Tensor) -> Tensor:
        """log p of the points that are r away from the origin: (n,) -> (n,)."""
        radii, variance = torch.tensor(self.radii, dtype=torch.float64), self.noise**2
        r = r.unsqueeze(1)
        rings = -(r - radii).square() / (2 * variance) + torch.special.i0e(r * radii / variance).log()
        return rings.logsumexp(1) - math.log(len(self.radii) * 2 * math.pi * variance)

    def entropy(self) -> float:
        end = max(self.radii) + REACH * self.noise
        r, dr = panels(np.linspace(0, end, math.ceil(end / self.noise) + 1))
        log_density = self.radial(r)
        return -(2 * math.pi * r * log_density.exp() * log_density * dr).sum().item()


class Checkerboard(Shape):
    """Uniform on the squares of an even row plus column; their edges are theirs."""

    corners = tuple((2.0 * column - 4, 2.0 * row - 4) for row in range(4) for column in range(4) if (row + column) % 2 == 0)
    parts = tuple(f"from ({left:g}, {bottom:g})" for left, bottom in corners)

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        corners = torch.tensor(self.corners, dtype=torch.float64)
        return corners[y] + 2 * torch.rand(len(y), 2, generator=generator, dtype=torch.float64)

    def log_density(self, x: Tensor) -> Tensor:
        # Closed squares: a point that float32 rounds up to an edge is still of the square that it was drawn from.
        within = x.unsqueeze(1) - torch.tensor(self.corners, dtype=x.dtype)
        inside = ((within >= 0) & (within <= 2)).all(2).any(1)
        return torch.zeros(len(x), dtype=x.dtype).masked_fill(~inside, -math.inf) - self.entropy()

    def entropy(self) -> float:
        return math.log(4 * len(self.corners))


class Pinwheel(Shape):
    """Gaussians about the origin, each longer along the radius than across it, and then a swirl.

    z ~ 1/5 sum_k N(R_k (2, 0), R_k diag(0.6^2, noise^2) R_k^T), R_k the rotation by 2 pi k / 5, and x = R(|z| / 2) z. In polar
    coordinates the swirl is (r, a) -> (r, a + r/2), whose Jacobian is one: p_x(x) = p_z(z), and their entropies are the same.
    """

    parts = tuple(f"arm {number}" for number in range(5))
    radius = 2.0
    length = 0.6  # the standard deviation along the radius
    swirl = 0.5  # radians a unit of radius

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        scale = torch.tensor([self.length, self.noise], dtype=torch.float64)
        z = torch.tensor([self.radius, 0.0], dtype=torch.float64) + scale * normal(len(y), generator)
        return rotate(z, 2 * math.pi / len(self.parts) * y + self.swirl * z.norm(dim=1))

    def log_density(self, x: Tensor) -> Tensor:
        return self.log_density_before(rotate(x, -self.swirl * x.norm(dim=1)))

    def log_density_before(self, z: Tensor) -> Tensor:
        """log p_z, before the swirl: (n, 2) -> (n,)."""
        number = len(self.parts)
        arms = []
        for arm in range(number):
            along, across = rotate(z, torch.tensor(-2 * math.pi * arm / number, dtype=z.dtype)).unbind(1)
            arms.append(-((along - self.radius) / self.length).square() / 2 - (across / self.noise).square() / 2)
        return torch.stack(arms).logsumexp(0) - math.log(number * 2 * math.pi * self.length * self.noise)

    def entropy(self) -> float:
        def density(first: Tensor, second: Tensor) -> Tensor:
            return self.log_density_before(torch.cartesian_prod(first, second)).exp().view(len(first), len(second))

        wide, narrow = max(self.length, self.noise), min(self.length, self.noise)
        high = torch.full((2,), self.radius + REACH * wide, dtype=torch.float64)
        return grid_entropy(density, -high, high, narrow / 3)


# Name -> its density, and the usual noise; the checkerboard has none.
SHAPES: dict[str, tuple[type[Shape], float]] = {
    "moons": (Moons, 0.1),
    "rings": (Rings, 0.08),
    "eight-gaussians": (EightGaussians, 0.5),
    "checkerboard": (Checkerboard, 0.0),
    "spirals": (Spirals, 0.1),
    "pinwheel": (Pinwheel, 0.2),
}


def normal(n: int, generator: torch.Generator) -> Tensor:
    """Points of the standard normal distribution: (n, 2), float64."""
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Points turned anticlockwise about the origin: (n, 2), radians (n,) or () -> (n, 2)."""
    first, second = x.unbind(1)
    return torch.stack([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], dim=1)


def panels(edges: np.ndarray) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre quadrature of 16 nodes between each two neighbours of `edges`, float64: nodes, weights."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    middle = edges[:-1, None] + half
    return torch.from_numpy((middle + half * nodes).ravel()), torch.from_numpy((half * weights).ravel())


def grid_entropy(density: Callable[[Tensor, Tensor], Tensor], low: Tensor, high: Tensor, step: float) -> float:
    """-int p log p over a rectangle outside of which p is nothing, in nats, by the trapezoidal rule.

    The rule converges faster than any power of the step for smooth functions that vanish at the ends (Trefethen and Weideman
    2014): at a third of the standard deviation with which p is smoothed, the error is below 1e-6.

    Args:
        density: places on either axis, (a,), (b,) -> p, (a, b).
        low, high: the corners, (2,), float64.
        step: of the grid.
    """
    first, second = (
        torch.arange(math.ceil((end - start) / step) + 1, dtype=torch.float64) * step + start
        for start, end in zip(low.tolist(), high.tolist(), strict=True)
    )
    total = 0.0
    for strip in first.split(64):  # a large grid need not be in memory at once
        p = density(strip, second)
        total -= torch.xlogy(p, p).sum().item()
    return total * step**2
