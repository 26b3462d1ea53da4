"""Pictures of sets, read back from TensorBoard: sizes, what members add, outliers."""

from __future__ import annotations

import io

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.colors import to_rgb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Digits, DigitSum, SetOutliers
from dlkit.batches import Sets
from dlkit.callbacks import SetPictures
from dlkit.callbacks.drawing import pixels
from dlkit.callbacks.set_drawing import CHOSEN, TRUE, WRONG, Row, by_size, rows_of_pictures
from dlkit.callbacks.set_pictures import first_sets, member_rows, outlier_rows

PTR = torch.tensor([0, 3, 5])


def tags(folder, method, data):
    trainer = L.Trainer(
        logger=TensorBoardLogger(folder, version=0), callbacks=[SetPictures()], enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, max_epochs=2, limit_train_batches=1,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    board = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0})
    board.Reload()
    return {
        tag: [Image.open(io.BytesIO(event.encoded_image_string)) for event in board.Images(tag)]
        for tag in board.Tags()["images"]
    }


def count(figure, colour):
    """Pixels of a colour."""
    return int((np.abs(pixels(figure) / 255 - np.array(to_rgb(colour))).max(-1) < 0.02).sum())


def regressor(**more):
    return dlkit.DeepSets((1, 8, 8), None, 1, None, hidden_dims=(8,), **more)


def outlier_finder():
    return dlkit.DeepSets((1, 8, 8), None, 0, None, "outlier", hidden_dims=(8,), equivariant_dims=(4,))


SETTINGS = {"num_examples": 64, "val_size": 24}


def test_sums_of_pictures_have_two_pictures_of_each_validation(tmp_path):
    found = tags(tmp_path, regressor(), DigitSum("digits", test_sizes=(3, 20), **SETTINGS))
    assert {tag: len(pictures) for tag, pictures in found.items()} == {"by_size": 2, "members": 2}


def test_members_whose_law_is_learned_are_shown_too(tmp_path):
    method = dlkit.AggregateSum((1, 8, 8), 10, hidden_dims=(8,))
    assert set(tags(tmp_path, method, DigitSum("digits", test_sizes=(3, 20), **SETTINGS))) == {"by_size", "members"}


def test_symbols_have_no_members_to_show_nor_those_that_are_not_summed(tmp_path):
    symbols = dlkit.DeepSets((), 11, 1, None, hidden_dims=(4,))
    assert set(tags(tmp_path / "a", symbols, DigitSum(test_sizes=(3, 20), **SETTINGS))) == {"by_size"}
    maxima = regressor(pooling="max")
    assert set(tags(tmp_path / "b", maxima, DigitSum("digits", test_sizes=(3, 20), **SETTINGS))) == {"by_size"}


def test_outliers_of_one_size_have_one(tmp_path):
    assert set(tags(tmp_path, outlier_finder(), SetOutliers(set_size=5, **SETTINGS))) == {"outliers"}


def test_the_rows_of_sums_say_what_each_member_adds_and_where_it_is_wrong():
    class Bright(dlkit.DeepSets):
        """Takes each picture for ten times its mean."""

        def predict(self, x, ptr):
            return torch.stack([part.sum() for part in self.contributions(x, ptr).split(ptr.diff().tolist())]).unsqueeze(1)

        def contributions(self, x, ptr):
            return 10 * x.flatten(1).mean(1, keepdim=True)

    x = torch.tensor([0.1, 0.2, 0.31, 0.5, 0.46]).view(5, 1, 1, 1).expand(-1, 1, 8, 8)
    batch = Sets(x, PTR, torch.tensor([[6.0], [9.0]]), torch.tensor([1, 2, 3, 5, 4]))
    first, second = member_rows(Bright((1, 8, 8), None, 1, None), batch)
    assert first.texts == ["1.00", "2.00", "3.10"] and first.framed == ["", "", ""]
    assert first.right and first.caption == "6\npredicted 6.10"
    assert second.framed == ["", WRONG] and not second.right
    unknown = member_rows(Bright((1, 8, 8), None, 1, None), batch._replace(member_y=None))
    assert all(row.framed == [""] * len(row.texts) for row in unknown)


def test_the_rows_of_outliers_frame_the_odd_one_and_mark_the_chosen_one():
    class Brightest(dlkit.DeepSets):
        def predict(self, x, ptr):
            return x.flatten(1).mean(1)

    x = torch.tensor([0.1, 0.7, 0.2, 0.996, 0.004]).view(5, 1, 1, 1).expand(-1, 1, 8, 8)
    method = Brightest((1, 8, 8), None, 0, None, "outlier", equivariant_dims=(2,))
    first, second = outlier_rows(method, Sets(x, PTR, torch.tensor([1, 1])))
    assert (first.framed, first.marked, first.right) == (["", TRUE, ""], 1, True)
    assert (second.framed, second.marked, second.right) == (["", TRUE], 0, False)
    assert first.texts == ["10", "70", "20"] and second.texts == ["100", ""]


def test_a_frame_and_a_mark_are_seen():
    pictures = torch.full((3, 1, 8, 8), 0.5)
    plain = Row(pictures, ["", "", ""], ["", "", ""], None, "set", True)
    assert count(rows_of_pictures([plain], "title"), TRUE) == 0
    long = rows_of_pictures([plain], "what each member adds to the prediction; framed where it is another number than that")
    long.canvas.draw()
    box, size = long.axes[0].title.get_window_extent(), long.get_size_inches() * long.dpi
    assert 0 <= box.x0 < box.x1 <= size[0] and 0 <= box.y0 < box.y1 <= size[1]
    assert count(rows_of_pictures([plain._replace(framed=["", TRUE, ""])], "title"), TRUE) > 100
    assert count(rows_of_pictures([plain._replace(marked=2)], "title"), CHOSEN) > 100
    assert count(rows_of_pictures([plain], "title"), WRONG) == 0
    assert count(rows_of_pictures([plain._replace(right=False)], "title"), WRONG) > 0


def test_the_sizes_of_training_sets_are_shaded_where_they_are_known():
    found = {"size": np.array([5, 50]), "exact": np.array([1.0, 0.5]), "mae": np.array([0.0, 0.7])}
    known, unknown = by_size(found, 10), by_size(found, None)
    grey = (0.9, 0.9, 0.9)
    assert count(known, grey) > count(unknown, grey) + 1000
    assert len(known.axes) == 2
    assert len(by_size({"size": found["size"], "accuracy": found["exact"]}, None).axes) == 1


def test_the_first_sets_of_a_batch_are_whole():
    batch = Sets(torch.arange(5.0), PTR, torch.tensor([7, 8]), torch.arange(5))
    first = first_sets(batch, 1)
    assert first.x.tolist() == [0, 1, 2] and first.ptr.tolist() == [0, 3] and first.y.tolist() == [7]
    assert len(first_sets(batch, 9).x) == 5


def test_a_method_of_other_data_is_refused():
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[SetPictures()], max_epochs=1)
    with pytest.raises(ValueError, match=r"Classifier predicts nothing from sets: leave dlkit\.callbacks\.SetPictures out"):
        trainer.fit(dlkit.Classifier((1, 8, 8), 10), datamodule=Digits())
