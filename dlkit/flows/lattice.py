"""LatticeFlow: a field theory sampled by a flow that was trained without data, and an exact sampler made of it.

    target      p(phi) = exp(-S(phi)) / Z
    model       phi = f(z), z ~ white noise (or uniform angles):  q(phi), known in closed form
    objective   min  KL[q | p] = E_q[log q(phi) + S(phi)] + log Z,  the reverse divergence; the loss leaves log Z out
    exactness   q's samples are proposals of a Metropolis chain, accepted with min(1, w' / w), w = exp(-S) / q

Albergo, Kanwar and Shanahan 2019 (arXiv:1904.12072); U(1): Kanwar et al. 2020 (arXiv:2003.06413); independent estimates of
log Z: Nicoli et al. 2021 (arXiv:2007.07115). The layers respect the theory's symmetries: see `dlkit.nn.lattice`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from dlkit.ability import ability
from dlkit.batches import Draws
from dlkit.functional import lattice as physics
from dlkit.functional.likelihoods import LOG_2PI
from dlkit.functional.monte_carlo import (
    Estimate,
    effective_sample_size,
    hamiltonian_monte_carlo,
    independence_metropolis,
    integrated_autocorrelation_time,
    jackknife,
    log_partition,
    mean_and_error,
)
from dlkit.method import Method, Schedule, Terms
from dlkit.metrics.weighted_samples import WeightedSamples
from dlkit.nn.lattice import field_transform, link_transform
from dlkit.nn.transforms import Chain

ActionName = Literal["free", "phi4", "u1"]
AT_ONCE = 4096  # samples
HMC: dict[str, Any] = {"num_steps": 200, "step_size": 0.1, "num_leapfrog": 10, "warmup": 100}
HMC_CHAINS = 500
# Of the Metropolis chain's thresholds. Proposals drawn from the same seed would be correlated with them, and the chain wrong.
METROPOLIS_SEED = 90_412_072
HMC_PREFIX = "hmc_"
BINS = 50  # of the jackknife


class LatticeFlow(Method):
    """A flow of the configurations of a two-dimensional periodic lattice.

    Records the loss, E_q[log q + S] in nats, and `ess`, the effective share of the samples; where log Z is known exactly, also
    `reverse_kl` = loss + log Z. Validation and test add `acceptance` of the Metropolis chain and `log_z`, by importance; the
    test adds the observables of that chain, their errors by autocorrelation times, and the same by Hamiltonian Monte Carlo.
    An effective share of few samples flatters: the number of samples is the data's, see `datamodules.Draws`.

    Scalar observables: `phi_squared` = <phi^2>, `chi_2` = sum_y <phi(x) phi(x + y)>, `magnetisation` = <|M|>, and `length`,
    the second-moment correlation length. Of U(1): `plaquette` = <cos P>, `charge_squared` = <Q^2>.

    Args:
        lattice_shape: (L1, L2), even.
        action: "phi4", S = sum phi (-laplace) phi + m2 phi^2 + lam phi^4; "free", the same without lam; or "u1",
            S = -beta sum cos P.
        m2: of the scalar theories; may be negative where there is a lam.
        lam: of "phi4".
        beta: of "u1".
        num_layers: couplings.
        channels: of each coupling's hidden layers; a layer has so many features a translation.
        num_bins: of the splines of "u1".
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a lattice without a checkerboard, a theory that does not exist, an action's number that is missing.
    """

    compiled_networks = ("network",)

    def __init__(
        self,
        lattice_shape: tuple[int, int] = (8, 8),
        action: ActionName = "phi4",
        m2: float = -4.0,
        lam: float = 8.0,
        beta: float = 2.0,
        num_layers: int = 8,
        channels: tuple[int, ...] = (8,),
        num_bins: int = 8,
        learning_rate: float = 5e-3,
        schedule: Schedule = "cosine",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if action not in ("free", "phi4", "u1"):
            raise ValueError(f"unknown action {action!r}: use 'phi4', 'free' or 'u1'")
        if num_bins < 2:
            raise ValueError(f"num_bins={num_bins}: a spline has at least 2")
        if num_layers < 1 or not channels or min(channels) < 1:
            raise ValueError(f"num_layers={num_layers} and channels={tuple(channels)}: give at least one layer and one channel")
        physics.check_lattice(lattice_shape)
        self.lattice_shape = (lattice_shape[0], lattice_shape[1])
        self.action_name: ActionName = action
        self.gauge = action == "u1"
        self.action: physics.ScalarAction | physics.U1Action = (
            physics.U1Action(beta) if self.gauge else physics.ScalarAction(m2, lam if action == "phi4" else 0.0)
        )
        self.data_shape = self.action.shape(self.lattice_shape)
        self.num_layers = num_layers
        self.channels = tuple(channels)
        self.num_bins = num_bins
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.exact_log_z: float | None = None  # where it is known in closed form
        if isinstance(self.action, physics.U1Action):
            self.exact_log_z = physics.u1_exact(self.lattice_shape, beta).log_partition
        elif self.action.lam == 0:
            self.exact_log_z = physics.free_log_partition(self.lattice_shape, m2)
        self.network = self.build_transform()
        self.weighted = WeightedSamples()

    def build_transform(self) -> Chain:
        """The base's noise, flat for a scalar field, to configurations."""
        if self.gauge:
            return link_transform(self.lattice_shape, self.num_layers, self.channels, self.num_bins)
        return field_transform(self.lattice_shape, self.num_layers, self.channels)

    # The density -----------------------------------------------------------------------------------------------------

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Independent configurations of the model, (n, *data_shape), and their log q, (n,), with gradients."""
        noise = next(self.parameters()).new_empty(n, *self.data_shape)
        if self.gauge:
            noise.uniform_(-math.pi, math.pi)
        else:
            noise = noise.normal_().flatten(1)
        configurations, log_det = self.network(noise)
        return configurations.view(n, *self.data_shape), self.base_log_prob(noise) - log_det

    def base_log_prob(self, noise: Tensor) -> Tensor:
        """The log-density of the noise: (batch, *) -> (batch,)."""
        sites = noise[0].numel()
        if self.gauge:
            return torch.full((len(noise),), -sites * LOG_2PI, device=noise.device, dtype=noise.dtype)
        return -0.5 * (noise.square().sum(1) + sites * LOG_2PI)

    def log_density(self, configurations: Tensor) -> Tensor:
        """log q with gradients, nats: (batch, *data_shape) -> (batch,)."""
        noise, log_det = self.network.inverse(configurations if self.gauge else configurations.flatten(1))
        return self.base_log_prob(noise) + log_det

    @ability
    def log_prob(self, configurations: Tensor) -> Tensor:
        """log q, nats: (batch, *data_shape) -> (batch,)."""
        if tuple(configurations.shape[1:]) != self.data_shape:
            raise ValueError(f"configurations of shape {tuple(configurations.shape[1:])}: this flow's are {self.data_shape}")
        return self.log_density(configurations)

    @ability
    def sample(self, n: int) -> Tensor:
        """Independent configurations of the model, close to the theory's: (n, *data_shape)."""
        return self.weighted_samples(n)[0]

    @ability
    def weighted_samples(self, n: int) -> tuple[Tensor, Tensor]:
        """Independent configurations, (n, *data_shape), and log w = -S - log q of each, (n,)."""
        pieces = [self.draw(min(AT_ONCE, n - start)) for start in range(0, n, AT_ONCE)]
        configurations = torch.cat([piece for piece, _ in pieces])
        return configurations, -self.action(configurations) - torch.cat([log_q for _, log_q in pieces])

    @ability
    def chain(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A Metropolis chain of the theory itself, whatever the model: (n, *data_shape), and what was accepted, (n,)."""
        configurations, log_weights = self.weighted_samples(n)
        chain = independence_metropolis(log_weights, torch.Generator().manual_seed(METROPOLIS_SEED + seed))
        return configurations[chain.indices], chain.accepted

    @ability
    def reference(self, num_chains: int = HMC_CHAINS, seed: int = 0) -> tuple[Tensor, float]:
        """The same theory by Hamiltonian Monte Carlo, without the model: (chains, 200 steps, *data_shape), and acceptance."""
        generator = torch.Generator().manual_seed(METROPOLIS_SEED + seed)
        start = torch.randn(num_chains, *self.data_shape, generator=generator)
        return hamiltonian_monte_carlo(self.action, start, **HMC, generator=generator, angles=self.gauge)

    # The objective ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Draws) -> tuple[Tensor, Terms]:
        """The mean of log q + S over the model's own configurations, with the path gradient.

        Its gradient is d/dtheta of log q(phi) + S(phi) by way of phi alone: by way of q's own parameters it is 0 on average and
        all noise, which does not vanish when q = p (Roeder et al. 2017, arXiv:1703.09194; Vaitl et al. 2022, arXiv:2207.08219).
        """
        configurations, log_q = self.draw(how_many(batch))
        log_weights = -self.action(configurations) - log_q
        if torch.is_grad_enabled():
            found = configurations.detach().requires_grad_()
            pull = torch.autograd.grad((self.log_density(found) + self.action(found)).sum(), found)[0]
            path = (configurations * pull).flatten(1).sum(1).mean()
            loss = path - path.detach() - log_weights.detach().mean()
        else:
            loss = -log_weights.mean()
        terms = {"ess": effective_sample_size(log_weights).to(loss.dtype)}
        if self.exact_log_z is not None:
            terms["reverse_kl"] = loss + self.exact_log_z
        return loss, terms

    def evaluation_step(self, stage: str, batch: Draws) -> None:
        """The loss of each batch; what needs all of them together waits for the end of the pass."""
        configurations, log_weights = self.weighted_samples(how_many(batch))
        loss = -log_weights.mean()
        self.record(
            stage, {"loss": loss} if self.exact_log_z is None else {"loss": loss, "reverse_kl": loss + self.exact_log_z}, batch
        )
        self.weighted.update(log_weights, self.observe(configurations))

    def on_validation_epoch_end(self) -> None:
        self.summarize("val")

    def on_test_epoch_end(self) -> None:
        log_weights, seen = self.summarize("test")
        chain = independence_metropolis(log_weights, torch.Generator().manual_seed(METROPOLIS_SEED))
        flow = self.estimates(seen[chain.indices].unsqueeze(0))
        configurations, _ = self.reference()
        other = self.estimates(self.observe(configurations.flatten(0, 1)).unflatten(0, configurations.shape[:2]))
        tau = integrated_autocorrelation_time(seen[chain.indices, 0])
        self.log_all({"test/tau": tau, **self.named(flow, ""), **self.named(other, HMC_PREFIX)})

    def summarize(self, stage: str) -> tuple[Tensor, Tensor]:
        """Records what all weights of a pass say together, and gives them and what was observed."""
        log_weights, seen = self.weighted.compute()
        self.weighted.reset()
        chain = independence_metropolis(log_weights, torch.Generator().manual_seed(METROPOLIS_SEED))
        value, error = log_partition(log_weights)
        found = {
            "ess": effective_sample_size(log_weights),
            "acceptance": chain.accepted[1:].double().mean(),
            "log_z": value,
            "log_z_error": error,
            "samples": torch.tensor(float(len(log_weights))),
        }
        self.log_all({f"{stage}/{name}": number for name, number in found.items()})
        return log_weights, seen

    def log_all(self, found: Terms) -> None:
        """Logs scalars of any device on the method's, where processes can average them."""
        self.log_dict({name: number.to(self.device, torch.float32) for name, number in found.items()}, sync_dist=True)

    # What is measured of configurations ------------------------------------------------------------------------------

    def observe(self, configurations: Tensor) -> Tensor:
        """The observables of each configuration, and after them C(t) or W(t): (n, *data_shape) -> (n, numbers)."""
        if self.gauge:
            charge = physics.topological_charge(configurations)
            single = [physics.average_plaquette(configurations), charge.square()]
            return torch.cat([torch.stack(single, 1), physics.wilson_loops(configurations)], 1)
        single = [
            physics.mean_square(configurations),
            physics.two_point_susceptibility(configurations),
            physics.magnetisation(configurations).abs(),
        ]
        return torch.cat([torch.stack(single, 1), physics.correlation_function(configurations)], 1)

    @property
    def observables(self) -> tuple[str, ...]:
        """The names of the first observables."""
        return ("plaquette", "charge_squared") if self.gauge else ("phi_squared", "chi_2", "magnetisation")

    def estimates(self, seen: Tensor) -> dict[str, Estimate]:
        """Each observable's mean and error along Markov chains: (chains, time, numbers)."""
        found = {name: mean_and_error(seen[..., number]) for number, name in enumerate(self.observables)}
        if not self.gauge:
            correlation = seen[..., len(self.observables) :].flatten(0, 1)
            found["length"] = jackknife(
                lambda rows: physics.second_moment_length(rows.mean(0)), correlation, min(BINS, len(correlation))
            )
        return found

    def correlations(self, configurations: Tensor) -> tuple[Tensor, Tensor, Tensor, str]:
        """C(t) of a scalar field, W(1, t) of U(1): (chains, time, *data_shape) -> distances, values, errors, a name."""
        seen = self.observe(configurations.flatten(0, 1)).unflatten(0, configurations.shape[:2])
        found = [mean_and_error(seen[..., number]) for number in range(len(self.observables), seen.shape[-1])]
        distances = torch.arange(len(found)) + (1 if self.gauge else 0)
        name = "Wilson loops W(1, t)" if self.gauge else "C(t), the correlation of slices"
        return distances, torch.stack([each.value for each in found]), torch.stack([each.error for each in found]), name

    def followed(self, configurations: Tensor) -> tuple[Tensor, str]:
        """The topological charge, or the magnetisation, of each configuration: (n, *data_shape) -> (n,), its name."""
        if self.gauge:
            return physics.topological_charge(configurations), "topological charge"
        return physics.magnetisation(configurations), "magnetisation"

    def shown(self, configurations: Tensor) -> tuple[Tensor, str, bool]:
        """The field, or the plaquettes: (n, *data_shape) -> (n, L1, L2), its name, and whether it is an angle."""
        if self.gauge:
            return physics.plaquettes(configurations), "plaquette", True
        return configurations, "phi", False

    def named(self, found: dict[str, Estimate], prefix: str) -> Terms:
        """Estimates as scalars to be recorded."""
        terms: Terms = {}
        for name, estimate in found.items():
            terms |= {f"test/{prefix}{name}": estimate.value, f"test/{prefix}{name}_error": estimate.error}
        return terms


def how_many(batch: Draws) -> int:
    """How many configurations a batch asks for.

    Raises:
        ValueError: it holds examples instead.
    """
    if not isinstance(batch, Draws):
        raise ValueError(
            f"LatticeFlow draws what it learns from and was given a batch of {type(batch).__name__}: use datamodules.NoData"
        )
    return len(batch.number)
