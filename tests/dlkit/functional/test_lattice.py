"""Actions against their definitions, their forces against autograd, symmetries, and the exactly known values."""

from __future__ import annotations

import math

import pytest
import torch

from dlkit.functional.lattice import (
    ScalarAction,
    U1Action,
    average_plaquette,
    check_lattice,
    correlation_function,
    free_log_partition,
    free_phi_squared,
    free_susceptibility,
    gauge_transform,
    magnetisation,
    mean_square,
    plaquettes,
    second_moment_length,
    shifted,
    stiffness,
    topological_charge,
    two_point_susceptibility,
    u1_exact,
    wilson_loops,
    wrap,
)

SHAPES = [(8, 8), (4, 6), (2, 2)]
ACTIONS = [ScalarAction(-4.0, 8.0), ScalarAction(0.7, 0.0), U1Action(2.0)]


def draw(action, lattice_shape, batch=5):
    return 2 * torch.randn(batch, *action.shape(lattice_shape), dtype=torch.float64)


def random_links(batch=20, lattice_shape=(6, 4)):
    return wrap(6 * torch.rand(batch, 2, *lattice_shape, dtype=torch.float64))


def free_covariance(lattice_shape, m2):
    """<phi phi> from the second derivative of S, which knows nothing of momenta: (V, V)."""
    action, volume = ScalarAction(m2, 0.0), math.prod(lattice_shape)
    zero = torch.zeros(volume, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda phi: action(phi.view(1, *lattice_shape)).sum(), zero)
    return torch.as_tensor(hessian).inverse()


@pytest.mark.parametrize("lattice_shape", SHAPES)
def test_the_scalar_action_is_its_definition(lattice_shape):
    m2, lam = -1.3, 0.4
    phi = draw(ScalarAction(m2, lam), lattice_shape)
    rows, columns = lattice_shape
    expected = torch.zeros(len(phi), dtype=torch.float64)
    for x in range(rows):
        for y in range(columns):
            here = phi[:, x, y]
            around = [(1, 0), (-1, 0), (0, 1), (0, -1)]
            neighbours = sum(phi[:, (x + a) % rows, (y + b) % columns] for a, b in around)
            expected += here * (4 * here - neighbours) + m2 * here**2 + lam * here**4
    torch.testing.assert_close(ScalarAction(m2, lam)(phi), expected)


@pytest.mark.parametrize("lattice_shape", SHAPES)
def test_the_gauge_action_is_its_definition(lattice_shape):
    theta, beta = draw(U1Action(1.0), lattice_shape), 1.7
    rows, columns = lattice_shape
    expected = torch.zeros(len(theta), dtype=torch.float64)
    for x in range(rows):
        for y in range(columns):
            right, up = theta[:, 1, (x + 1) % rows, y], theta[:, 0, x, (y + 1) % columns]
            expected -= beta * torch.cos(theta[:, 0, x, y] + right - up - theta[:, 1, x, y])
    torch.testing.assert_close(U1Action(beta)(theta), expected)


@pytest.mark.parametrize("lattice_shape", SHAPES)
@pytest.mark.parametrize("action", ACTIONS)
def test_the_force_is_minus_the_derivative(action, lattice_shape):
    field = draw(action, lattice_shape).requires_grad_()
    (gradient,) = torch.autograd.grad(action(field).sum(), field)
    torch.testing.assert_close(action.force(field), -gradient, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_force_does_not_mind_the_memory_layout(action):
    field = draw(action, (4, 6))
    chains_last = field.movedim(0, -1).contiguous().movedim(-1, 0)
    force = action.force(chains_last)
    assert torch.equal(force, action.force(field))
    assert force.stride() == chains_last.stride()  # what keeps Hamiltonian Monte Carlo fast


def test_shifted_is_roll():
    field = torch.randn(3, 4, 6)
    for axis in (-1, -2):
        for step in (-1, 1):
            assert torch.equal(shifted(field, step, axis), field.roll(step, axis))


@pytest.mark.parametrize("action", ACTIONS)
def test_the_action_is_unchanged_by_translations(action):
    field = draw(action, (4, 6))
    torch.testing.assert_close(action(field.roll((1, 3), (-2, -1))), action(field))


@pytest.mark.parametrize("action", ACTIONS)
def test_the_action_is_unchanged_by_a_sign_and_the_force_follows(action):
    field = draw(action, (4, 6))
    torch.testing.assert_close(action(-field), action(field))
    torch.testing.assert_close(action.force(-field), -action.force(field))


def test_configurations_may_have_any_batch():
    phi, theta = torch.randn(3, 2, 4, 6), torch.randn(3, 2, 2, 4, 6)
    torch.testing.assert_close(ScalarAction(1.0, 1.0)(phi), ScalarAction(1.0, 1.0)(phi.flatten(0, 1)).view(3, 2))
    torch.testing.assert_close(U1Action(1.0)(theta), U1Action(1.0)(theta.flatten(0, 1)).view(3, 2))
    assert U1Action(1.0).force(theta).shape == theta.shape
    assert ScalarAction(1.0, 1.0).shape((4, 6)) == (4, 6)
    assert U1Action(1.0).shape((4, 6)) == (2, 4, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_stays_in_its_interval_and_moves_by_turns(dtype):
    pi = torch.tensor(math.pi, dtype=dtype)
    odd = pi * torch.arange(-2001, 2002, 2, dtype=dtype)  # far out every rounding of the quotient occurs
    edges = torch.cat([odd, torch.nextafter(odd, odd + 1), torch.nextafter(odd, odd - 1), torch.tensor([-1e-30, 0.0, 1e-30])])
    angle = torch.cat([edges.to(dtype), 50 * torch.randn(100_000, dtype=dtype)])
    wrapped = wrap(angle)
    assert (wrapped >= -pi).all()
    assert (wrapped < pi).all()
    turns = (angle - wrapped).double() / (2 * math.pi)
    assert (turns - turns.round()).abs().max() < 1e4 * torch.finfo(dtype).eps


def test_wrap_is_exactly_the_identity_inside_and_has_the_derivative_one():
    angle = (2 * math.pi * torch.rand(10_000) - math.pi).clamp(max=3.14159)
    assert torch.equal(wrap(angle), angle)
    angle = (20 * torch.randn(1000, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(wrap(angle).sum(), angle)
    assert (gradient == 1).all()


def test_gauge_transformations_change_links_and_nothing_that_can_be_measured():
    theta = random_links()
    moved = gauge_transform(theta, 6 * torch.rand(20, 6, 4, dtype=torch.float64))
    assert (moved - theta).abs().mean() > 0.5
    assert moved.abs().max() <= math.pi
    torch.testing.assert_close(U1Action(2.0)(moved), U1Action(2.0)(theta))
    torch.testing.assert_close(plaquettes(moved), plaquettes(theta))
    assert torch.equal(topological_charge(moved), topological_charge(theta))


def test_the_charge_is_an_integer_that_whole_turns_of_links_leave_alone():
    theta = random_links(batch=2000)
    charge = topological_charge(theta)
    raw = plaquettes(theta).sum((-2, -1)) / (2 * math.pi)
    torch.testing.assert_close(charge, raw, atol=1e-10, rtol=0)
    assert charge.std() > 0.5
    assert torch.equal(topological_charge(theta + 2 * math.pi * torch.randint(-2, 3, theta.shape)), charge)
    assert torch.equal(topological_charge(-theta), -charge)


def test_a_uniform_flux_has_its_charge_and_its_plaquette():
    """P = 2 pi q / V everywhere: theta_1 grows along axis 0, and the seam is mended by theta_0."""
    rows, columns, charge = 8, 6, 3
    flux = 2 * math.pi * charge / (rows * columns)
    theta = torch.zeros(1, 2, rows, columns, dtype=torch.float64)
    theta[0, 1] = flux * torch.arange(rows)[:, None]
    theta[0, 0, -1] = -flux * rows * torch.arange(columns)
    assert topological_charge(wrap(theta)).tolist() == [charge]
    torch.testing.assert_close(average_plaquette(theta), torch.tensor([math.cos(flux)], dtype=torch.float64))


def test_observables_of_a_constant_field():
    phi = torch.full((2, 4, 6), -0.5)
    assert magnetisation(phi).tolist() == [-0.5] * 2
    assert mean_square(phi).tolist() == [0.25] * 2
    assert two_point_susceptibility(phi).tolist() == [6.0] * 2
    torch.testing.assert_close(correlation_function(phi), torch.full((2, 4), 1.5))


def test_the_correlation_function_sums_to_the_susceptibility_and_is_symmetric():
    phi = draw(ScalarAction(1.0, 0.0), (8, 6))
    correlation = correlation_function(phi)
    torch.testing.assert_close(correlation.sum(-1), two_point_susceptibility(phi))
    torch.testing.assert_close(correlation, correlation.flip(-1).roll(1, -1))
    torch.testing.assert_close(correlation_function(phi.roll((3, 1), (-2, -1))), correlation)


@pytest.mark.parametrize(("m2", "log_partition", "phi_squared"), [(1.0, -11.62289, 0.127087), (0.25, -4.33331, 0.192751)])
def test_the_free_theory_has_the_known_values(m2, log_partition, phi_squared):
    assert free_log_partition((8, 8), m2) == pytest.approx(log_partition, abs=5e-6)
    assert free_phi_squared((8, 8), m2) == pytest.approx(phi_squared, abs=5e-7)


@pytest.mark.parametrize("lattice_shape", SHAPES)
def test_the_free_values_follow_from_the_action(lattice_shape):
    m2, volume = 0.3, math.prod(lattice_shape)
    covariance = free_covariance(lattice_shape, m2)
    log_partition = 0.5 * (volume * math.log(2 * math.pi) + covariance.logdet().item())
    assert free_log_partition(lattice_shape, m2) == pytest.approx(log_partition, abs=1e-10)
    assert free_phi_squared(lattice_shape, m2) == pytest.approx(covariance.diagonal().mean().item(), abs=1e-12)
    assert free_susceptibility(m2) == pytest.approx(covariance.sum().item() / volume, abs=1e-12)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    torch.testing.assert_close(eigenvalues, (0.5 / stiffness(lattice_shape, m2)).flatten().sort().values)


@pytest.mark.parametrize("lattice_shape", SHAPES)
def test_the_free_correlation_length_is_one_over_the_mass(lattice_shape):
    m2, (rows, columns) = 0.3, lattice_shape
    covariance = free_covariance(lattice_shape, m2).view(rows, columns, rows, columns)
    correlation = covariance[0, 0].sum(-1)
    assert second_moment_length(correlation).item() == pytest.approx(1 / math.sqrt(m2), abs=1e-10)


def test_the_correlation_function_has_the_exact_expectation():
    lattice_shape, m2 = (4, 6), 0.3
    covariance = free_covariance(lattice_shape, m2)
    phi = torch.randn(20_000, 24, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    correlation = correlation_function(phi.view(-1, *lattice_shape))
    expected = covariance.view(4, 6, 4, 6)[0, 0].sum(-1)
    error = correlation.std(0) / math.sqrt(len(phi))
    assert ((correlation.mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("side", "beta", "plaquette", "charge_squared", "log_partition"),
    [
        (8, 1.0, 0.446390, 2.6007, 250.3468),
        (8, 2.0, 0.697775, 1.2393, 287.9839),
        (8, 3.0, 0.809986, 0.7078, 336.708),
        (16, 2.0, 0.697775, 4.957, 1151.9354),
    ],
)
def test_u1_has_the_known_values(side, beta, plaquette, charge_squared, log_partition):
    exact = u1_exact((side, side), beta)
    assert exact.plaquette == pytest.approx(plaquette, abs=1e-6)
    assert exact.charge_squared == pytest.approx(charge_squared, abs=2e-4)
    assert exact.log_partition == pytest.approx(log_partition, abs=1e-3)


@pytest.mark.parametrize("beta", [0.3, 1.5])
def test_u1_exact_equals_the_integral_over_four_plaquettes(beta):
    """On 2 x 2 sites three plaquettes are free, the fourth is minus their sum, and the charge how often it had to be wrapped.

    A sum over a periodic grid; the charge jumps between grid points, which leaves an error of the spacing."""
    points = 120
    grid = 2 * math.pi * (torch.arange(points, dtype=torch.float64) + 0.5) / points - math.pi
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    total, charged, cosine = 0.0, 0.0, 0.0
    for third in grid:
        last = wrap(-(first + second + third))
        weight = (beta * (first.cos() + second.cos() + third.cos() + last.cos())).exp()
        charge = (first + second + third + last) / (2 * math.pi)
        total += weight.sum().item()
        charged += (weight * charge**2).sum().item()
        cosine += (weight * third.cos()).sum().item()
    exact = u1_exact((2, 2), beta)
    assert exact.log_partition == pytest.approx(8 * math.log(2 * math.pi) + math.log(total / points**3), abs=1e-10)
    assert exact.plaquette == pytest.approx(cosine / total, abs=1e-10)
    assert exact.charge_squared == pytest.approx(charged / total, rel=0.01)


def test_the_exact_plaquette_is_the_derivative_of_log_partition():
    step = 1e-4
    before, after = (u1_exact((4, 6), 1.3 + sign * step).log_partition for sign in (-1, 1))
    assert u1_exact((4, 6), 1.3).plaquette == pytest.approx((after - before) / (2 * step) / 24, abs=1e-8)


def test_u1_exact_at_both_ends_of_beta():
    """At beta = 0 plaquettes are uniform, <P^2> = pi^2 / 3; at large beta <cos P> = 1 - (V - 1) / (2 V beta)."""
    free = u1_exact((8, 8), 0.0)
    assert free.plaquette == pytest.approx(0, abs=1e-12)
    assert free.charge_squared == pytest.approx(64 / 12, abs=1e-9)
    assert free.log_partition == pytest.approx(128 * math.log(2 * math.pi), abs=1e-9)
    stiff = u1_exact((8, 8), 5000.0)
    assert stiff.plaquette == pytest.approx(1 - 63 / 64 / 1e4, abs=1e-7)
    assert 0 <= stiff.charge_squared < 1e-9
    assert math.isfinite(stiff.log_partition)


@pytest.mark.parametrize("lattice_shape", [(8, 7), (0, 4), (1, 2), (8,), (4, 4, 4)])
def test_a_lattice_without_checkerboard_is_refused(lattice_shape):
    with pytest.raises(ValueError, match="two even sides of at least 2"):
        check_lattice(lattice_shape)
    check_lattice((8, 6))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ScalarAction(1.0, -0.1), "lam = -0.1 leaves the action unbounded below"),
        (lambda: ScalarAction(-0.5, 0.0), "m2 = -0.5 gives the free theory"),
        (lambda: ScalarAction(math.nan, 1.0), "m2 = nan"),
        (lambda: free_log_partition((8, 8), 0.0), "m2 = 0.0 gives the free theory"),
        (lambda: free_susceptibility(-1.0), "m2 = -1.0 gives the free theory"),
        (lambda: U1Action(-1.0), "beta = -1.0 is no inverse squared coupling"),
        (lambda: u1_exact((8, 8), math.inf), "beta = inf is no inverse squared coupling"),
        (lambda: U1Action(1.0)(torch.zeros(5, 8, 8)), r"links of shape \(5, 8, 8\) are not two angles a site"),
        (lambda: second_moment_length(torch.ones(1)), "a correlation function of 1 distance"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_wilson_loops_are_the_cosine_of_the_angle_around_a_rectangle():
    theta = 2 * math.pi * torch.rand(3, 2, 4, 6, dtype=torch.float64) - math.pi
    loops = wilson_loops(theta)
    assert loops.shape == (3, 3)
    for length in (1, 2, 3):
        # Link by link around length x 1: along axis 0, up, back, down.
        along, up = theta[:, 0], theta[:, 1]
        angle = sum(along.roll(-step, 1) for step in range(length)) + up.roll(-length, 1)
        angle = angle - sum(along.roll((-step, -1), (1, 2)) for step in range(length)) - up
        assert torch.allclose(loops[:, length - 1], angle.cos().mean((1, 2)))
    assert torch.allclose(loops[:, 0], average_plaquette(theta))
