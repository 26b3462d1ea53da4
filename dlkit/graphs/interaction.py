"""InteractionNetwork: where the particles of a system will be, from where they are, how they move, and their charges.

y = network(x, v, q),   L = mean over systems, particles and coordinates of (y - positions later)^2
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.ability import ability
from dlkit.batches import Particles
from dlkit.method import Method, Schedule, Terms
from dlkit.metrics.mean_error import MeanWithError
from dlkit.nn.particles import EquivariantDynamics, PlainDynamics

NetworkName = Literal["mpnn", "egnn"]


class InteractionNetwork(Method):
    """Learns the motion of particles that act on each other (Battaglia et al. 2016, arXiv:1612.00222) on the task and with the
    networks of Satorras et al. 2021 (arXiv:2102.09844, section 5.1).

    Records the mean squared error `mse` of a position's coordinate, and in evaluation its standard error over the systems,
    `mse_error`: a few close encounters make most of it.

    Args:
        network: "egnn", the E(n)-equivariant network (`dlkit.nn.particles.EquivariantDynamics`), or "mpnn", plain message
            passing (`PlainDynamics`).
        dimensions: of space.
        hidden_size: features of a particle and of a message.
        num_layers: rounds of messages.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: an unknown network, a size below 1, systems of fewer than two particles, columns whose shapes do not go
            together, coordinates that are not finite.
    """

    reads = Particles

    compiled_networks = ("network",)

    def __init__(
        self,
        network: NetworkName = "egnn",
        dimensions: int = 3,
        hidden_size: int = 64,
        num_layers: int = 4,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if network not in get_args(NetworkName):
            raise ValueError(f"unknown network {network!r}: use 'mpnn' or 'egnn'")
        for name, value in (("dimensions", dimensions), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        self.dimensions = dimensions
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.network = self.build_network(network, hidden_size, num_layers)
        self.errors = MeanWithError()

    def build_network(self, network: NetworkName, hidden_size: int, num_layers: int) -> nn.Module:
        """Positions, velocities and charges -> positions later."""
        if network == "mpnn":
            return PlainDynamics(self.dimensions, hidden_size, num_layers)
        return EquivariantDynamics(hidden_size, num_layers)

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """positions, velocities: (batch, particles, dimensions); charges: (batch, particles) -> positions later."""
        self.check(positions, velocities, charges)
        return self.network(positions, velocities, charges).float()

    def loss(self, batch: Particles) -> tuple[Tensor, Terms]:
        return F.mse_loss(self.foretold(batch), batch.y), {}

    def foretold(self, batch: Particles) -> Tensor:
        """The positions that the network tells, for a batch that has true ones.

        Raises:
            ValueError: these have another shape.
        """
        told = self(*batch[:3])
        if batch.y.shape != told.shape:
            raise ValueError(
                f"the positions later are {tuple(batch.y.shape)} and those given {tuple(told.shape)}: give one for each"
            )
        return told

    def check(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> None:
        """Refuses what is no system of particles.

        Raises:
            ValueError: naming the shapes, or what is not finite.
        """
        if positions.dim() != 3 or positions.shape[2] != self.dimensions:
            raise ValueError(
                f"positions are {tuple(positions.shape)}: give (batch, particles, {self.dimensions}), or set dimensions"
            )
        if velocities.shape != positions.shape or charges.shape != positions.shape[:2]:
            raise ValueError(
                f"velocities are {tuple(velocities.shape)} and charges {tuple(charges.shape)}, and positions "
                f"{tuple(positions.shape)}: give a velocity and a charge for each position"
            )
        if positions.shape[1] < 2:
            raise ValueError(f"positions are {tuple(positions.shape)}: give at least 2 particles, which act on each other")
        # Looked at on the CPU only: on an accelerator the look would make the step wait, and a loss that is NaN stops the run.
        for name, values in (("positions", positions), ("velocities", velocities), ("charges", charges)):
            if values.is_cpu and not values.isfinite().all():
                raise ValueError(f"{name} hold NaN or infinity: look at the data, or leave those systems out")

    # Evaluation ------------------------------------------------------------------------------------------------------

    def evaluation_step(self, stage: str, batch: Particles) -> None:
        squared = (self.foretold(batch) - batch.y).square().mean((1, 2))
        self.record(stage, {"loss": squared.mean()}, batch)
        self.errors.update(squared)

    def on_validation_epoch_start(self) -> None:
        self.errors.reset()

    def on_test_epoch_start(self) -> None:
        self.errors.reset()

    def on_validation_epoch_end(self) -> None:
        self.summarize("val")

    def on_test_epoch_end(self) -> None:
        self.summarize("test")

    def summarize(self, stage: str) -> None:
        """Records the error of a whole pass, and its own."""
        found = self.errors.compute()
        self.log(f"{stage}/mse", found["mean"].float())
        self.log(f"{stage}/mse_error", found["error"].float())

    # What it can do --------------------------------------------------------------------------------------------------

    @ability
    def predict_positions(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Positions later: as `forward`."""
        return self(positions, velocities, charges)
