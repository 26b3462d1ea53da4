"""Predictions: what a method predicts of sets or graphs, beside the truth."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dlkit.batches import Graphs, Sets
from dlkit.callbacks import drawing, target_drawing
from dlkit.callbacks.first_examples import FirstBatches
from dlkit.callbacks.summary import steps_done, writer
from dlkit.graphs.inputs import as_graphs
from dlkit.protocols import KnownMolecules, PredictsTargets

MOLECULES = 8  # of the least errors, and as many of the greatest


class Predictions(FirstBatches):
    """Draws after each validation what is predicted of its first `Sets` or `Graphs`, torch-geometric's too, a few thousand.

    `predictions`: predicted against true values, for each target in its units, or the confusion of classes. Of molecules, whose
    data have `smiles`, there are also `molecules/best` and `molecules/worst`: those of the least and of the greatest error,
    which of several targets is the greatest among them, in standard deviations of each; the numbers below are of that target.

    Raises:
        ValueError: a method that predicts no targets.
    """

    most = 4000
    kind = (Graphs, Sets)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, PredictsTargets):
            raise ValueError(f"{type(pl_module).__name__} predicts no targets: leave dlkit.callbacks.Predictions out")

    def known(self, batch: Any) -> Any:
        return as_graphs(batch) if hasattr(batch, "edge_index") else batch

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board, batches, method = writer(trainer), self.take_batches(), pl_module
        if board is None or not batches or not isinstance(method, PredictsTargets):
            return
        predicted = torch.cat([method.predictions(method(batch)) for batch in batches]).float().cpu()
        y, step = torch.cat([batch.y for batch in batches]).cpu(), steps_done(trainer)
        if method.task == "classification":
            names = tuple(getattr(trainer.datamodule, "class_names", ())) or tuple(map(str, range(predicted.shape[1])))  # pyright: ignore[reportAttributeAccessIssue]
            board.add_figure("predictions", drawing.confusion_matrix(predicted.numpy(), y.numpy(), list(names)), step)
            return
        if method.task != "regression":
            return
        board.add_figure("predictions", target_drawing.against_truth(predicted.numpy(), y.numpy(), method.target_names), step)
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, KnownMolecules) or trainer.world_size > 1:  # whose processes share the molecules out
            return
        for which, (rows, legends) in extremes(predicted, y).items():
            picture = target_drawing.molecules([data.smiles["val"][row] for row in rows], legends)
            if picture is not None:
                board.add_image(f"molecules/{which}", picture, step, dataformats="HWC")


def extremes(predicted: Tensor, y: Tensor) -> dict[str, tuple[list[int], list[str]]]:
    """Of the least and the greatest errors: which examples they are, and what is to be said of each.

    Args:
        predicted, y: (examples, targets), NaN in y where one is missing.
    """
    spread = (y - y.nanmean(0)).square().nanmean(0).sqrt()
    size = ((predicted - y).abs() / spread.clamp(min=1e-12)).nan_to_num(-1)
    greatest, target = size.max(1)
    order = greatest.argsort()
    order = order[greatest[order] >= 0]  # at least one target is known
    number = min(MOLECULES, len(order) // 2)
    found = {}
    for which, rows in (("best", order[:number]), ("worst", order.flip(0)[:number])):
        pairs = [(float(y[row, target[row]]), float(predicted[row, target[row]])) for row in rows]
        if pairs:
            found[which] = rows.tolist(), [f"true {true:.2f}, predicted {guess:.2f}" for true, guess in pairs]
    return found
