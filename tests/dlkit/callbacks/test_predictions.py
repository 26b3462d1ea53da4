"""Predictions beside the truth: what is drawn, of which examples, and that it disturbs nothing."""

from __future__ import annotations

import io

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import dlkit
from datamodules import Digits, Rings, SmilesCSV
from dlkit.callbacks import Predictions
from dlkit.callbacks.drawing import pixels
from dlkit.callbacks.predictions import extremes
from dlkit.callbacks.target_drawing import against_truth


def run(folder, method, data, *callbacks):
    trainer = L.Trainer(
        logger=TensorBoardLogger(folder, version=0), callbacks=list(callbacks), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu", max_epochs=1,
        limit_train_batches=2,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0}).Reload()


def picture(board, tag):
    with Image.open(io.BytesIO(board.Images(tag)[-1].encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


def molecules(folder, number=40):
    path = folder / "m.csv"
    lines = [f"{'C' * (row % 9 + 1)}{'O' if row % 2 else 'N'},{row}" for row in range(number)]
    path.write_text("\n".join(["smiles,y", *lines]) + "\n")
    return SmilesCSV(str(path), target_columns=("y",), val_size=0.4)


def mpnn_of(data, **more):
    settings = {"target_mean": data.target_mean, "target_std": data.target_std, "target_names": data.target_names}
    return dlkit.MPNN(data.node_features, data.edge_features, data.num_targets, data.num_classes, **settings, **more)


def test_molecules_are_drawn_with_their_errors(tmp_path):
    data = molecules(tmp_path)
    board = run(tmp_path, mpnn_of(data, hidden_size=8), data, Predictions())
    assert {"predictions", "molecules/best", "molecules/worst"} <= set(board.Tags()["images"])
    for tag in ("predictions", "molecules/best", "molecules/worst"):
        assert picture(board, tag).std() > 5, tag
    assert not np.array_equal(picture(board, "molecules/best"), picture(board, "molecules/worst"))


def test_batches_of_torch_geometric_are_drawn_too(tmp_path):
    graphs = [
        Data(x=torch.randn(n, 2), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([float(n)])) for n in range(2, 30)
    ]
    data = L.LightningDataModule()
    data.train_dataloader = data.val_dataloader = lambda: DataLoader(graphs, batch_size=7)
    board = run(tmp_path, dlkit.MPNN(2, 0, 1, hidden_size=8), data, Predictions())
    assert picture(board, "predictions").std() > 5


def test_the_molecules_are_those_of_the_greatest_errors(tmp_path, monkeypatch):
    data, drawn = molecules(tmp_path), []
    monkeypatch.setattr(
        "dlkit.callbacks.predictions.target_drawing.molecules", lambda smiles, legends: drawn.append((smiles, legends))
    )
    method = mpnn_of(data, hidden_size=8)
    run(tmp_path, method, data, Predictions())
    batch = torch.cat([(method.predict(batch) - batch.y).abs() for batch in data.loader("val")]).squeeze(1)
    order = batch.argsort(descending=True)
    worst = [data.smiles["val"][row] for row in order[:8].tolist()]
    assert drawn[1][0] == worst
    assert all(legend.startswith("true ") and ", predicted " in legend for legend in drawn[1][1])


def test_classes_are_shown_as_a_table_of_confusion(tmp_path):
    data = Rings(rounds=1, num_examples=300, val_size=100)
    board = run(tmp_path, mpnn_of(data, task="classification", hidden_size=4), data, Predictions())
    assert "predictions" in board.Tags()["images"]
    assert not [tag for tag in board.Tags()["images"] if tag.startswith("molecules")]


def test_errors_are_compared_in_standard_deviations_and_missing_targets_left_out():
    y = torch.tensor([[0.0, 1000.0], [1.0, torch.nan], [2.0, 3000.0], [torch.nan, torch.nan], [0.0, 2000.0], [1.0, 2000.0]])
    predicted = y.nan_to_num(50) + torch.tensor([[0.1, 10.0], [3.0, 9e9], [0.0, 900.0], [9e9, 9e9], [0.0, 1.0], [0.5, 5.0]])
    found = extremes(predicted, y)
    assert found["worst"][0] == [1, 2]
    assert found["worst"][1] == ["true 1.00, predicted 4.00", "true 3000.00, predicted 3900.00"]
    assert found["best"][0] == [4, 0]
    assert extremes(predicted[3:4], y[3:4]) == {}


@pytest.mark.parametrize("targets", [1, 3, 14])
def test_figures_hold_few_and_many_targets_and_say_which_are_unknown(targets):
    y = np.random.default_rng(0).normal(size=(30, targets))
    y[:, -1] = np.nan if targets > 1 else y[:, -1]
    names = [f"target {number} in eV" for number in range(targets)]
    canvas = against_truth(y + 0.1, y, names)
    titles = [axes.get_title() for axes in canvas.axes]
    assert titles[0] == "target 0 in eV\nrmse 0.1, 30 examples"
    assert len(titles) == min(targets, 12)
    if targets == 3:
        assert titles[2] == "target 2 in eV\nno value is known"
    assert pixels(canvas).std() > 5


def test_drawing_disturbs_nothing(tmp_path):
    def train(folder, *callbacks):
        L.seed_everything(1, verbose=False)
        folder.mkdir()
        data = molecules(folder)
        method = mpnn_of(data, hidden_size=8, dropout=0.5)
        run(folder, method, data, *callbacks)
        return method.state_dict(), torch.rand(1)

    (plain, after), (drawn, later) = train(tmp_path / "a"), train(tmp_path / "b", Predictions())
    assert all(torch.equal(plain[key], drawn[key]) for key in plain) and torch.equal(after, later)


def test_what_predicts_no_targets_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Classifier predicts no targets: leave dlkit\.callbacks\.Predictions out"):
        run(tmp_path, dlkit.Classifier((1, 8, 8), 10), Digits(), Predictions())
