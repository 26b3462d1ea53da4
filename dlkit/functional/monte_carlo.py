"""Monte Carlo: importance weights, Markov chains, and the errors of what they measure.

A density is known as exp(-S(x)) without its normalisation Z. Samples x_i of a model q have the log weights
log w_i = -S(x_i) - log q(x_i), in nats; E_q[w] = Z. Whatever is reduced is reduced in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dlkit.functional.lattice import wrap

TARGET_ACCEPTANCE = 0.85  # of HMC's warm-up: its cost against decorrelation is flat from .65 to .9
ADAPTATION_RATE = 3.0  # a hundred warm-up trajectories mend a step that is a thousand times too small
STEP_SCATTER = 0.2  # each HMC trajectory's step is up to 20 % longer or shorter
WINDOW = 5  # autocorrelation times that Sokal's window must hold


class Estimate(NamedTuple):
    """An average and its standard error, both of the average's shape, in float64."""

    value: Tensor
    error: Tensor


class Action(Protocol):
    """What `hamiltonian_monte_carlo` samples: p(x) proportional to exp(-S(x)), for a batch of x."""

    def __call__(self, configurations: Tensor, /) -> Tensor:
        """S: (batch, *shape) -> (batch,)."""
        ...

    def force(self, configurations: Tensor, /) -> Tensor:
        """-dS/dx of the configurations' shape, a new tensor."""
        ...


def check_log_weights(log_weights: Tensor) -> Tensor:
    """The log weights in float64 and detached.

    Raises:
        ValueError: not one dimension, no weight at all, nan or plus infinity among them, or all of them minus infinity.
    """
    if log_weights.dim() != 1 or not len(log_weights):
        raise ValueError(f"log weights of shape {tuple(log_weights.shape)} are no sample: give at least one, as (N,)")
    broken = int((log_weights.isnan() | log_weights.isposinf()).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(log_weights)} log weights are nan or plus infinity: the model gave a density of zero, or "
            "overflowed, at its own sample; mend the model or work in float64"
        )
    if log_weights.isneginf().all():
        raise ValueError("every log weight is minus infinity: the model has no sample where the target has density")
    return log_weights.detach().double()


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum_i w_i)^2 / (N sum_i w_i^2), the share of N samples that independent ones of the target would be worth.

    In [1 / N, 1]. It estimates 1 / (1 + Var[w] / Z^2), and from few samples far too high, because the rare heavy ones are
    missing: compare models at the same large N, and mind that samples a model never draws (a lost mode) do not count.
    Kong 1992 (University of Chicago, technical report 348).

    Args:
        log_weights: (N,); a constant added to all of them changes nothing.

    Returns:
        A scalar in float64.

    Raises:
        ValueError: see `check_log_weights`.
    """
    log_weights = check_log_weights(log_weights)
    weights = (log_weights - log_weights.max()).exp()
    return (weights.sum().square() / (len(weights) * weights.square().sum())).clamp(1 / len(weights), 1.0)


def log_partition(log_weights: Tensor) -> Estimate:
    """log Z = logsumexp_i(log w_i) - log N in nats, and its delta-method error sqrt((1 / ESS - 1) / N).

    Biased low by half the squared error, and lower where the model lacks a mode. The error is as good as the ESS, see
    `effective_sample_size`. Nicoli et al. 2021 (arXiv:2007.07115).

    Args:
        log_weights: (N,), of independent samples.

    Raises:
        ValueError: see `check_log_weights`.
    """
    size = effective_sample_size(log_weights)
    value = check_log_weights(log_weights).logsumexp(0) - math.log(len(log_weights))
    return Estimate(value, ((1 / size - 1) / len(log_weights)).sqrt())


class Chain(NamedTuple):
    """What `independence_metropolis` returns.

    Attributes:
        indices: the proposal the chain is at after each step, (N,), int64: `samples[indices]` is the chain.
        accepted: whether that step's proposal was taken, (N,), bool; its mean over [1:] is the acceptance rate.
    """

    indices: Tensor
    accepted: Tensor


def independence_metropolis(log_weights: Tensor, generator: torch.Generator) -> Chain:
    """The Metropolis chain whose proposals 0 .. N - 1 are independent samples of a model, exact whatever the model.

    The first proposal is accepted. Each following one is with probability min(1, w' / w), w being the current state's; on a
    reject the current state is repeated and counts again, which is what makes the chain exact. Errors need the chain's
    autocorrelation (`mean_and_error`): heavy samples are repeated long. A weight of minus infinity is never accepted by a
    chain that is anywhere else. Tierney 1994 (Annals of Statistics 22, 1701); for fields Albergo et al. 2019
    (arXiv:1904.12072).

    Args:
        log_weights: log w = -S(x) - log q(x) of the proposals, (N,).
        generator: on any device; N uniform numbers are drawn. Not one seeded afresh with the seed the proposals came from:
            it would repeat their random numbers, and the chain would be wrong by many standard errors.

    Raises:
        ValueError: see `check_log_weights`.
    """
    log_weights = check_log_weights(log_weights)
    uniform = torch.rand(len(log_weights), dtype=torch.float64, device=generator.device, generator=generator)
    # Each step needs the one before, so this is a loop; over Python floats it costs a tenth of a microsecond a step.
    proposals, thresholds = log_weights.tolist(), uniform.log().tolist()
    current, accepted = proposals[0], [True]
    for proposal, threshold in zip(proposals[1:], thresholds[1:], strict=True):
        # From a first state of weight zero the difference is infinite, or nan towards another such, which is refused.
        accept = threshold < proposal - current
        if accept:
            current = proposal
        accepted.append(accept)
    taken = torch.tensor(accepted, device=log_weights.device)
    steps = torch.arange(len(taken), device=log_weights.device)
    return Chain((steps * taken).cummax(0).values, taken)


def as_chains(series: Tensor) -> Tensor:
    """One or several chains' series as (chains, time) in float64.

    Raises:
        ValueError: more than two dimensions, fewer than two times, or a value that is not finite.
    """
    if series.dim() not in (1, 2) or series.shape[-1] < 2 or not len(series):
        raise ValueError(f"a series of shape {tuple(series.shape)}: give (time,) or (chains, time) with at least two times")
    series = torch.atleast_2d(series.detach().double())
    if not series.isfinite().all():
        raise ValueError(f"{int((~series.isfinite()).sum())} values of the series are not finite: leave them out or mend them")
    return series


def integrated_autocorrelation_time(series: Tensor) -> Tensor:
    """tau = 1/2 + sum_(t = 1)^W rho(t), in steps: 2 tau correlated values are worth one independent value.

    This is the convention of lattice field theory, with tau = 1/2 for independent values; others call 2 tau the time. rho
    is averaged over the chains around their common mean, so chains that are stuck in different places show. The window W
    is the first with W >= 5 tau(W): Madras and Sokal 1988 (J. Stat. Phys. 50, 109, appendix C), and with tau in hand the
    series should be at least a hundred times as long, else tau is too small.

    The rule supposes rho >= 0. Where values alternate about the mean and the sum falls below 1/2, 1/2 is returned: errors
    come out too large rather than too small.

    Args:
        series: an observable along the Markov chain, (time,) or (chains, time).

    Returns:
        A scalar in float64; nan for a series that never changes.

    Raises:
        ValueError: see `as_chains`.
    """
    series = as_chains(series)
    if series.max() == series.min():
        return series.new_tensor(math.nan)
    times = series.shape[-1]
    # Zeros as long as the series keep the circular correlation of the transform from reaching around.
    spectrum = torch.fft.rfft(series - series.mean(), n=2 * times)
    covariance = torch.fft.irfft(spectrum.abs().square().mean(0), n=2 * times)[:times]
    covariance /= torch.arange(times, 0, -1, device=series.device)  # as many products as there are pairs at this distance
    partial = (covariance / covariance[0]).cumsum(0) - 0.5
    wide = torch.arange(times, device=series.device) >= WINDOW * partial
    window = int(wide.to(torch.uint8).argmax()) if wide.any() else times - 1
    return partial[window].clamp(min=0.5)


def mean_and_error(series: Tensor) -> Estimate:
    """The average of a Markov chain's series and its error, error^2 = var 2 tau / N.

    N counts all values of all chains and tau is `integrated_autocorrelation_time`.

    Args:
        series: (time,) or (chains, time), in equilibrium: without the warm-up.

    Returns:
        Scalars; the error is nan for a series that never changes, of which it cannot be told.

    Raises:
        ValueError: see `as_chains`.
    """
    chains = as_chains(series)
    tau = integrated_autocorrelation_time(series)
    return Estimate(chains.mean(), (chains.var() * 2 * tau / chains.numel()).sqrt())


def jackknife(function: Callable[[Tensor], Tensor], samples: Tensor, bins: int) -> Estimate:
    """function(samples) and its error by leaving out one bin of consecutive samples after another.

    error^2 = (B - 1) / B sum_b (f_b - mean f)^2 with f_b computed without bin b: for functions of averages, such as a
    correlation length. Bins much longer than the autocorrelation time are independent; of samples (chains, time, ...)
    flattened to one dimension and `bins` = chains, each bin is a chain. Where the samples do not divide evenly the first
    bins hold one more. Efron 1982 (The Jackknife, the Bootstrap and Other Resampling Plans).

    Args:
        function: (n, *shape) -> any shape, a smooth function of averages over the first dimension.
        samples: (N, *shape), in the order of the chain.
        bins: B, 2 .. N.

    Raises:
        ValueError: fewer than 2 bins or more than samples.
    """
    if not 2 <= bins <= len(samples):
        raise ValueError(f"{bins} bins of {len(samples)} samples: give at least 2 bins and at most one a sample")
    samples = samples.detach().double()
    ends = torch.tensor([len(part) for part in samples.tensor_split(bins)]).cumsum(0).tolist()
    left_out = torch.stack(
        [function(torch.cat([samples[:start], samples[end:]])) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    )
    return Estimate(function(samples), ((bins - 1) * left_out.var(0, correction=0)).sqrt())


def leapfrog(
    action: Action, configurations: Tensor, momenta: Tensor, step_size: float, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Hamilton's equations of H = p^2 / 2 + S(x) for the time num_steps * step_size: (x, p) -> (x, p).

    Half a step of p, whole steps of x and p in turn, half a step of p. Reversible (start again from (x, -p)) and of
    determinant 1, which is all that Metropolis needs; H is off by O(step_size^2).

    Args:
        action: gives the force.
        configurations: x, (batch, *shape).
        momenta: p, the same shape.
        step_size: in the units of x, the momenta having variance 1.
        num_steps: how many steps of x.
    """
    configurations = configurations.clone()
    momenta = momenta.add(action.force(configurations), alpha=0.5 * step_size)
    for step in range(1, num_steps + 1):
        configurations.add_(momenta, alpha=step_size)
        momenta.add_(action.force(configurations), alpha=step_size if step < num_steps else 0.5 * step_size)
    return configurations, momenta


@torch.no_grad()
def hamiltonian_monte_carlo(
    action: Action,
    configurations: Tensor,
    num_steps: int,
    step_size: float,
    num_leapfrog: int,
    generator: torch.Generator,
    *,
    warmup: int,
    angles: bool = False,
    thin: int = 1,
) -> tuple[Tensor, float]:
    """Samples exp(-S) by Hamiltonian Monte Carlo, many chains side by side.

    Each trajectory draws p ~ N(0, 1), follows `leapfrog` and is accepted with probability min(1, exp(H - H')), chain by
    chain. Duane et al. 1987 (Phys. Lett. B 195, 216). Two additions:

    During the warm-up the step size, common to all chains, is moved towards an acceptance of .85 (Robbins and Monro 1951:
    log step += 3 (acceptance - .85) / sqrt(trajectory)); the geometric mean over the warm-up's second half is then kept.

    Every trajectory's step is that size times a uniform number in [.8, 1.2], all chains alike. Without it a trajectory may
    last a whole period of some mode of the field, which then never moves (Mackenzie 1989, Phys. Lett. B 226, 369).

    What is known to fail: chains do not cross between regions that nothing connects, however long. At large beta U(1)'s
    topological charge freezes (at beta = 2 it moves freely, at 7 hardly ever), and near or below criticality phi -> -phi
    does. `integrated_autocorrelation_time` of the charge, or of the magnetisation, shows it.

    Args:
        action: S and its force.
        configurations: where the chains start, (chains, *shape); its precision and device are kept.
        num_steps: trajectories after the warm-up.
        step_size: of the leapfrog, in the units of x; only the first guess where there is a warm-up.
        num_leapfrog: leapfrog steps a trajectory; num_leapfrog * step_size of about a correlation length is a good length.
        generator: on the configurations' device; not seeded as the one that drew them.
        warmup: trajectories that are thrown away; with 0 `step_size` is used as it is.
        angles: whether configurations are angles, to be kept in [-pi, pi).
        thin: one of so many trajectories is kept.

    Returns:
        The samples, (chains, num_steps // thin, *shape), and the share of trajectories after the warm-up that were accepted.

    Raises:
        ValueError: a count or the step size out of range, or a start whose action is not finite.
    """
    for name, count, least in (("num_leapfrog", num_leapfrog, 1), ("thin", thin, 1), ("warmup", warmup, 0)):
        if count < least:
            raise ValueError(f"{name} = {count}: give at least {least}")
    if num_steps < thin:
        raise ValueError(f"num_steps = {num_steps} keeps no sample with thin = {thin}: give at least as many")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size = {step_size} moves nothing: give a positive number")
    energies = action(configurations)
    if not energies.isfinite().all():
        broken = int((~energies.isfinite()).sum())
        raise ValueError(f"the action of {broken} of {len(energies)} starts is not finite: start nearer to 0")

    kept = configurations.new_empty(len(configurations), num_steps // thin, *configurations.shape[1:])
    accepted = torch.zeros((), dtype=torch.float64, device=configurations.device)
    # With the chains innermost in memory a shift along the lattice copies long runs, and takes a half to a fifth of the time.
    chains_last = configurations.movedim(0, -1).contiguous()
    configurations = chains_last.movedim(-1, 0)
    log_step, settled = math.log(step_size), []
    for step in range(1 - warmup, num_steps + 1):
        if step == 1 and settled:
            log_step = sum(settled) / len(settled)
        scatter = torch.rand((), generator=generator, device=configurations.device).item()
        scattered = math.exp(log_step) * (1 + STEP_SCATTER * (2 * scatter - 1))

        momenta = torch.empty_like(chains_last).normal_(generator=generator).movedim(-1, 0)
        proposals, ends = leapfrog(action, configurations, momenta, scattered, num_leapfrog)
        proposed = action(proposals)
        gain = energies - proposed + 0.5 * (momenta.square() - ends.square()).flatten(1).sum(1)
        # A trajectory that flew apart ends in nan or infinity, and is as unlikely as can be.
        probability = gain.exp().nan_to_num(nan=0.0, posinf=1.0).clamp(max=1)
        uniform = torch.rand(probability.shape, generator=generator, device=probability.device, dtype=probability.dtype)
        taken = uniform < probability
        configurations = torch.where(
            taken.view(-1, *[1] * (configurations.dim() - 1)), wrap(proposals) if angles else proposals, configurations
        )
        energies = torch.where(taken, proposed, energies)

        if step <= 0:
            trajectory = step + warmup
            log_step += ADAPTATION_RATE * (probability.mean().item() - TARGET_ACCEPTANCE) / math.sqrt(trajectory)
            if 2 * trajectory > warmup:
                settled.append(log_step)
            continue
        accepted += taken.double().mean()
        if step % thin == 0:
            kept[:, step // thin - 1] = configurations
    return kept, accepted.item() / num_steps
