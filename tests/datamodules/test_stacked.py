"""StackedDigits: each channel is an image of the digit its label says, and test images stay in the test part."""

from __future__ import annotations

import lightning as L
import pooch
import pytest
import torch

from datamodules import MNIST, Digits, StackedDigits
from datamodules.stacked import NUM_TEST


def ready(**arguments):
    data = StackedDigits(**arguments)
    data.setup()
    return data


@pytest.fixture(scope="module")
def stacked():
    return ready()


def channels(y):
    """The digits (batch, 3) of modes (batch,)."""
    return torch.stack([y // 100, y // 10 % 10, y % 10], dim=1)


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("val", "train"), ("test", "test")])
def test_every_channel_is_an_image_of_its_digit_from_the_right_part(stacked, split, part):
    """No image is in both parts of scikit-learn's digits, so that pictures of the one hold none of the other."""
    x, y = Digits().load()[part]
    digit = {picture.numpy().tobytes(): int(label) for picture, label in zip(x, y, strict=True)}
    other = Digits().load()["test" if part == "train" else "train"].x
    assert not digit.keys() & {picture.numpy().tobytes() for picture in other}
    for _, batch in zip(range(20), stacked.batches(split), strict=False):
        levels = (batch.x * 16).to(torch.uint8)
        assert torch.equal(levels / 16, batch.x)
        found = [[digit[channel.numpy().tobytes()] for channel in picture] for picture in levels]
        assert found == channels(batch.y).tolist()


def test_no_split_draws_an_image_of_another_part(stacked):
    num_train = len(Digits().load()["train"].x)
    for split in ("train", "val"):
        assert stacked.splits[split].x.max() < num_train
    assert stacked.splits["test"].x.min() >= num_train
    assert len(stacked.images) == 1797


def test_sizes_shapes_and_types(stacked):
    assert {name: len(part.x) for name, part in stacked.splits.items()} == {"train": 95_000, "val": 5000, "test": NUM_TEST}
    batch = next(stacked.batches("train"))
    assert batch.x.shape == (64, *stacked.data_shape) == (64, 3, 8, 8)
    assert batch.x.dtype == torch.float32
    assert batch.x.min() == 0
    assert batch.x.max() == 1
    assert batch.y.dtype == torch.int64
    assert stacked.num_classes == stacked.num_modes == len(stacked.class_names) == 1000
    assert stacked.class_names[307] == "307"
    assert stacked.num_levels == 17


def test_pictures_are_not_held_in_memory(stacked):
    assert stacked.images.dtype == torch.uint8
    for part in stacked.splits.values():
        assert part.x.shape[1:] == (3,)


def test_the_digits_of_the_channels_are_independent(stacked):
    """Pearson's statistic of the 1000 modes against the product of the source's shares, in its standard deviations."""
    for split, part in (("train", "train"), ("test", "test")):
        share = Digits().load()[part].y.bincount().double()
        share = share / share.sum()
        y = stacked.splits[split].y
        expected = len(y) * torch.einsum("a,b,c->abc", share, share, share).flatten()
        statistic = ((y.bincount(minlength=1000) - expected).square() / expected).sum()
        assert abs(statistic - 999) < 5 * (2 * 999) ** 0.5


def test_all_modes_are_in_the_training_and_the_test_part(stacked):
    for split in ("train", "test"):
        assert len(stacked.splits[split].y.unique()) == 1000


def test_the_pictures_come_from_the_split_seed_alone():
    splits = []
    for global_seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        splits.append(ready(split_seed=split_seed, num_examples=1000, val_size=100).splits)
    for name in ("train", "val", "test"):
        assert torch.equal(splits[0][name].x, splits[1][name].x)
        assert not torch.equal(splits[0][name].x, splits[2][name].x)


def test_the_test_part_does_not_depend_on_the_number_of_examples(stacked):
    assert torch.equal(ready(num_examples=10, val_size=0).splits["test"].x, stacked.splits["test"].x)


def test_the_parts_are_independent_draws():
    """The red digits of the two parts agree as often as those of strangers: once in ten, the classes being almost equal."""
    splits = ready(num_examples=NUM_TEST, val_size=0).splits
    agree = (splits["train"].y // 100 == splits["test"].y // 100).double().mean()
    assert abs(agree - 0.1) < 0.02


def test_under_a_trainer_pictures_arrive():
    class Probe(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen = []

        def training_step(self, batch, batch_idx):
            self.seen.append(batch)
            return self.weight * batch.x.mean()

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    probe, data = Probe(), ready(num_examples=256, val_size=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(probe, datamodule=data)
    for batch, other in zip(probe.seen, data.batches("train"), strict=True):
        assert torch.equal(batch.x, other.x)
        assert torch.equal(batch.y, other.y)


# One channel ---------------------------------------------------------------------------------------------------------


def test_one_channel_is_the_digits(stacked):
    single = stacked.single()
    assert isinstance(single, Digits)
    assert single.data_shape == (1, *stacked.data_shape[1:])
    batch = next(single.batches("test"))
    assert batch.x.shape[1:] == single.data_shape
    assert batch.y.max() < single.num_classes == 10


# MNIST ---------------------------------------------------------------------------------------------------------------


def test_mnist_is_padded_and_stacked(mnist_root):
    stacked = ready(source="mnist", root=mnist_root, num_examples=2000, val_size=500)
    assert stacked.images.shape == (70_000, 32, 32)
    assert stacked.num_levels == 256
    parts = MNIST(mnist_root).load()
    x, y = (torch.cat([parts[part][field] for part in ("train", "test")]) for field in (0, 1))
    for split, first, last in (("train", 0, 59_999), ("val", 0, 59_999), ("test", 60_000, 69_999)):
        triples = stacked.splits[split].x
        assert triples.min() >= first
        assert triples.max() <= last
        assert torch.equal(y[triples], channels(stacked.splits[split].y))
    batch = next(stacked.batches("test"))
    assert batch.x.shape == (64, *stacked.data_shape) == (64, 3, 32, 32)
    assert torch.equal(batch.x[:, :, 2:-2, 2:-2], x[stacked.splits["test"].x[:64], 0] / 255)
    assert batch.x.count_nonzero() == batch.x[:, :, 2:-2, 2:-2].count_nonzero()


def test_one_channel_of_mnist_is_padded(mnist_root):
    single = StackedDigits("mnist", root=mnist_root).single()
    assert isinstance(single, MNIST)
    batch = next(single.batches("test"))
    assert batch.x.shape[1:] == single.data_shape == (1, 32, 32)
    assert batch.x.max() == 1
    assert batch.y[:5].tolist() == [7, 2, 1, 0, 4]


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "letters"}, "unknown source 'letters': use 'digits' or 'mnist'"),
        ({"num_examples": 0}, "num_examples=0: give at least 1"),
        ({"val_size": -1}, "val_size=-1: give 0 or more examples"),
        ({"num_examples": 5000}, "val_size=5000 leaves nothing of the 5000 training examples: lower it"),
    ],
)
def test_impossible_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ready(**arguments)


@pytest.mark.parametrize("method", ["prepare_data", "setup"])
def test_missing_files_are_named(tmp_path, monkeypatch, method):
    def retrieve(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(FileNotFoundError, match=r"^train-images-idx3-ubyte.gz is neither in \S+mnist nor could it be"):
        getattr(StackedDigits("mnist", root=str(tmp_path)), method)()
