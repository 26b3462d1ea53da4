"""SetPictures: how a method does with sets of each size, what it takes each member for, and which it takes for the odd one."""

from __future__ import annotations

import lightning as L
import torch

from dlkit.batches import Sets
from dlkit.callbacks.drawing import is_image
from dlkit.callbacks.first_examples import FirstBatches, in_training
from dlkit.callbacks.set_drawing import TRUE, WRONG, Row, by_size, rows_of_pictures
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import AddsMembers, MeasuresBySize, PredictsFromSets, TrainedOnSizes

ROWS = 8


class SetPictures(FirstBatches):
    """Draws after each validation of a method of sets

    - `by_size`, where there were sets of several sizes: the share of right answers, or the error, against the size;
    - `members`, of pictures that are summed: what each member is taken for in the sum, framed where this, rounded, is not what
      the data says of it;
    - `outliers`, of pictures one of which is the odd one: this one framed, and the chosen one underlined.

    Raises:
        ValueError: a method that predicts nothing from sets.
    """

    most = ROWS
    kind = Sets

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, PredictsFromSets):
            raise ValueError(f"{type(pl_module).__name__} predicts nothing from sets: leave dlkit.callbacks.SetPictures out")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board, batches, method = writer(trainer), self.take_batches(), pl_module
        if not in_training(trainer):
            return
        # In every process, because it adds up what they have seen.
        measured = method.by_size() if isinstance(method, MeasuresBySize) else None
        if board is None:
            return
        step = steps_done(trainer)
        if measured is not None:
            found = {name: values.cpu().numpy() for name, values in measured.items()}
            if len(found["size"]) > 1:
                data = getattr(trainer, "datamodule", None)
                largest = data.max_size if isinstance(data, TrainedOnSizes) else None
                board.add_figure("by_size", by_size(found, largest), step)
        if not batches or not isinstance(method, PredictsFromSets) or not is_image(method.data_shape):
            return
        batch = first_sets(batches[0], ROWS)
        if method.task == "outlier":
            title = "outliers: the odd one is framed, the chosen one underlined, probabilities in %"
            board.add_figure("outliers", rows_of_pictures(outlier_rows(method, batch), title), step)
        elif isinstance(method, AddsMembers) and method.additive and batch.y.dim() == 2 and batch.y.shape[1] == 1:
            title = "what each member is taken for; framed where it is another number than the member's"
            board.add_figure("members", rows_of_pictures(member_rows(method, batch), title), step)


def first_sets(batch: Sets, number: int) -> Sets:
    """The first sets of a batch."""
    ptr = batch.ptr[: number + 1]
    end = int(ptr[-1])
    return Sets(batch.x[:end], ptr, batch.y[:number], None if batch.member_y is None else batch.member_y[:end])


def outlier_rows(method: PredictsFromSets, batch: Sets) -> list[Row]:
    """What is drawn of sets with an odd one."""
    sizes = batch.ptr.diff().tolist()
    probabilities = method.predict(batch.x, batch.ptr).float().cpu().split(sizes)
    rows = []
    for pictures, p, odd in zip(batch.x.cpu().split(sizes), probabilities, batch.y.tolist(), strict=True):
        chosen = int(p.argmax())
        texts = [f"{100 * share:.0f}" if share >= 0.005 else "" for share in p.tolist()]
        framed = [TRUE if place == odd else "" for place in range(len(p))]
        rows.append(Row(pictures, texts, framed, chosen, "found" if chosen == odd else "not found", chosen == odd))
    return rows


def member_rows(method: AddsMembers, batch: Sets) -> list[Row]:
    """What is drawn of sets that are summed."""
    sizes = batch.ptr.diff().tolist()
    predicted = method.predict(batch.x, batch.ptr).squeeze(1).tolist()
    added = method.contributions(batch.x, batch.ptr).squeeze(1).cpu()
    wrong = torch.zeros(len(added), dtype=torch.bool)
    if batch.member_y is not None:
        wrong = added.round() != batch.member_y.cpu()
    columns = (batch.x.cpu().split(sizes), added.split(sizes), wrong.split(sizes), predicted, batch.y.squeeze(1).tolist())
    rows = []
    for pictures, parts, mistaken, prediction, target in zip(*columns, strict=True):
        framed = [WRONG if mistake else "" for mistake in mistaken.tolist()]
        caption = f"{target:g}\npredicted {prediction:.2f}"
        rows.append(
            Row(pictures, [f"{part:.2f}" for part in parts.tolist()], framed, None, caption, round(prediction) == target)
        )
    return rows
