"""Classifier: logistic regression and neural networks trained by cross entropy.

    p(y = c | x) = softmax(h(x))_c,      L = -(1/N) sum_n log p(y_n | x_n)

From logistic regression (h linear) to a convolutional network: the course's first lecture. Besides being a method of
its own it serves as the judge and the feature extractor for generated images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from dlkit.ability import ability
from dlkit.batches import Examples
from dlkit.checks import check_examples, check_labels
from dlkit.functional.precision import single_or_better
from dlkit.method import Method, Schedule, Terms
from dlkit.nn.classifiers import ClassifierNetwork, ClassifierNetworkName, build_classifier


class Classifier(Method):
    """A classifier of examples of one fixed shape.

    Records the cross entropy in nats, the accuracy, and in evaluation the expected calibration error with 15 bins
    (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Args:
        data_shape: shape of one example, without the batch.
        num_classes: how many classes.
        network: "logistic", "mlp" or "cnn": see `dlkit.nn.classifiers.build_classifier`.
        hidden_dims: widths of the MLP's hidden layers.
        width: channels of the CNN's first block.
        dropout: probability of zeroing a hidden unit.
        label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, arXiv:1512.00567);
            the loss that evaluation records is never smoothed.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a network that cannot read the shape; labels missing or out of range.
    """

    reads = Examples

    compiled_networks = ("network",)

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_classes: int,
        network: ClassifierNetworkName = "mlp",
        hidden_dims: tuple[int, ...] = (256, 256),
        width: int = 32,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_classes is None or num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: a classifier needs data with at least 2 classes")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is outside [0, 1)")
        self.data_shape = tuple(data_shape)
        self.num_classes = num_classes
        self.network_name: ClassifierNetworkName = network
        self.hidden_dims: Sequence[int] = hidden_dims
        self.width = width
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.network = self.build_network()
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.calibration = MulticlassCalibrationError(num_classes, n_bins=15)

    def build_network(self) -> ClassifierNetwork:
        """The network h: (batch, *data_shape) -> logits (batch, num_classes)."""
        return build_classifier(
            self.network_name, self.data_shape, self.num_classes, self.hidden_dims, self.width, self.dropout
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, in single precision or better: (batch, *data_shape) -> (batch, num_classes)."""
        check_examples(x, self.data_shape, "Classifier")
        return single_or_better(self.network(x.to(self.dtype)))

    def loss(self, batch: Examples) -> tuple[Tensor, Terms]:
        y = check_labels(batch.y, self.num_classes, "Classifier")
        logits = self(batch.x)
        smoothing = self.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
        return loss, {"accuracy": (logits.argmax(1) == y).float().mean()}

    def evaluation_step(self, stage: str, batch: Examples) -> None:
        y = check_labels(batch.y, self.num_classes, "Classifier")
        logits = self(batch.x)
        self.record(stage, {"loss": F.cross_entropy(logits, y)}, batch)
        probabilities = logits.softmax(1)
        self.accuracy.update(probabilities, y)
        self.calibration.update(probabilities, y)
        self.log(f"{stage}/accuracy", self.accuracy, on_epoch=True, on_step=False)
        self.log(f"{stage}/calibration_error", self.calibration, on_epoch=True, on_step=False)

    @ability
    def classify(self, x: Tensor) -> Tensor:
        """Class probabilities: (batch, *data_shape) -> (batch, num_classes)."""
        return self(x).softmax(1)

    @ability
    def features(self, x: Tensor) -> Tensor:
        """What the last linear layer sees: (batch, *data_shape) -> (batch, num_features)."""
        check_examples(x, self.data_shape, "Classifier")
        return self.network.features(x.to(self.dtype))

    @ability
    def predict(self, x: Tensor) -> Tensor:
        """The most probable class: (batch, *data_shape) -> (batch,), int64."""
        return torch.argmax(self(x), 1)
