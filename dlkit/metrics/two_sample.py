"""Do generated examples differ from real ones, and are they copies? A classifier and nearest neighbours decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

ClassifierName = Literal["neighbours", "logistic"]
Split = Literal["train", "test", "generated"]
DISTANCES = 2**24  # held at once: 128 MiB in float64


def distance_rows(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of x: (n, d) to y: (m, d), some rows at a time, so that memory is bounded.

    Yields:
        A slice of x, and that slice's distances to all of y: (rows, m).
    """
    rows = max(1, DISTANCES // len(y))
    for start in range(0, len(x), rows):
        chunk = slice(start, min(start + rows, len(x)))
        yield chunk, torch.cdist(x[chunk], y)


def number_of(kept: list[Tensor] | Tensor) -> int:
    """How many examples a state holds: a list of batches, or one tensor once processes have been gathered."""
    return len(kept) if isinstance(kept, Tensor) else sum(map(len, kept))


class TwoSampleMetric(Metric):
    """Keeps the features of real and of generated examples; subclasses compare them.

    Raises:
        ValueError: features that are no matrix, have another width than earlier ones or are not finite; at compute, too
            few of a kind.
    """

    full_state_update = False
    real_features: list[Tensor]
    generated_features: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("generated_features", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """features: (n, d), of real examples or of generated ones."""
        if features.ndim != 2:
            raise ValueError(
                f"{type(self).__name__} takes features of the shape (n, d), got {tuple(features.shape)}: use x.flatten(1)"
            )
        widths = {kept.shape[1] for kept in (*self.real_features[-1:], *self.generated_features[-1:])}
        if widths and features.shape[1] not in widths:
            raise ValueError(f"the features so far have the width {widths.pop()}, these have {features.shape[1]}: call reset()")
        if not features.isfinite().all():
            raise ValueError(
                f"{'real' if real else 'generated'} features contain NaN or infinity: "
                f"{type(self).__name__} compares finite ones"
            )
        (self.real_features if real else self.generated_features).append(features.detach())

    def samples(self, minimum: int) -> tuple[Tensor, Tensor]:
        """The real (n, d) and the generated (m, d) features in float64, at least `minimum` of each."""
        real, generated = number_of(self.real_features), number_of(self.generated_features)
        if min(real, generated) < minimum:
            raise ValueError(
                f"{type(self).__name__} has {real} real and {generated} generated examples: update it with at least "
                f"{minimum} of each"
            )
        return dim_zero_cat(self.real_features).double(), dim_zero_cat(self.generated_features).double()


class ClassifierTwoSampleTest(TwoSampleMetric):
    """The accuracy of a classifier that tells generated examples from real ones, on examples it was not trained on.

    Half of the examples train it and the other half test it. Were both kinds drawn from one distribution, the number of
    right answers among n would be Binomial(n, 1/2), so that p = P(Binomial(n, 1/2) >= right answers).
    Lopez-Paz and Oquab 2017 (arXiv:1610.06545), section 3.

    Deviations: the exact binomial instead of its normal limit; as many real as generated examples in each half.

    Args:
        classifier: "neighbours" (the floor(sqrt(training examples)) nearest ones vote, as in the paper) or "logistic"
            (regression on standardised features: sees only differences that a plane can).
        seed: of the choice of examples (where there are more of one kind) and of their split into halves.

    Raises:
        ValueError: an unknown classifier; also what `TwoSampleMetric` raises.
    """

    def __init__(self, classifier: ClassifierName = "neighbours", seed: int = 0) -> None:
        super().__init__()
        if classifier not in get_args(ClassifierName):
            raise ValueError(f"classifier={classifier!r} is unknown: write one of {', '.join(get_args(ClassifierName))}")
        self.classifier = classifier
        self.seed = seed

    def compute(self) -> dict[str, Tensor]:
        """Scalars.

        Returns:
            "accuracy": on the held-out half, .5 is ideal; "p_value": the probability of at least that accuracy if the
            distributions are equal.
        """
        from scipy.stats import binom
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        generator = torch.Generator().manual_seed(self.seed)
        samples = [x.cpu() for x in self.samples(4)]
        number = min(map(len, samples))
        samples = [x[torch.randperm(len(x), generator=generator)[:number]] for x in samples]
        half = number // 2
        train, test = (torch.cat([x[part] for x in samples]).numpy() for part in (slice(half), slice(half, None)))
        labels = torch.arange(2)
        if self.classifier == "neighbours":
            classifier = KNeighborsClassifier(int(len(train) ** 0.5))
        else:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(train, labels.repeat_interleave(half).numpy())
        right = int((classifier.predict(test) == labels.repeat_interleave(number - half).numpy()).sum())
        return {
            "accuracy": torch.tensor(right / len(test), device=self.device),
            "p_value": torch.tensor(float(binom.sf(right - 1, len(test), 0.5)), device=self.device),
        }


class NearestNeighbours(Metric):
    """Memorisation: are generated examples closer to the training set than unseen real ones are?

    distance_ratio = median_g min_i |g - x_i| / median_t min_i |t - x_i|, with g generated, t test and x_i training
    examples and the Euclidean distance of their flattened values. 1 or more: no copying; near 0: copies. A ratio far above
    1 means bad samples, not original ones.

    Raises:
        ValueError: an unknown split, or examples of another shape than earlier ones; at compute, a split without examples,
            or test examples of which half stand in the training set.
    """

    full_state_update = False
    train_examples: list[Tensor]
    test_examples: list[Tensor]
    generated_examples: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for split in get_args(Split):
            self.add_state(f"{split}_examples", [], dist_reduce_fx="cat")

    def update(self, x: Tensor, real_split: Split) -> None:
        """x: (n, *data_shape); real_split: where they are from, "train", "test" or "generated"."""
        if real_split not in get_args(Split):
            raise ValueError(f"real_split={real_split!r} is unknown: write one of {', '.join(get_args(Split))}")
        for split in get_args(Split):
            for kept in getattr(self, f"{split}_examples")[-1:]:
                if kept.shape[1:] != x.shape[1:]:
                    raise ValueError(
                        f"{real_split} examples have the shape {tuple(x.shape[1:])}, {split} ones "
                        f"{tuple(kept.shape[1:])}: give all three in one shape"
                    )
        getattr(self, f"{real_split}_examples").append(x.detach())

    def examples(self, split: Split) -> Tensor:
        """All examples of a split: (n, *data_shape)."""
        kept = getattr(self, f"{split}_examples")
        if number_of(kept) == 0:
            raise ValueError(f"NearestNeighbours has no {split} examples: call update(x, {split!r})")
        return dim_zero_cat(kept)

    def nearest(self, split: Split) -> tuple[Tensor, Tensor]:
        """For each example of a split, the distance to its nearest training example and that example's index: (n,) each."""
        x, train = (self.examples(name).flatten(1).double() for name in (split, "train"))
        indices = torch.cat([distances.argmin(1) for _, distances in distance_rows(x, train)])
        # Matrix products lose the distance of a copy, which is 0, to cancellation; the few that count are taken exactly.
        distances = [(a - train[i]).norm(dim=1) for a, i in zip(x.split(1024), indices.split(1024), strict=True)]
        return torch.cat(distances), indices

    def compute(self) -> dict[str, Tensor]:
        """The scalar "distance_ratio"."""
        generated, test = (self.nearest(split)[0].quantile(0.5) for split in ("generated", "test"))
        if test == 0:
            raise ValueError(
                "half of the test examples stand in the training set, so there is no distance to compare with: "
                "give test examples that are not among the training examples"
            )
        return {"distance_ratio": (generated / test).float()}

    def neighbours(self, number: int) -> tuple[Tensor, Tensor]:
        """For a picture: the `number` generated examples closest to a training example, the closest first.

        Returns:
            The generated examples and, in the same order, their nearest training examples: (number, *data_shape) each.
        """
        distances, indices = self.nearest("generated")
        closest = distances.argsort(stable=True)[:number]
        return self.examples("generated")[closest], self.examples("train")[indices[closest]]
