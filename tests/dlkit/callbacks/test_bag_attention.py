"""Attention over bags and over the patches of a large image, read back from TensorBoard."""

from __future__ import annotations

import io

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Bags, DigitBags, Digits
from dlkit.batches import Sets
from dlkit.callbacks import BagAttention, Summary
from dlkit.callbacks.bag_drawing import BAR, WITNESS, Bag, attended_bags, heat_map
from dlkit.callbacks.bags import attended, mosaic
from dlkit.callbacks.drawing import pixels


def method(pooling="attention", shape=(1, 8, 8)):
    return dlkit.AttentionMIL(shape, pooling, embedding_dim=8, attention_dim=4)


def run(folder, model, data, *callbacks, epochs=1):
    trainer = L.Trainer(
        logger=TensorBoardLogger(folder, version=0), callbacks=[*callbacks, Summary()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu", max_epochs=epochs,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    board = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0})
    board.Reload()
    return board


def batches(channels=1, known=True):
    member_y = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    x = torch.rand(10, channels, 5, 6) * 0.5 + 0.5 * member_y.view(-1, 1, 1, 1)
    return [Sets(x, torch.tensor([0, 4, 10]), torch.tensor([1, 0]), member_y if known else None)]


def count(picture, colour):
    """Pixels of a colour."""
    from matplotlib.colors import to_rgb

    return int((np.abs(picture / 255 - np.array(to_rgb(colour))).max(-1) < 0.02).sum())


def bag(weights, witness=None, positive=True):
    weights = torch.tensor(weights)
    rescaled = (weights - weights.min()) / (weights.max() - weights.min())
    known = None if witness is None else torch.tensor(witness)
    return Bag(torch.rand(len(weights), 1, 8, 8), weights, rescaled, known, positive, 0.9)


def test_bags_and_the_heat_map_are_drawn_after_each_validation(tmp_path):
    data = DigitBags(num_bags=8, val_size=30, batch_size=4)
    board = run(tmp_path, method(), data, BagAttention(), epochs=2)
    assert len(board.Images("bags")) == len(board.Images("heat_map")) == 2
    for tag in ("bags", "heat_map"):
        with Image.open(io.BytesIO(board.Images(tag)[-1].encoded_image_string)) as image:
            assert np.asarray(image.convert("RGB")).std() > 20, tag


def test_drawing_disturbs_nothing(tmp_path):
    def train(folder, *callbacks):
        L.seed_everything(1, verbose=False)
        model = method()
        run(folder, model, DigitBags(num_bags=8, val_size=10, batch_size=4), *callbacks)
        return model.state_dict(), torch.rand(1)

    (plain, after), (drawn, later) = train(tmp_path / "a"), train(tmp_path / "b", BagAttention())
    assert all(torch.equal(plain[key], drawn[key]) for key in plain) and torch.equal(after, later)


def test_a_bag_is_shown_with_what_the_method_says_of_it():
    model, (batch,) = method(shape=(1, 5, 6)), batches()
    found = attended(model, batch)
    assert [bag.positive for bag in found] == [True, False] and [len(bag.pictures) for bag in found] == [4, 6]
    assert torch.equal(torch.cat([bag.weights for bag in found]), model.attention(batch.x, batch.ptr))
    assert torch.equal(torch.cat([bag.rescaled for bag in found]), model.rescaled_attention(batch.x, batch.ptr))
    assert found[0].witness.tolist() == [True, False, False, True]
    assert [bag.probability for bag in found] == model.classify(batch.x, batch.ptr)[:, 1].tolist()
    assert attended(model, batch._replace(member_y=None))[0].witness is None


def test_witnesses_are_framed_bars_are_as_long_as_weights_and_large_bags_are_cut():
    framed, plain = (pixels(attended_bags([bag([0.1, 0.2, 0.7], witness)], 5)) for witness in ([True, False, True], None))
    assert count(framed, WITNESS) > 300 and count(plain, WITNESS) == 0
    less, more = (count(pixels(attended_bags([bag([0.0, share, 1.0])], 5)), BAR) for share in (0.0, 1.0))
    assert more == pytest.approx(2 * less, rel=0.1) and less > 100
    wide, cut = (pixels(attended_bags([bag([0.1] * 9 + [0.2])], most)).shape[1] for most in (10, 5))
    assert wide > 1.4 * cut
    wrong, right = (pixels(attended_bags([bag([0.5, 0.6], positive=positive)], 5)) for positive in (False, True))
    assert count(wrong, "tab:red") > 0 == count(right, "tab:red")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_is_one_bag_of_its_patches(channels):
    seen = batches(channels)
    image, batch = mosaic(seen)
    assert image.shape == (channels, 12 * 5, 12 * 6) and batch.ptr.tolist() == [0, 144] and batch.member_y.sum() == 6
    assert batch.member_y[:6].sum() < 6, "the witnesses are scattered"
    for place in range(144):
        row, column = divmod(place, 12)
        patch = image[:, 5 * row : 5 * row + 5, 6 * column : 6 * column + 6]
        assert torch.equal(batch.x[place], patch)
        matches = (seen[0].x == patch).flatten(1).all(1)
        assert matches.any() and seen[0].member_y[int(matches.nonzero()[0, 0])] == batch.member_y[place]
    assert torch.equal(mosaic(seen)[0], image)


def test_without_known_or_with_nothing_but_witnesses_there_is_no_large_image():
    assert mosaic(batches(known=False)) is None
    (batch,) = batches()
    for member_y in (torch.zeros(10), torch.ones(10)):
        assert mosaic([batch._replace(member_y=member_y.long())]) is None


def test_a_heat_map_shows_the_patches_that_attention_chose():
    image, batch = mosaic(batches())
    (found,) = attended(method(shape=(1, 5, 6)), batch)
    sure = found._replace(rescaled=found.witness.float(), weights=found.witness / 6)
    never = found._replace(rescaled=torch.zeros(144))
    panels = pixels(heat_map(image, sure))
    quarter = panels.shape[1] // 4
    # Attention that is right shows what the truth shows beside it.
    truth, heat = panels[60:, 2 * quarter : 3 * quarter].mean(), panels[60:, 3 * quarter :].mean()
    assert heat == pytest.approx(truth, rel=0.05)
    assert pixels(heat_map(image, never))[60:, 3 * quarter :].mean() < heat - 1


def test_methods_without_weights_and_data_that_are_no_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pooling='instance-max' gives instances no weights"):
        run(tmp_path, method("instance-max"), DigitBags(), BagAttention())
    with pytest.raises(ValueError, match=r"BagAttention shows pictures, and instances have the shape \(10,\): leave it out"):
        run(tmp_path, method(shape=(10,)), Bags(), BagAttention())
    with pytest.raises(ValueError, match=r"Classifier weighs no instances of bags: leave dlkit\.callbacks\.BagAttention out"):
        run(tmp_path, dlkit.Classifier((1, 8, 8), 10), Digits(), BagAttention())
