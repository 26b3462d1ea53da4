"""ChargedParticles: systems of a few charges that attract and repel each other, simulated here and kept on disk."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import SplitData
from datamodules.loader import Loader
from dlkit.batches import Particles
from dlkit.processes import whole

TIME_STEP = 1e-3
GREATEST_FORCE = 100.0  # in each direction; what a step may change a velocity by is bounded by it
SPEED = 0.5  # of every particle at the start
CHUNK = 1000  # systems simulated at a time, which a processor's cache holds
VERSION = 1  # of the simulation: another number makes what lies on disk void
# Where each part begins in the stream of systems, and how many it may have.
FIRST = {"train": 0, "val": 10_000, "test": 12_000}
ROOM = {"train": 10_000, "val": 2000, "test": 2000}
FRAMES = 49  # that the published systems have


class ChargedParticles(SplitData):
    """Where will charged particles be after 1000 steps? The task of Satorras et al. 2021 (arXiv:2102.09844), section 5.1.

    Particles of charge q = +-1 and mass 1 start at x ~ N(0, 1) with a velocity of length 0.5 in any direction, and move in
    space under F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3, each of its components cut off at 100 (Kipf et al. 2018,
    arXiv:1802.04687, section 5.1, in three dimensions and without walls):

        v <- v + 0.001 F(x),   x <- x + 0.001 v   (symplectic Euler)

    A model is given the state after `start` steps, and has to tell the positions `steps` later. The simulation is done in
    float64, for all systems at once, once for each setting; the states are kept on disk.

    The starting conditions are drawn by NumPy's legacy generator in the order in which the authors' program draws them, so that
    the default ones are those of its documented call (seed 43: 10,000 systems to train on, of which the paper uses 3000, 2000
    for validation and 2000 for the test). For another number of particles x's deviation is (particles / 5)^(1/3), as there.

    Args:
        num_particles: in each system.
        num_train, num_val, num_test: systems in each part; at most 10,000, 2000 and 2000. 0 for no validation.
        start: simulation steps before the state that a model is given.
        steps: from there to the positions that it has to tell.
        split_seed: of the starting conditions. The order of training comes from the run's seed.
        batch_size: systems a batch and device.
        rotate: whether each system is turned around the origin, and mirrored or not, at random whenever it is trained on: one
            such system is as likely as the other.
        cache: the folder where simulated systems are kept; empty for a folder in the user's cache folder for dlkit.

    Raises:
        ValueError: fewer than two particles, a number of systems or steps outside its range.

    Attributes:
        num_particles, dimensions: of a system.
    """

    dimensions = 3

    def __init__(
        self,
        num_particles: int = 5,
        num_train: int = 3000,
        num_val: int = 2000,
        num_test: int = 2000,
        start: int = 3100,
        steps: int = 1000,
        split_seed: int = 43,
        batch_size: int = 100,
        rotate: bool = False,
        cache: str = "",
    ) -> None:
        super().__init__(batch_size)
        if num_particles < 2:
            raise ValueError(f"num_particles={num_particles}: give at least 2, which act on each other")
        self.numbers = {"train": num_train, "val": num_val, "test": num_test}
        for part, number in self.numbers.items():
            least = 0 if part == "val" else 1
            if not least <= number <= ROOM[part]:
                raise ValueError(f"num_{part}={number}: give {least} to {ROOM[part]} systems")
        if steps < 1:
            raise ValueError(f"steps={steps}: give at least 1 step to foretell")
        if start < 0:
            raise ValueError(f"start={start}: give 0 or more steps")
        if not 0 <= split_seed < 2**32:
            raise ValueError(f"split_seed={split_seed}: give a whole number from 0 to 2^32 - 1")
        self.num_particles = num_particles
        self.start = start
        self.steps = steps
        self.split_seed = split_seed
        self.rotate = rotate
        self.cache = cache

    makes_validation = "num_val"

    def prepare_data(self) -> None:
        """Simulates in one process what the others then read."""
        self.setup()

    def load(self) -> dict[str, Particles]:
        return {part: self.part(part) for part, number in self.numbers.items() if number}

    def serve(self, part: Particles, shuffle: bool, seed: int) -> Loader:
        def take(rows: Tensor) -> Particles:
            return Particles(*(column.index_select(0, rows) for column in part))

        return Loader(len(part.y), take, self.batch_size, shuffle, seed)

    def prepare(self, batch: Particles, training: bool = False) -> Particles:
        """The same systems, turned if they are trained on and that is asked for."""
        if not (training and self.rotate):
            return batch
        turn = random_orthogonal(len(batch.y), self.dimensions).to(batch.y)
        return batch._replace(positions=batch.positions @ turn, velocities=batch.velocities @ turn, y=batch.y @ turn)

    # The systems -----------------------------------------------------------------------------------------------------

    def part(self, part: str) -> Particles:
        """The systems of a part, from disk where they lie there."""
        path = self.folder() / f"{part}-{self.fingerprint(part)}.npz"
        kept = read(path)
        if kept is None:
            kept = self.simulate(part)
            try:
                write(path, kept)
            except OSError as error:
                warnings.warn(
                    f"the simulated systems could not be kept in {path.parent} ({error}) and will be simulated anew each time: "
                    f"name another folder with --data.cache",
                    stacklevel=2,
                )
        return Particles(*(torch.from_numpy(column) for column in kept.values()))

    def folder(self) -> Path:
        """Where simulated systems are kept."""
        import pooch

        return Path(self.cache).expanduser() if self.cache else Path(pooch.os_cache("dlkit")) / "charged_particles"

    def fingerprint(self, part: str) -> str:
        """Of everything that the systems of a part depend on."""
        settings = [VERSION, part, self.numbers[part], self.num_particles, self.start, self.steps, self.split_seed]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def simulate(self, part: str) -> dict[str, np.ndarray]:
        """The columns of a part, float32."""
        x, v, charges = starting_conditions(FIRST[part], self.numbers[part], self.num_particles, self.split_seed)
        positions, velocities = move(x, v, charges, self.start)
        y, _ = move(positions, velocities, charges, self.steps)
        columns = {"positions": positions, "velocities": velocities, "charges": charges, "y": y}
        return {name: column.astype(np.float32) for name, column in columns.items()}

    # For everybody ---------------------------------------------------------------------------------------------------

    def trajectory(self, batch: Particles, frames: int) -> Tensor:
        """The way of each particle from where it is given to where it is to be foretold.

        Args:
            batch: `positions`, `velocities` and `charges`, as `loader` serves them.
            frames: equal stretches that the way is divided into, as far as whole steps can.

        Returns:
            (batch, frames + 1, particles, dimensions), float32: the given positions first, those foretold last.
        """
        if frames < 1:
            raise ValueError(f"frames={frames}: give at least 1")
        x, v, charges = (column.double().cpu().numpy() for column in batch[:3])
        bounds = [round(self.steps * frame / frames) for frame in range(frames + 1)]
        found = [x]
        for begin, end in pairwise(bounds):
            x, v = move(x, v, charges, end - begin)
            found.append(x)
        return torch.from_numpy(np.stack(found, 1)).float()

    def trivial_baselines(self) -> dict[str, float]:
        """The mean squared error of the test positions for x, and for x + c v with the c that is best for the training part.

        The latter is what the paper calls "Linear", 0.0819 there.
        """
        self.setup()
        train, test = self.splits["train"], self.splits["test"]
        moved, velocity = (train.y - train.positions).double(), train.velocities.double()
        factor = (moved * velocity).sum() / velocity.square().sum()
        straight = test.positions + factor * test.velocities
        guesses = {"mse_at_rest": test.positions, "mse_straight_on": straight}
        return {name: float((guess - test.y).double().square().mean()) for name, guess in guesses.items()}


def random_orthogonal(number: int, dimensions: int) -> Tensor:
    """Rotations and reflections, each as likely as any other: (number, dimensions, dimensions)."""
    q, r = torch.linalg.qr(torch.randn(number, dimensions, dimensions))
    return q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)  # without the signs some would be likelier (Mezzadri 2007)


def starting_conditions(first: int, number: int, particles: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities, (number, particles, 3), and charges, (number, particles), of systems `first`, `first + 1`, ..."""
    stream = np.random.RandomState(seed)
    size = 3 * particles
    # The authors' program also draws noise for each frame, which it multiplies by zero.
    normals, uniforms = np.empty((number, 2, 3, particles)), np.empty((number, particles))
    for system in range(-first, number):
        charge, normal = stream.random_sample(particles), stream.randn(2 * size * (1 + FRAMES))
        if system >= 0:
            uniforms[system], normals[system] = charge, normal[: 2 * size].reshape(2, 3, particles)
    x, v = normals.transpose(1, 0, 3, 2)
    return (
        x * (particles / 5) ** (1 / 3),
        SPEED * v / np.linalg.norm(v, axis=-1, keepdims=True),
        np.where(uniforms < 0.5, -1.0, 1.0),
    )


def move(x: np.ndarray, v: np.ndarray, charges: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities, (systems, particles, dimensions), so many steps later."""
    first, second = np.triu_indices(x.shape[1], 1)
    # The incidence matrix of particles and pairs: its transpose takes differences, and it adds up forces and counterforces.
    incidence = np.zeros((x.shape[1], len(first)))
    incidence[first, np.arange(len(first))], incidence[second, np.arange(len(first))] = 1, -1
    moved_x, moved_v = np.empty_like(x), np.empty_like(v)
    for begin in range(0, len(x), CHUNK):
        chunk = slice(begin, begin + CHUNK)
        # (dimensions, particles, systems): the long axis last
        position, velocity = (np.array(values[chunk].transpose(2, 1, 0), order="C") for values in (x, v))
        strength = (charges[chunk, first] * charges[chunk, second]).T
        for _ in range(steps):
            difference = incidence.T @ position
            squared = (difference * difference).sum(0)
            difference *= strength / (squared * np.sqrt(squared))
            force = incidence @ difference
            velocity += TIME_STEP * np.clip(force, -GREATEST_FORCE, GREATEST_FORCE, out=force)
            position += TIME_STEP * velocity
        moved_x[chunk], moved_v[chunk] = position.transpose(2, 1, 0), velocity.transpose(2, 1, 0)
    return moved_x, moved_v


def read(path: Path) -> dict[str, np.ndarray] | None:
    """The columns in a file that `write` wrote; None where there is none, or a damaged one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return {name: columns[name] for name in Particles._fields}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # pyright: ignore[reportArgumentType]
