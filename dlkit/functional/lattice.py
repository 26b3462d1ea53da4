"""Field theories on two-dimensional periodic lattices: actions, their forces, observables, and what is known exactly.

A configuration is the last dimensions of a tensor, (L1, L2) for a scalar field and (2, L1, L2) for U(1) links; whatever
stands before them is a batch. The densities are p = exp(-S) / Z with Z the integral over every site or link, no constant
dropped. Lengths are in lattice units (spacing 1), S and log Z in nats, angles in radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

QUADRATURE_NODES = 512  # resolves a plaquette's peak, 1 / sqrt(beta) wide, far beyond any beta that can be simulated


def wrap(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi), with the derivative 1; an angle that lies there already comes back bit for bit.

    pi is the nearest number of the tensor's precision.
    """
    wrapped = angle - 2 * math.pi * torch.floor((angle + math.pi) / (2 * math.pi))
    # Next to the ends the quotient may round to the wrong side of an integer. These differences are exact there.
    wrapped = torch.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped)
    return torch.where(wrapped < -math.pi, wrapped + 2 * math.pi, wrapped)


def shifted(field: Tensor, step: int, axis: int) -> Tensor:
    """`field.roll(step, axis)` in the field's own memory layout, |step| < the axis: roll's is always contiguous, which in
    Hamiltonian Monte Carlo, where the chains lie innermost, costs a transposition at every step."""
    moved = torch.empty_like(field)
    length, first = field.shape[axis], step % field.shape[axis]
    moved.narrow(axis, first, length - first).copy_(field.narrow(axis, 0, length - first))
    moved.narrow(axis, 0, first).copy_(field.narrow(axis, length - first, first))
    return moved


def check_lattice(lattice_shape: tuple[int, int]) -> None:
    """Refuses a lattice without a checkerboard: one whose black sites have black neighbours across the boundary.

    Raises:
        ValueError: not two sides, or a side that is odd or less than 2.
    """
    if len(lattice_shape) != 2 or any(side < 2 or side % 2 for side in lattice_shape):
        raise ValueError(f"lattice {tuple(lattice_shape)} has no periodic checkerboard: give two even sides of at least 2")


@dataclass(frozen=True)
class ScalarAction:
    """A real scalar field with a quartic self-interaction, without the customary 1/2 and 1/4!.

    S(phi) = sum_x phi(x) sum_mu [2 phi(x) - phi(x + mu) - phi(x - mu)] + m2 phi(x)^2 + lam phi(x)^4

    Albergo et al. 2019 (arXiv:1904.12072). With lam = 0 the theory is Gaussian and every expectation known
    (`free_log_partition` and its neighbours), and m2 is the squared mass; with lam > 0, m2 may be negative.

    Attributes:
        m2: the coefficient of phi^2.
        lam: the coefficient of phi^4, at least 0.

    Raises:
        ValueError: a theory whose Z is infinite (lam < 0, or lam = 0 and m2 <= 0), or a parameter that is not finite.
    """

    m2: float
    lam: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.m2) and math.isfinite(self.lam)):
            raise ValueError(f"the couplings must be finite: m2 = {self.m2}, lam = {self.lam}")
        if self.lam < 0:
            raise ValueError(f"lam = {self.lam} leaves the action unbounded below: give lam >= 0")
        if self.lam == 0:
            check_mass(self.m2)

    def shape(self, lattice_shape: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one configuration: (L1, L2)."""
        return tuple(lattice_shape)

    def __call__(self, phi: Tensor) -> Tensor:
        """S: (*batch, L1, L2) -> (*batch,)."""
        # Summed by parts the kinetic term is a sum of squares, which loses no digits where the field is smooth.
        squared = phi.square()
        density = squared * (self.m2 + self.lam * squared)
        for axis in (-2, -1):
            density = density + (phi.roll(-1, axis) - phi).square()
        return density.sum((-2, -1))

    @torch.no_grad()
    def force(self, phi: Tensor) -> Tensor:
        """-dS/dphi(x) = 2 sum_mu [phi(x + mu) + phi(x - mu)] - 2 (4 + m2) phi(x) - 4 lam phi(x)^3, of phi's shape."""
        force = phi.square().mul_(-2 * self.lam).sub_(4 + self.m2).mul_(phi)
        # The neighbours are added where they belong: shifted copies of the field would cost more than the sums.
        for axis in (-2, -1):
            inner = phi.shape[axis] - 1
            force.narrow(axis, 1, inner).add_(phi.narrow(axis, 0, inner))
            force.narrow(axis, 0, inner).add_(phi.narrow(axis, 1, inner))
            force.narrow(axis, 0, 1).add_(phi.narrow(axis, inner, 1))
            force.narrow(axis, inner, 1).add_(phi.narrow(axis, 0, 1))
        return force.mul_(2)


@dataclass(frozen=True)
class U1Action:
    """Wilson's action of the gauge group U(1), by the angles theta_mu(x) of its links.

    S(theta) = -beta sum_x cos P(x),    P(x) = theta_0(x) + theta_1(x + 0) - theta_0(x + 1) - theta_1(x)

    where x + mu is one site further along lattice axis mu. S is unchanged by `gauge_transform`. Kanwar et al. 2020
    (arXiv:2003.06413).

    Attributes:
        beta: the inverse squared coupling, at least 0.

    Raises:
        ValueError: beta negative or not finite.
    """

    beta: float

    def __post_init__(self) -> None:
        check_coupling(self.beta)

    def shape(self, lattice_shape: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one configuration: (2, L1, L2)."""
        return (2, *lattice_shape)

    def __call__(self, theta: Tensor) -> Tensor:
        """S: (*batch, 2, L1, L2) -> (*batch,).

        Raises:
            ValueError: a tensor that does not hold two links a site.
        """
        return -self.beta * plaquette_sums(theta).cos().sum((-2, -1))

    @torch.no_grad()
    def force(self, theta: Tensor) -> Tensor:
        """-dS/dtheta of theta's shape: -beta [sin P(x) - sin P(x - 1)] for theta_0(x), beta [sin P(x) - sin P(x - 0)] for
        theta_1(x)."""
        pull = plaquette_sums(theta).sin().mul_(self.beta)
        force = torch.empty_like(theta)
        torch.sub(shifted(pull, 1, -1), pull, out=force.select(-3, 0))
        torch.sub(pull, shifted(pull, 1, -2), out=force.select(-3, 1))
        return force


def check_mass(m2: float) -> None:
    """Refuses a free theory that cannot be normalised, its zero mode being flat or worse.

    Raises:
        ValueError: m2 not positive.
    """
    if not m2 > 0:
        raise ValueError(f"m2 = {m2} gives the free theory (lam = 0) no normalisation: give m2 > 0, or lam > 0")


def check_coupling(beta: float) -> None:
    """Refuses a coupling outside U(1) theory's range.

    Raises:
        ValueError: beta negative or not finite.
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta = {beta} is no inverse squared coupling: give a finite beta >= 0")


def plaquette_sums(theta: Tensor) -> Tensor:
    """P(x) of `U1Action`, not wrapped: (*batch, 2, L1, L2) -> (*batch, L1, L2).

    Raises:
        ValueError: a tensor that does not hold two links a site.
    """
    if theta.dim() < 3 or theta.shape[-3] != 2:
        raise ValueError(f"links of shape {tuple(theta.shape)} are not two angles a site: give (*batch, 2, L1, L2)")
    along_0, along_1 = theta.unbind(-3)
    return along_0 - shifted(along_0, -1, -1) + shifted(along_1, -1, -2) - along_1


def plaquettes(theta: Tensor) -> Tensor:
    """P(x) of `U1Action` in [-pi, pi): (*batch, 2, L1, L2) -> (*batch, L1, L2)."""
    return wrap(plaquette_sums(theta))


def average_plaquette(theta: Tensor) -> Tensor:
    """The lattice average of cos P of each configuration: (*batch, 2, L1, L2) -> (*batch,)."""
    return plaquette_sums(theta).cos().mean((-2, -1))


def topological_charge(theta: Tensor) -> Tensor:
    """Q = 1 / (2 pi) sum_x P(x) with P in [-pi, pi), an integer of each configuration: (*batch, 2, L1, L2) -> (*batch,).

    Every link enters two plaquettes with opposite signs, so the sum is 2 pi times an integer up to rounding errors, which
    are taken off here. The values keep theta's dtype, ready to be averaged. Kanwar et al. 2020 (arXiv:2003.06413).
    """
    return (plaquettes(theta).sum((-2, -1)) / (2 * math.pi)).round()


def gauge_transform(theta: Tensor, alpha: Tensor) -> Tensor:
    """theta_mu(x) + alpha(x) - alpha(x + mu), wrapped: no plaquette changes.

    Args:
        theta: (*batch, 2, L1, L2).
        alpha: the angle of every site, (*batch, L1, L2).
    """
    return wrap(theta + torch.stack([alpha - alpha.roll(-1, -2), alpha - alpha.roll(-1, -1)], -3))


def magnetisation(phi: Tensor) -> Tensor:
    """M, the lattice average of phi, of each configuration: (*batch, L1, L2) -> (*batch,)."""
    return phi.mean((-2, -1))


def mean_square(phi: Tensor) -> Tensor:
    """The lattice average of phi^2 of each configuration: (*batch, L1, L2) -> (*batch,). Its expectation is <phi^2>."""
    return phi.square().mean((-2, -1))


def two_point_susceptibility(phi: Tensor) -> Tensor:
    """V M^2 of each configuration: (*batch, L1, L2) -> (*batch,). Its expectation is chi_2 = sum_y <phi(x) phi(x + y)>.

    <M> = 0 by the symmetry phi -> -phi and is not subtracted. Albergo et al. 2019 (arXiv:1904.12072).
    """
    return phi.shape[-2] * phi.shape[-1] * magnetisation(phi).square()


def correlation_function(phi: Tensor) -> Tensor:
    """The zero-momentum correlation of slices a distance t apart along the first axis, of each configuration.

    C(t) = L2 / L1 sum_s m(s) m(s + t) with m(s) the average of phi over slice s. Its expectation is
    sum_y <phi(x) phi(x + (t, y))>, and sum_t C(t) is `two_point_susceptibility`. <M> = 0 is not subtracted.

    Args:
        phi: (*batch, L1, L2).

    Returns:
        (*batch, L1), t = 0 .. L1 - 1; C(t) = C(L1 - t).
    """
    slices = phi.mean(-1)
    products = torch.stack([slices * slices.roll(-distance, -1) for distance in range(phi.shape[-2])], -2)
    return phi.shape[-1] * products.mean(-1)


def second_moment_length(correlation: Tensor) -> Tensor:
    """The second-moment correlation length xi = sqrt(G(0) / G(k) - 1) / (2 sin(k / 2)), in lattice units.

    G(k) = sum_t C(t) cos(k t) and k = 2 pi / L1, the smallest momentum. In the free theory xi = 1 / sqrt(m2) on every
    lattice. Give the averaged C(t): the average of single configurations' lengths is another number. The result is nan
    where noise makes G(0) < G(k). Cooper et al. 1982 (Nucl. Phys. B 210,
    210).

    Args:
        correlation: <C(t)>, (*, L1).

    Returns:
        (*,).

    Raises:
        ValueError: L1 = 1, which has no second momentum.
    """
    length = correlation.shape[-1]
    if length < 2:
        raise ValueError(f"a correlation function of {length} distance has no smallest momentum: give at least 2 distances")
    momentum = 2 * math.pi / length
    waves = torch.cos(momentum * torch.arange(length, device=correlation.device, dtype=correlation.dtype))
    ratio = correlation.sum(-1) / (correlation * waves).sum(-1)
    return (ratio - 1).sqrt() / (2 * math.sin(momentum / 2))


def stiffness(lattice_shape: tuple[int, int], m2: float) -> Tensor:
    """m2 + 4 sum_mu sin^2(k_mu / 2) at every momentum k of the lattice, in float64: (L1, L2).

    The free action is sum_k of this times |phi~(k)|^2 / V, so each mode's variance is 1 / (2 stiffness).

    Raises:
        ValueError: m2 not positive.
    """
    check_mass(m2)
    rows, columns = (4 * torch.sin(math.pi * torch.arange(side, dtype=torch.float64) / side) ** 2 for side in lattice_shape)
    return m2 + rows[:, None] + columns


def free_log_partition(lattice_shape: tuple[int, int], m2: float) -> float:
    """log Z = 1/2 sum_k log(pi / (m2 + 4 sum_mu sin^2(k_mu / 2))) of `ScalarAction(m2, lam=0)`: a Gaussian integral.

    Raises:
        ValueError: m2 not positive.
    """
    return 0.5 * (math.pi / stiffness(lattice_shape, m2)).log().sum().item()


def free_phi_squared(lattice_shape: tuple[int, int], m2: float) -> float:
    """<phi^2> = 1 / V sum_k 1 / (2 (m2 + 4 sum_mu sin^2(k_mu / 2))) of `ScalarAction(m2, lam=0)`.

    Raises:
        ValueError: m2 not positive.
    """
    return (0.5 / stiffness(lattice_shape, m2)).mean().item()


def free_susceptibility(m2: float) -> float:
    """chi_2 = 1 / (2 m2) of `ScalarAction(m2, lam=0)`, on every lattice: the zero mode's variance.

    Raises:
        ValueError: m2 not positive.
    """
    check_mass(m2)
    return 0.5 / m2


class U1Exact(NamedTuple):
    """What `u1_exact` returns.

    Attributes:
        plaquette: <cos P>.
        charge_squared: <Q^2>.
        log_partition: log Z, Z the integral of exp(-S) over every link's angle: log 2 pi a link included.
    """

    plaquette: float
    charge_squared: float
    log_partition: float


def u1_exact(lattice_shape: tuple[int, int], beta: float) -> U1Exact:
    """The exact values of `U1Action` on the periodic lattice of V sites.

    With exp(beta cos P + i vartheta P / (2 pi)) = sum_n c_n exp(i n P) the links can be integrated one by one, and what
    remains is one representation n on the whole torus:

        Z(vartheta) = (2 pi)^(2 V) sum_n f(n - vartheta / (2 pi))^V,    f(u) = 1 / pi int_0^pi exp(beta cos P) cos(u P) dP

    f(n) is the Bessel function I_n(beta), so <cos P> = 1 / V dlog Z / dbeta needs those alone, and
    <Q^2> = -d^2 log Z / dvartheta^2 at 0 the two derivatives of f. Migdal 1975 (Sov. Phys. JETP 42, 413);
    with vartheta, Bonati and Rossi 2019 (arXiv:1901.09830).

    Args:
        lattice_shape: (L1, L2), sides of at least 2; only V = L1 L2 matters.
        beta: the coupling of `U1Action`.

    Raises:
        ValueError: beta negative or not finite.
    """
    import numpy

    check_coupling(beta)
    volume = math.prod(lattice_shape)
    nodes, weights = numpy.polynomial.legendre.leggauss(QUADRATURE_NODES)
    angle = math.pi / 2 * (nodes + 1)
    weights = weights / 2 * numpy.exp(beta * (numpy.cos(angle) - 1))  # times exp(-beta), which would overflow otherwise
    norm = weights.sum()
    weights = weights / norm

    # (f(n) / f(0))^V is about exp(-n^2 V / (2 beta)): below 1e-20 of the sum past the last n.
    last = 10 + math.ceil(10 * math.sqrt(beta / volume))
    orders = numpy.arange(-last, last + 1)[:, None]
    cosine = numpy.cos(orders * angle)
    f = cosine @ weights
    by_beta = cosine @ (weights * numpy.cos(angle))
    first = -numpy.sin(orders * angle) @ (weights * angle)
    second = -cosine @ (weights * angle**2)

    total = (f**volume).sum()
    plaquette = (f ** (volume - 1) * by_beta).sum() / total
    curvature = volume * (f ** (volume - 1) * second + (volume - 1) * f ** (volume - 2) * first**2).sum() / total
    log_partition = volume * (2 * math.log(2 * math.pi) + beta + math.log(norm)) + math.log(total)
    # Where no charge is left <Q^2> is a rounding error of either sign.
    return U1Exact(float(plaquette), max(0.0, float(-curvature) / (2 * math.pi) ** 2), log_partition)


def wilson_loops(theta: Tensor) -> Tensor:
    """W(1, t), the lattice average of the cosine of the angle around rectangles of one link by t, of each configuration.

    By Stokes the angle is the sum of the t plaquettes inside. In two dimensions <W> falls as exp(-sigma t), up to the lattice's
    finite size. Kanwar et al. 2020 (arXiv:2003.06413).

    Args:
        theta: (*batch, 2, L1, L2).

    Returns:
        (*batch, L1 - 1), t = 1 .. L1 - 1 along the first axis.
    """
    sums = plaquette_sums(theta)
    inside, loops = torch.zeros_like(sums), []
    for distance in range(sums.shape[-2] - 1):
        inside = inside + sums.roll(-distance, -2)
        loops.append(inside.cos().mean((-2, -1)))
    return torch.stack(loops, -1)
