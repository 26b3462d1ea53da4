"""Weights and errors against known distributions; Hamiltonian Monte Carlo against theories that are solved exactly."""

from __future__ import annotations

import math

import pytest
import torch

from dlkit.functional.lattice import (
    ScalarAction,
    U1Action,
    average_plaquette,
    correlation_function,
    free_phi_squared,
    free_susceptibility,
    magnetisation,
    mean_square,
    second_moment_length,
    topological_charge,
    two_point_susceptibility,
    u1_exact,
)
from dlkit.functional.monte_carlo import (
    effective_sample_size,
    hamiltonian_monte_carlo,
    independence_metropolis,
    integrated_autocorrelation_time,
    jackknife,
    leapfrog,
    log_partition,
    mean_and_error,
)

INFINITY = math.inf


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)  # not conftest's 0: equal numbers would tie the proposals to their acceptance


def autoregressive(coefficient, chains, times):
    """x_t = coefficient x_(t-1) + noise in equilibrium, of variance 1: (chains, times)."""
    from scipy.signal import lfilter

    noise = math.sqrt(1 - coefficient**2) * torch.randn(chains, times, dtype=torch.float64)
    noise[:, 0] /= math.sqrt(1 - coefficient**2)
    return torch.as_tensor(lfilter([1.0], [1.0, -coefficient], noise.numpy(), axis=-1))


def gaussian_weights(count, spread=2.0):
    """Samples of N(0, spread^2) and their log weights for exp(-x^2 / 2), whose Z is sqrt(2 pi)."""
    x = spread * torch.randn(count, dtype=torch.float64)
    return x, -0.5 * x**2 + 0.5 * (x / spread) ** 2 + math.log(spread * math.sqrt(2 * math.pi))


# Importance weights.


def test_the_effective_sample_size_between_its_bounds():
    assert effective_sample_size(torch.full((7,), -3.0)).item() == 1
    assert effective_sample_size(torch.tensor([0.0, -INFINITY, -800.0, -900.0])).item() == 0.25
    for spread in (0.1, 1.0, 10.0, 1000.0):
        assert 1 / 500 <= effective_sample_size(spread * torch.randn(500)).item() <= 1


def test_the_effective_sample_size_of_known_weights():
    log_weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
    assert effective_sample_size(log_weights).item() == pytest.approx(64 / (3 * 30))
    spread = 0.7  # log-normal weights: 1 / (1 + variance) = exp(-spread^2)
    assert effective_sample_size(spread * torch.randn(400_000)).item() == pytest.approx(math.exp(-(spread**2)), rel=0.01)


def test_weights_far_outside_the_range_of_floats():
    log_weights = torch.randn(1000, dtype=torch.float64)
    for shift in (1e5, -1e5):
        torch.testing.assert_close(effective_sample_size(log_weights + shift), effective_sample_size(log_weights))
        value, error = log_partition(log_weights + shift)
        torch.testing.assert_close(value, log_partition(log_weights).value + shift)
        torch.testing.assert_close(error, log_partition(log_weights).error)
        chain = independence_metropolis(log_weights + shift, torch.Generator().manual_seed(1))
        expected = independence_metropolis(log_weights, torch.Generator().manual_seed(1))
        assert torch.equal(chain.indices, expected.indices)
    assert 1e-5 <= effective_sample_size(1e5 * torch.randn(1000)).item() <= 1


def test_the_errors_of_importance_sampling_are_the_scatter_of_repetitions():
    """Of 400 repetitions the estimates lie sigma from the exact value: mean 0, standard deviation 1."""
    deviations = []
    for _ in range(400):
        value, error = log_partition(gaussian_weights(2000)[1])
        deviations.append((value - 0.5 * math.log(2 * math.pi)) / error)
    deviations = torch.stack(deviations)
    assert deviations.mean().abs() < 0.25
    assert (deviations.std() - 1).abs() < 0.15


# The independence chain.


def test_the_metropolis_chain_leaves_its_target_invariant(generator):
    x, log_weights = gaussian_weights(65_536)
    indices, accepted = independence_metropolis(log_weights, generator)
    chain = x[indices]
    for power, expected in ((1, 0.0), (2, 1.0), (4, 3.0)):
        value, error = mean_and_error(chain**power)
        assert 0 < error < 0.1
        assert abs(value - expected) < 4 * error
    # The expected acceptance of a state of the target and a proposal, from halves of the proposals that are independent.
    half = log_weights.view(2, -1)
    current = half[0].softmax(0)
    assert accepted.double().mean().item() == pytest.approx(
        (current * (half[1] - half[0]).clamp(max=0).exp()).sum().item(), abs=0.01
    )


def test_a_rejected_proposal_repeats_the_state(generator):
    chain = independence_metropolis(torch.tensor([0.0, -1e5, -INFINITY, 3.0, -1e5, 1e5]), generator)
    assert chain.accepted.tolist() == [True, False, False, True, False, True]
    assert chain.indices.tolist() == [0, 0, 0, 3, 3, 5]


def test_equal_weights_are_all_accepted_and_halves_by_halves(generator):
    assert independence_metropolis(torch.full((1000,), -7.0), generator).accepted.all()
    # From weight 2 to weight 1 half of the proposals are taken.
    log_weights = torch.tensor([2.0, 1.0]).log().repeat(20_000)
    indices, accepted = independence_metropolis(log_weights, generator)
    at_heavy = torch.cat([torch.tensor([False]), indices[:-1] % 2 == 0])
    to_light = torch.arange(40_000) % 2 == 1
    assert accepted[at_heavy & to_light].double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert accepted[~to_light].all()


def test_the_chain_leaves_a_first_state_of_weight_zero(generator):
    chain = independence_metropolis(torch.tensor([-INFINITY, -INFINITY, -5.0]), generator)
    assert chain.accepted.tolist() == [True, False, True]


# Autocorrelation and errors.


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
def test_the_autocorrelation_time_of_an_autoregressive_process(coefficient):
    series = autoregressive(coefficient, 40, 25_000)
    expected = (1 + coefficient) / (2 * (1 - coefficient))
    assert integrated_autocorrelation_time(series).item() == pytest.approx(expected, rel=0.04)
    assert integrated_autocorrelation_time(series[0]).item() == pytest.approx(expected, rel=0.25)
    torch.testing.assert_close(integrated_autocorrelation_time(1e3 - 5 * series), integrated_autocorrelation_time(series))


def test_an_alternating_series_gets_a_careful_error():
    assert integrated_autocorrelation_time(autoregressive(-0.9, 4, 5000)).item() == 0.5


def test_the_error_of_correlated_series_is_the_scatter_of_repetitions():
    series = autoregressive(0.8, 500, 3000)
    deviations = torch.stack([value / error for value, error in map(mean_and_error, series)])
    assert abs(deviations.mean()) < 0.2
    assert abs(deviations.std() - 1) < 0.15
    value, error = mean_and_error(series)
    assert abs(value) < 4 * error
    assert error.item() == pytest.approx(math.sqrt(9 / series.numel()), rel=0.1)


def test_stuck_chains_are_seen():
    assert math.isnan(integrated_autocorrelation_time(torch.full((2, 50), 0.1)).item())
    assert math.isnan(mean_and_error(torch.full((2, 50), 0.1)).error.item())
    frozen = torch.tensor([[0.0], [1.0], [2.0]]).repeat(1, 50)  # each chain knows one charge alone
    assert integrated_autocorrelation_time(frozen).item() == pytest.approx(49.5)
    assert mean_and_error(frozen).error > 0.5


def test_the_jackknife_of_an_average_is_its_standard_error():
    samples = torch.randn(50, 3, dtype=torch.float64)
    value, error = jackknife(lambda part: part.mean(0), samples, 50)
    torch.testing.assert_close(value, samples.mean(0))
    torch.testing.assert_close(error, samples.std(0) / math.sqrt(50))


def test_the_jackknife_of_a_nonlinear_function_covers():
    """exp(-mean) of independent and of correlated samples, in bins that do not divide them."""
    for coefficient in (0.0, 0.8):
        series = autoregressive(coefficient, 300, 2003)
        estimates = [jackknife(lambda part: (-part.mean()).exp(), chain, 20) for chain in series]
        deviations = torch.stack([(value - 1) / error for value, error in estimates])
        assert deviations.std().item() == pytest.approx(1.05, abs=0.25)  # Student's t of 19: 1.06


# Hamiltonian Monte Carlo.


@pytest.mark.parametrize("action", [ScalarAction(-4.0, 8.0), U1Action(2.0)])
def test_leapfrog_is_reversible_and_its_energy_error_falls_with_the_step_squared(action):
    start = 0.5 * torch.randn(50, *action.shape((4, 6)), dtype=torch.float64)
    momenta = torch.randn_like(start)

    def energy(field, velocity):
        return action(field) + 0.5 * velocity.square().flatten(1).sum(1)

    errors = []
    for steps in (20, 40):
        end, velocity = leapfrog(action, start, momenta, 1.0 / steps, steps)
        errors.append((energy(end, velocity) - energy(start, momenta)).abs().mean().item())
        back, turned = leapfrog(action, end, -velocity, 1.0 / steps, steps)
        torch.testing.assert_close(back, start, atol=1e-11, rtol=0)
        torch.testing.assert_close(turned, -momenta, atol=1e-11, rtol=0)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_free_theory_comes_out_exactly(generator):
    m2, start = 0.5, torch.zeros(400, 8, 8, dtype=torch.float64)
    phi, acceptance = hamiltonian_monte_carlo(ScalarAction(m2, 0.0), start, 200, 0.2, 10, generator, warmup=60)
    assert phi.shape == (400, 200, 8, 8)
    assert 0.75 < acceptance < 0.95
    for observable, expected in (
        (mean_square, free_phi_squared((8, 8), m2)),
        (two_point_susceptibility, free_susceptibility(m2)),
        (magnetisation, 0.0),
    ):
        value, error = mean_and_error(observable(phi))
        assert 0 < error < 0.01
        assert abs(value - expected) < 4 * error
    correlations = correlation_function(phi).flatten(0, 1)
    length, error = jackknife(lambda part: second_moment_length(part.mean(0)), correlations, 50)
    assert 0 < error < 0.02
    assert abs(length - 1 / math.sqrt(m2)) < 4 * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_interacting_theory_agrees_with_an_independent_run(dtype, generator):
    """<phi^2> = .14345(5) and chi_2 = .7403(26) at L = 8, m2 = -4, lam = 8; .75(1) in Albergo et al. 2021, 2101.08176."""
    start = torch.zeros(400, 8, 8, dtype=dtype)
    phi, _ = hamiltonian_monte_carlo(ScalarAction(-4.0, 8.0), start, 200, 0.1, 10, generator, warmup=60)
    assert phi.dtype == dtype
    for observable, expected, known in ((mean_square, 0.14345, 5e-5), (two_point_susceptibility, 0.7403, 0.0026)):
        value, error = mean_and_error(observable(phi))
        assert 0 < error < 0.01
        assert abs(value - expected) < 4 * math.hypot(error, known)


def test_gauge_theory_has_the_exact_plaquette_and_charge(generator):
    theta, acceptance = hamiltonian_monte_carlo(
        U1Action(2.0), torch.zeros(400, 2, 8, 8), 300, 0.2, 10, generator, warmup=100, angles=True
    )
    assert 0.75 < acceptance < 0.95
    pi = torch.tensor(math.pi)
    assert (theta >= -pi).all()
    assert (theta < pi).all()
    exact, charge = u1_exact((8, 8), 2.0), topological_charge(theta)
    for series, expected in (
        (average_plaquette(theta), exact.plaquette),
        (charge.square(), exact.charge_squared),
        (charge, 0.0),
    ):
        value, error = mean_and_error(series)
        assert 0 < error < 0.02
        assert abs(value - expected) < 4 * error


@pytest.mark.parametrize("step_size", [1e-3, 20.0])
def test_the_warm_up_finds_the_step_from_far_away(step_size, generator):
    start = torch.zeros(100, 8, 8)
    _, acceptance = hamiltonian_monte_carlo(ScalarAction(-4.0, 8.0), start, 50, step_size, 10, generator, warmup=150)
    assert 0.75 < acceptance < 0.95


def test_trajectories_that_fly_apart_are_rejected(generator):
    start = torch.randn(10, 4, 4)
    for step_size in (10.0, 1e30):
        samples, acceptance = hamiltonian_monte_carlo(ScalarAction(-4.0, 8.0), start, 3, step_size, 5, generator, warmup=0)
        assert acceptance == 0
        assert torch.equal(samples, start[:, None].expand(-1, 3, -1, -1))


def test_the_run_is_repeatable_leaves_its_start_alone_and_thins():
    action, start = ScalarAction(1.0, 1.0), torch.randn(10, 4, 4)
    before = start.clone()

    def samples(thin):
        seed = torch.Generator().manual_seed(3)
        return hamiltonian_monte_carlo(action, start, 12, 0.2, 5, seed, warmup=10, thin=thin)

    every, acceptance = samples(1)
    some, same_acceptance = samples(4)
    assert torch.equal(some, every[:, 3::4])
    assert acceptance == same_acceptance
    assert torch.equal(start, before)
    assert 0 < acceptance <= 1
    assert len({tuple(chain[-1].flatten().tolist()) for chain in every}) == 10  # no two chains share a state


RUN = {"num_steps": 2, "step_size": 0.1, "num_leapfrog": 1, "generator": torch.Generator(), "warmup": 0}


def run(start=0.0, **changes):
    hamiltonian_monte_carlo(ScalarAction(1.0, 0.0), torch.full((2, 4, 4), start), **(RUN | changes))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: effective_sample_size(torch.tensor([0.0, math.nan])), "1 of 2 log weights are nan or plus infinity"),
        (lambda: independence_metropolis(torch.tensor([0.0, INFINITY]), torch.Generator()), "nan or plus infinity"),
        (lambda: log_partition(torch.full((3,), -INFINITY)), "every log weight is minus infinity"),
        (lambda: effective_sample_size(torch.zeros(0)), r"log weights of shape \(0,\) are no sample"),
        (lambda: effective_sample_size(torch.zeros(2, 3)), r"log weights of shape \(2, 3\) are no sample"),
        (lambda: integrated_autocorrelation_time(torch.zeros(5, 1)), r"series of shape \(5, 1\)"),
        (lambda: mean_and_error(torch.tensor([0.0, math.nan, 1.0])), "1 values of the series are not finite"),
        (lambda: jackknife(torch.mean, torch.zeros(5), 6), "6 bins of 5 samples"),
        (lambda: run(num_leapfrog=0), "num_leapfrog = 0: give at least 1"),
        (lambda: run(warmup=-1), "warmup = -1: give at least 0"),
        (lambda: run(thin=3), "num_steps = 2 keeps no sample with thin = 3"),
        (lambda: run(step_size=0.0), "step_size = 0.0 moves nothing"),
        (lambda: run(start=1e30), "the action of 2 of 2 starts is not finite"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
