"""What a trained method can do. Callbacks, scripts and metrics ask for one of these, never for a class.

Where a method is conditional on class labels, `labels` ((batch,), int64) says which; other methods ignore it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from dlkit.batches import Particles


@runtime_checkable
class Samples(Protocol):
    """Draws new examples."""

    def sample(self, n: int) -> Tensor:
        """(n, *data_shape)."""
        ...


@runtime_checkable
class SamplesByLabel(Protocol):
    """Draws new examples of given classes, unless `num_classes` is None."""

    num_classes: int | None

    def sample(self, n: int, labels: Tensor | None = None) -> Tensor:
        """n, (n,) -> (n, *data_shape)."""
        ...


@runtime_checkable
class HasLogProb(Protocol):
    """Has a density that it can tell."""

    num_classes: int | None

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, *data_shape) -> log p(x), (batch,), nats."""
        ...


@runtime_checkable
class MovesInLayers(Protocol):
    """Turns noise into examples step by step."""

    def base_sample(self, n: int) -> Tensor:
        """(n, features)."""
        ...

    def layers(self, z: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """(n, features) -> what it passes through on its way to the examples, itself first."""
        ...


@runtime_checkable
class SamplesLattice(Protocol):
    """Samples the configurations of a field theory on a lattice."""

    def chain(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A Metropolis chain, (n, *data_shape), and whether each step's proposal was accepted, (n,)."""
        ...

    def reference(self, num_chains: int, seed: int = 0) -> tuple[Tensor, float]:
        """Hamiltonian Monte Carlo of the same theory: (chains, steps, *data_shape), and the share of accepted steps."""
        ...

    def followed(self, configurations: Tensor) -> tuple[Tensor, str]:
        """An observable of each configuration, (n, *data_shape) -> (n,), and its name."""
        ...

    def shown(self, configurations: Tensor) -> tuple[Tensor, str, bool]:
        """What is drawn of configurations: (n, *data_shape) -> (n, L1, L2), its name, and whether it is an angle."""
        ...

    def correlations(self, configurations: Tensor) -> tuple[Tensor, Tensor, Tensor, str]:
        """A function of distance along Markov chains, (chains, time, *data_shape) -> distances, values, errors, its name."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Maps an example to a point of the latent space."""

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, *data_shape) -> (batch, latent_dim)."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Maps a point of the latent space to an example."""

    latent_dim: int

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, latent_dim) -> (batch, *data_shape)."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Maps an example to itself through a bottleneck."""

    def reconstruct(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, *data_shape) -> the same shape."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """Corrupts an example, and maps a corrupted one back."""

    def corrupt(self, x: Tensor) -> Tensor:
        """(batch, *data_shape) -> the same shape."""
        ...

    def denoise(self, x: Tensor) -> Tensor:
        """(batch, *data_shape) -> the same shape."""
        ...


@runtime_checkable
class Interpolates(Protocol):
    """Walks from one example to another through the latent space."""

    def interpolate(self, x0: Tensor, x1: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """Two (batch, *data_shape) -> (batch, steps, *data_shape)."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """Assigns class probabilities."""

    def classify(self, x: Tensor) -> Tensor:
        """(batch, *data_shape) -> (batch, num_classes), rows sum to one."""
        ...


@runtime_checkable
class HasLatentUsage(Protocol):
    """Tells how much each latent dimension carries."""

    def kl_per_dimension(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, *data_shape) -> (batch, latent_dim), in nats."""
        ...


@runtime_checkable
class FitsLatentDensity(Protocol):
    """Has a second stage: a density fitted to the latents when gradient training is over, from which to sample."""

    latent_density: Any  # None until it is fitted

    def fit_latent_density(self, loader: Any, kind: str = "gaussian") -> None:
        """Fits the density to the latents of the examples that `loader` yields."""
        ...


@runtime_checkable
class HasBaselines(Protocol):
    """Knows closed-form solutions of the same task, to stand beside its own numbers."""

    def baselines(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Both (n, elements), float64 -> the baselines by name."""
        ...


@runtime_checkable
class Discriminates(Protocol):
    """Tells real examples from generated ones.

    Attributes:
        log_odds: whether the logits estimate log p(x) / q(x), so that their sigmoid is the probability of being real.
    """

    log_odds: bool

    def discriminate(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, *data_shape) -> logits (batch,), larger for what looks real."""
        ...


@runtime_checkable
class Pulls(Protocol):
    """Tells where its generator is told to move each generated example."""

    def pull(self, x: Tensor, real: Tensor, labels: Tensor | None = None) -> Tensor:
        """Minus the gradient of the generator's loss at generated examples x, beside as many real ones: -> x's shape."""
        ...


@runtime_checkable
class HasCriticCurves(Protocol):
    """Holds trained critics against the exact ones, for two known densities at several separations."""

    def along_the_lines(self) -> dict[str, Tensor]:
        """Each (separations, points): `x`, `real`, `generated`, `logit`, `exact_logit`, `critic`, and `minimax_gradient`,
        `non_saturating_gradient`, `wasserstein_gradient`."""
        ...

    def by_separation(self) -> dict[str, Tensor]:
        """Each (separations,): `separation`, the means of the three gradients, `exact_minimax_gradient` and
        `exact_non_saturating_gradient`."""
        ...


@runtime_checkable
class Generates(Protocol):
    """Goes on with a text."""

    codec: Any  # None for one that was trained without, and cannot write

    def generate(self, prompt: str = "", num_tokens: int = 200) -> str:
        """The prompt and what follows it."""
        ...


@runtime_checkable
class Translates(Protocol):
    """Translates sentences."""

    def translate(self, sentences: Sequence[str], beam_size: int = 5, alpha: float = 1.0) -> list[str]:
        """The best translation of each, in the order given."""
        ...


@runtime_checkable
class Attends(Protocol):
    """Looks at the words of a sentence as it translates."""

    attention: Any  # None for one that does not

    def attend(self, sentence: str, translation: str) -> tuple[list[str], list[str], Tensor]:
        """Tokens of the sentence and of the translation, and the weights, (of the one, of the other)."""
        ...


@runtime_checkable
class MeasuresByLength(Protocol):
    """Knows after a pass of evaluation how it does at each length."""

    def by_length(self) -> dict[str, Tensor]:
        """`length`, `accuracy` and `majority`, the share of the most frequent class, (lengths,) each."""
        ...


@runtime_checkable
class WeighsInstances(Protocol):
    """Classifies bags of instances, and tells how much each of them counts: `ptr`, (bags + 1,), has the bounds of bags in x."""

    data_shape: tuple[int, ...]

    def classify(self, x: Tensor, ptr: Tensor) -> Tensor:
        """(instances, *data_shape) -> probabilities of a negative and of a positive bag, (bags, 2)."""
        ...

    def attention(self, x: Tensor, ptr: Tensor) -> Tensor:
        """-> (instances,), which sum to one in each bag."""
        ...

    def rescaled_attention(self, x: Tensor, ptr: Tensor) -> Tensor:
        """-> the same from 0 to 1 in each bag, (instances,)."""
        ...


@runtime_checkable
class PredictsPositions(Protocol):
    """Tells where the particles of a system will be."""

    def predict_positions(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Two (batch, particles, dimensions) and (batch, particles) -> positions later."""
        ...


@runtime_checkable
class PredictsFromSets(Protocol):
    """Predicts something of sets; `ptr`, (sets + 1,), has their bounds in x, (members, *data_shape)."""

    task: str
    data_shape: tuple[int, ...]

    def predict(self, x: Tensor, ptr: Tensor) -> Tensor:
        """Targets, (sets, targets), or probabilities of "classification", (sets, classes), and of "outlier", (members,)."""
        ...


@runtime_checkable
class AddsMembers(PredictsFromSets, Protocol):
    """Predicts a sum, and tells what it takes each member for in it; `additive` says whether this one does."""

    additive: bool

    def contributions(self, x: Tensor, ptr: Tensor) -> Tensor:
        """What it takes each member for: (members, targets)."""
        ...


@runtime_checkable
class PredictsTargets(Protocol):
    """Predicts targets, or the probabilities of classes, from batches that have them in `y`.

    Attributes:
        task: "regression", "classification" or another.
        target_names: of each target of a regression, with its unit.
    """

    task: str
    target_names: tuple[str, ...]

    def __call__(self, batch: Any) -> Tensor:
        """(examples, outputs)."""
        ...

    def predictions(self, outputs: Tensor) -> Tensor:
        """-> targets in their units, (examples, targets), or probabilities, (examples, classes)."""
        ...


@runtime_checkable
class MeasuresBySize(Protocol):
    """Knows after a pass of evaluation how it does with sets of each size."""

    def by_size(self) -> dict[str, Tensor]:
        """`size`, and `accuracy`, or `mae` and perhaps `exact`, (sizes,) each."""
        ...


# What data knows of itself -------------------------------------------------------------------------------------------


@runtime_checkable
class Labelled(Protocol):
    """A datamodule that knows how many classes its labels have; None where it has none."""

    num_classes: int | None


@runtime_checkable
class KnownMixture(Protocol):
    """A datamodule of an even mixture of equal isotropic Gaussians."""

    means: Tensor
    std: float


@runtime_checkable
class KnownDensity(Protocol):
    """A datamodule of points drawn from a density that is known."""

    entropy: float

    def log_density(self, x: Tensor) -> Tensor:
        """(n, *data_shape) -> log p(x), (n,), nats."""
        ...


@runtime_checkable
class KnownMolecules(Protocol):
    """A datamodule of molecules.

    Attributes:
        smiles: the SMILES strings of each part, in the order of its batches in evaluation.
    """

    smiles: dict[str, tuple[str, ...]]


@runtime_checkable
class ParallelTexts(Protocol):
    """A datamodule of sentences and their translations."""

    lowercase: bool

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """Sentences and their reference translations."""
        ...


@runtime_checkable
class HasTrivialBaselines(Protocol):
    """A datamodule that knows what can be had without learning."""

    def trivial_baselines(self) -> dict[str, float]:
        """Figures on the test part, by name."""
        ...


@runtime_checkable
class StackedPictures(Protocol):
    """A datamodule of pictures whose channels are labelled pictures of their own; the labels make the mode's number."""

    num_modes: int

    def single(self) -> Any:
        """The datamodule of one channel."""
        ...


@runtime_checkable
class FollowsParticles(Protocol):
    """A datamodule of particles whose way it knows."""

    def trajectory(self, batch: Particles, frames: int) -> Tensor:
        """(batch, frames + 1, particles, dimensions), from the positions given to those to be foretold."""
        ...


@runtime_checkable
class TrainedOnSizes(Protocol):
    """A datamodule of sets that knows how large its training sets are at most."""

    max_size: int
