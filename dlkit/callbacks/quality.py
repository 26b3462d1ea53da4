"""Quality: how good the samples of a generative model are, since no adversarial loss says it."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from dlkit.callbacks import drawing
from dlkit.callbacks.judge import Judge, judge_of
from dlkit.callbacks.random_state import isolated
from dlkit.callbacks.summary import steps_done, writer
from dlkit.metrics.features import FeatureNetwork, frechet_distance, kernel_distance
from dlkit.metrics.manifolds import PrecisionRecallDensityCoverage
from dlkit.metrics.modes import ClassModes, MixtureModes
from dlkit.metrics.two_sample import ClassifierTwoSampleTest, NearestNeighbours
from dlkit.metrics.wasserstein import Wasserstein
from dlkit.protocols import KnownMixture, Samples, SamplesByLabel, StackedPictures

M = TypeVar("M", bound=Metric)

CHUNK = 1000
SEED = 3
MOST_NEIGHBOURS = 5000
CANDIDATES, CLOSEST = 240, 24


class Quality(L.Callback):
    """Measures samples after each validation and in the test, always from the same latents.

    By what the data knows of itself: of a mixture of Gaussians the modes covered, the share of samples of high quality, the
    KL divergence over modes, and in the test the Wasserstein-1 distance; of stacked pictures the modes that the judge sees
    and their KL divergence; of labelled pictures the Frechet and kernel distances on the judge's features (`judge_fid`,
    `judge_kid`: not Inception's), precision, recall, density and coverage, the share of conditional samples that the
    judge puts into their class, and in the test a two-sample test and the distance to the nearest training example. Of these
    pictures the 24 samples of 240 that come closest to a training example are shown above the examples they come close to.

    In the test the same is measured of as many real examples in the place of samples, under `test/real_...`: the best that is
    to be had. For mixtures those are test examples; otherwise training examples, held against the test part as the samples are,
    or for stacked pictures counted as they are, beside as many draws from exactly even modes (`test/uniform_kl`).

    Args:
        num_samples: how many samples the test takes.
        val_samples: how many validation takes.
        inception: measures `fid` and `kid` with Inception's features too, whose weights are downloaded.

    Raises:
        ValueError: a number below 2; a method that does not sample; data that is none of these kinds.
    """

    def __init__(self, num_samples: int = 10_000, val_samples: int = 2_500, inception: bool = False) -> None:
        if min(num_samples, val_samples) < 2:
            raise ValueError(f"num_samples={num_samples} and val_samples={val_samples}: give 2 or more")
        self.num_samples = num_samples
        self.val_samples = val_samples
        self.inception = inception

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Samples):
            raise ValueError(f"{type(pl_module).__name__} does not sample: leave dlkit.callbacks.Quality out")
        check_kind(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.record(trainer, pl_module, "val", self.val_samples)
            self.show_closest(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.record(trainer, pl_module, "test", self.num_samples)

    def record(self, trainer: L.Trainer, method: Any, stage: str, number: int) -> None:
        """Measures and logs under `<stage>/`."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        with isolated(SEED):
            found = self.measure(method, data, stage, number)
        for name, value in found.items():
            method.log(f"{stage}/{name}", float(value), sync_dist=trainer.world_size > 1)

    def show_closest(self, trainer: L.Trainer, method: Any) -> None:
        """Draws those of some samples that are closest to training examples, each above its example."""
        data, board = trainer.datamodule, writer(trainer)  # pyright: ignore[reportAttributeAccessIssue]
        if board is None or isinstance(data, (KnownMixture, StackedPictures)):
            return
        with isolated(SEED):
            metric = alone(NearestNeighbours())
            metric.update(real(data, "train", len(data.splits["train"].x)), "train")
            metric.update(samples(method, CANDIDATES), "generated")
        board.add_image(
            "samples/closest_above_training_example",
            drawing.aligned(metric.neighbours(CLOSEST), CLOSEST // 2),
            steps_done(trainer),
        )

    def measure(self, method: Any, data: Any, stage: str, number: int) -> dict[str, Any]:
        """The metrics by name; with `stage` "test" those of real examples too."""
        testing = stage == "test"
        if isinstance(data, KnownMixture):
            found = of_mixture(data, samples(method, number))
            if testing:
                reference = real(data, "test", number)
                found["wasserstein"] = wasserstein(samples(method, number), reference)
                found |= prefixed(of_mixture(data, reference))
                found["real_wasserstein"] = wasserstein(real(data, "train", number), reference)
            return found
        if isinstance(data, StackedPictures):
            judge = judge_of(data.single())
            found = of_stacks(judge, data, samples(method, number))
            if testing:
                repeated = torch.randint(data.num_modes, (number,))
                counts = alone(ClassModes(data.num_modes))
                counts.update(repeated)
                found |= {"judge_accuracy": judge.accuracy, **prefixed(of_stacks(judge, data, real(data, "train", number)))}
                found["uniform_kl"] = counts.compute()["kl"]
            return found
        return self.of_pictures(method, data, stage, number)

    def of_pictures(self, method: Any, data: Any, stage: str, number: int) -> dict[str, Any]:
        """The metrics of labelled pictures."""
        judge, testing = judge_of(data), stage == "test"
        reference = real(data, stage, number)
        labels = torch.arange(len(reference)) % data.num_classes
        conditional = isinstance(method, SamplesByLabel) and method.num_classes is not None
        generated = samples(method, len(reference), labels if conditional else None)
        found = on_features(judge, generated, reference)
        if conditional:
            found["conditional_accuracy"] = (predictions(judge, generated) == labels).float().mean()
        if testing:
            training = real(data, "train", len(reference))
            found |= prefixed(on_features(judge, training, reference))
            found["judge_accuracy"] = judge.accuracy
            found["two_sample_accuracy"] = two_sample(judge, generated, reference)
            found["real_two_sample_accuracy"] = two_sample(judge, training, reference)
            found["nearest_training_example"] = memorisation(data, generated, reference)
            if self.inception:
                found |= on_inception(generated, reference)
        return found


# What is measured ----------------------------------------------------------------------------------------------------


def check_kind(data: Any) -> None:
    """Refuses data of whose samples there is no measure.

    Raises:
        ValueError: naming the data.
    """
    if isinstance(data, (KnownMixture, StackedPictures)) or (len(data.data_shape) == 3 and data.num_classes):
        return
    raise ValueError(
        f"{type(data).__name__} is neither a known mixture nor labelled pictures, so there is no measure of its samples: "
        f"leave dlkit.callbacks.Quality out"
    )


def samples(method: Any, number: int, labels: Tensor | None = None) -> Tensor:
    """So many samples, on the CPU; a picture's values outside [0, 1] are clipped."""
    parts = []
    for start in range(0, number, CHUNK):
        size = min(CHUNK, number - start)
        chosen = {} if labels is None else {"labels": labels[start : start + size]}
        parts.append(method.sample(size, **chosen).float().cpu())
    x = torch.cat(parts)
    return x.clamp(0, 1) if x.dim() == 4 else x


def real(data: Any, split: str, number: int) -> Tensor:
    """So many real examples of a split, drawn without repetition; all of them where it has fewer."""
    examples = data.splits[split]
    rows = torch.randperm(len(examples.x))[:number]
    return torch.cat([data.prepare(examples.map(itemgetter(part))).x for part in rows.split(CHUNK)])


def alone(metric: M) -> M:
    """The metric, by which each process measures for itself: all of them have the same samples, which must not count twice."""
    metric.distributed_available_fn = nobody_else
    return metric


def nobody_else() -> bool:
    """Says that there are no other processes."""
    return False


def prefixed(found: dict[str, Any]) -> dict[str, Any]:
    """The same metrics under `real_...`."""
    return {f"real_{name}": value for name, value in found.items()}


def of_mixture(data: KnownMixture, x: Tensor) -> dict[str, Any]:
    """Modes, high quality and KL divergence: (n, d)."""
    metric = alone(MixtureModes(data.means, data.std))
    metric.update(x)
    return metric.compute()


def wasserstein(x: Tensor, reference: Tensor) -> Tensor:
    """The exact distance between the first points of both: (n, d), (m, d)."""
    metric = alone(Wasserstein())
    metric.update(x, real=False)
    metric.update(reference, real=True)
    return metric.compute()


def predictions(judge: Judge, x: Tensor) -> Tensor:
    """The judge's classes: (n, *data_shape) -> (n,)."""
    return torch.cat([judge.classifier.predict(part) for part in x.split(CHUNK)])


def of_stacks(judge: Judge, data: StackedPictures, x: Tensor) -> dict[str, Any]:
    """Modes and their KL divergence, each channel judged by itself: (n, channels, height, width)."""
    digits = predictions(judge, x.flatten(0, 1).unsqueeze(1)).view(x.shape[:2])
    place = judge.classifier.num_classes ** torch.arange(x.shape[1] - 1, -1, -1)
    metric = alone(ClassModes(data.num_modes))
    metric.update((digits * place).sum(1))
    return metric.compute()


def features(judge: Judge, x: Tensor) -> Tensor:
    """(n, *data_shape) -> (n, num_features)."""
    return torch.cat([judge.classifier.features(part) for part in x.split(CHUNK)])


def on_features(judge: Judge, generated: Tensor, reference: Tensor) -> dict[str, Any]:
    """Distances, precision, recall, density and coverage on the judge's features."""
    if min(len(generated), len(reference)) < 2:
        raise ValueError("the quality of samples is measured beside 2 real examples at least: enlarge --data.val_size")
    network = FeatureNetwork(judge.classifier.network.features, judge.classifier.network.head.in_features)
    found: dict[str, Any] = {}
    frechet = alone(frechet_distance(network))
    kernel = alone(kernel_distance(network, subset_size=min(1000, len(generated), len(reference))))
    for x, is_real in ((generated, False), (reference, True)):
        for part in x.split(CHUNK):
            frechet.update(part, real=is_real)
            kernel.update(part, real=is_real)
    found["judge_fid"] = frechet.compute()
    found["judge_kid"] = kernel.compute()[0]
    manifolds = alone(PrecisionRecallDensityCoverage())
    manifolds.update(features(judge, generated), real=False)
    manifolds.update(features(judge, reference), real=True)
    return found | manifolds.compute()


def on_inception(generated: Tensor, reference: Tensor) -> dict[str, Any]:
    """The Frechet and kernel distances of papers."""
    frechet = alone(frechet_distance())
    kernel = alone(kernel_distance(subset_size=min(1000, len(generated), len(reference))))
    for x, is_real in ((generated, False), (reference, True)):
        for part in x.expand(-1, 3, -1, -1).split(100):
            frechet.update(part, real=is_real)
            kernel.update(part, real=is_real)
    return {"fid": frechet.compute(), "kid": kernel.compute()[0]}


def two_sample(judge: Judge, generated: Tensor, reference: Tensor) -> Tensor:
    """The accuracy of a classifier that tells samples from real examples by the judge's features; .5 is ideal."""
    test = alone(ClassifierTwoSampleTest())
    test.update(features(judge, generated), real=False)
    test.update(features(judge, reference), real=True)
    return test.compute()["accuracy"]


def memorisation(data: Any, generated: Tensor, reference: Tensor) -> Tensor:
    """The median distance of samples to their nearest training example, over that of test examples: below 1 is copying."""
    metric = alone(NearestNeighbours())
    metric.update(real(data, "train", len(data.splits["train"].x)), "train")
    metric.update(reference[:MOST_NEIGHBOURS], "test")
    metric.update(generated[:MOST_NEIGHBOURS], "generated")
    return metric.compute()["distance_ratio"]
