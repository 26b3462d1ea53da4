"""Supervised: the base of methods that predict targets, or a class, from sets or graphs.

    regression      L = mean over known targets of (f(x) - (y - mean) / std)^2, or of the absolute value
    classification  L = -mean log softmax(f(x))_y

The mean and the standard deviation are those of the training part; they are hyperparameters, so a checkpoint has them. What
is predicted and what is measured is in the data's own units.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from dlkit.checks import check_labels
from dlkit.method import Method, Terms
from dlkit.metrics.auc import AUC
from dlkit.metrics.target_errors import TargetErrors

Task = Literal["regression", "classification"]
Objective = Literal["mse", "mae"]


class Supervised(Method):
    """Heads, losses and measures of both tasks. A subclass gives `forward(batch) -> outputs`, (examples, num_outputs).

    Records the loss; of classes the accuracy, and in evaluation the area under the ROC curve where there are two; in evaluation
    of targets `mae` and `rmse`, means over the targets, and those of each where there are several.

    Several processes share a batch out and take the mean of their losses: each of its own known targets.

    Args:
        task: "regression" or "classification".
        num_targets: of "regression".
        num_classes: of "classification".
        target_mean, target_std: of each target, of the training part; empty for 0 and 1.
        target_names: of each target, for the names of its errors; empty for numbers.
        objective: of "regression", "mse" or "mae".

    Attributes:
        tasks: which there are; a subclass that adds one of its own gives that one's loss and measures.
        num_outputs: how many numbers the network gives for an example.

    Raises:
        ValueError: an unknown task, no targets or classes, as many means as there are no targets.
    """

    taken_from_data = ("vocab_size", "num_targets", "num_classes")
    tasks: tuple[str, ...] = ("regression", "classification")
    target_names: tuple[str, ...] = ()
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        task: str,
        num_targets: int,
        num_classes: int | None,
        target_mean: tuple[float, ...] = (),
        target_std: tuple[float, ...] = (),
        target_names: tuple[str, ...] = (),
        objective: Objective = "mse",
    ) -> None:
        super().__init__()
        if task not in self.tasks:
            raise ValueError(f"unknown task {task!r}: use {' or '.join(map(repr, self.tasks))}")
        if objective not in ("mse", "mae"):
            raise ValueError(f"unknown objective {objective!r}: use 'mse' or 'mae'")
        self.task = task
        self.objective: Objective = objective
        self.num_classes = num_classes
        if task == "classification":
            if not num_classes or num_classes < 2:
                raise ValueError(f"num_classes={num_classes}: a classifier needs data with at least 2 classes")
            self.num_outputs = num_classes
            self.accuracy = MulticlassAccuracy(num_classes, average="micro")
            if num_classes == 2:
                self.auc = AUC()
        if task != "regression":
            return
        if num_targets < 1:
            raise ValueError(f"num_targets={num_targets}: a regression needs data with at least 1 target")
        for name, values in (("target_mean", target_mean), ("target_std", target_std), ("target_names", target_names)):
            if values and len(values) != num_targets:
                raise ValueError(f"{name} has {len(values)} entries and there are {num_targets} targets: give one for each")
        if any(not std > 0 for std in target_std):
            raise ValueError(f"target_std={tuple(target_std)}: a target that is the same everywhere cannot be learned: drop it")
        self.num_outputs = num_targets
        self.target_names = tuple(target_names) or tuple(map(str, range(num_targets)))
        # Hyperparameters hold them for the checkpoint.
        self.register_buffer("target_mean", torch.tensor(target_mean or [0.0] * num_targets), persistent=False)
        self.register_buffer("target_std", torch.tensor(target_std or [1.0] * num_targets), persistent=False)
        self.errors = TargetErrors(num_targets)

    def loss(self, batch: Any) -> tuple[Tensor, Terms]:
        outputs = self(batch)
        return self.loss_of(outputs, self.check_targets(batch.y, len(outputs)))

    def batch_size(self, batch: Any) -> int:
        """As many as have a target."""
        return len(batch.y)

    def loss_of(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """The loss of the network's outputs (examples, num_outputs)."""
        outputs = outputs.float()
        if self.task == "classification":
            return F.cross_entropy(outputs, y), {"accuracy": (outputs.argmax(1) == y).float().mean()}
        known = ~y.isnan()
        error = outputs - torch.where(known, (y - self.target_mean) / self.target_std, outputs.detach())
        size = error.square() if self.objective == "mse" else error.abs()
        return size.sum() / known.sum().clamp(min=1), {}

    def check_targets(self, y: Tensor, examples: int) -> Tensor:
        """Refuses targets of another kind or number than the method was built for.

        Raises:
            ValueError: naming both shapes.
        """
        if self.task == "classification":
            assert self.num_classes is not None
            return check_labels(y, self.num_classes, type(self).__name__)
        if tuple(y.shape) != (examples, self.num_outputs):
            raise ValueError(
                f"{type(self).__name__} predicts targets of shape {(examples, self.num_outputs)} and the batch has "
                f"{tuple(y.shape)}: set num_targets to the data's"
            )
        return y

    def predictions(self, outputs: Tensor) -> Tensor:
        """Targets in their units, (examples, targets), or the classes' probabilities, (examples, classes)."""
        outputs = outputs.float()
        return outputs.softmax(1) if self.task == "classification" else outputs * self.target_std + self.target_mean

    def evaluation_step(self, stage: str, batch: Any) -> None:
        outputs = self(batch)
        y = self.check_targets(batch.y, len(outputs))
        # The mean of a pass is over known targets, too.
        weight = len(y) if self.task == "classification" else int((~y.isnan()).sum())
        loss = self.loss_of(outputs, y)[0]
        self.record(stage, {"loss": loss}, batch, weight)
        self.measure(stage, self.predictions(outputs), y, batch)

    def measure(self, stage: str, predicted: Tensor, y: Tensor, batch: Any) -> None:
        """Adds a batch to the measures of an evaluation; override it to measure more.

        Args:
            stage: "val" or "test".
            predicted: as `predictions` gives it.
            y: as `check_targets` gives it.
            batch: what they belong to.
        """
        if self.task == "regression":
            self.errors.update(predicted, y)
            return
        self.accuracy.update(predicted, y)
        self.log(f"{stage}/accuracy", self.accuracy, on_epoch=True, on_step=False)
        if self.num_classes == 2:
            self.auc.update(predicted[:, 1], y)
            self.log(f"{stage}/auc", self.auc, on_epoch=True, on_step=False)

    def on_validation_epoch_start(self) -> None:
        self.forget()

    def on_test_epoch_start(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forgets what a pass that broke off has measured."""
        if self.task == "regression":
            self.errors.reset()

    def on_validation_epoch_end(self) -> None:
        self.summarize("val")

    def on_test_epoch_end(self) -> None:
        self.summarize("test")

    def summarize(self, stage: str) -> None:
        """Records the errors of a whole pass, in the targets' units."""
        if self.task != "regression":
            return
        for name, values in self.errors.compute().items():
            values = values.float().reshape(-1)  # torchmetrics takes the only entry of a vector for a scalar
            self.log(f"{stage}/{name}", values.nanmean())
            if len(values) > 1:
                for target, value in zip(self.target_names, values, strict=True):
                    self.log(f"{stage}/{name}_{target}", value)
