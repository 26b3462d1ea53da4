"""ImageData: splits, ranges, binarisation, shifts, and where files come from."""

from __future__ import annotations

import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import lightning as L
import pooch
import pytest
import torch

from datamodules import Digits
from datamodules.base import ImageData, MemoryData, bernoulli, data_root, fetch, random_deformation, random_shift
from dlkit.batches import Examples


class Numbers(ImageData):
    """Pictures of 2x6x5 bytes that begin with their own number, half of them bright."""

    data_shape = (2, 6, 5)
    num_classes = 3
    train, test = 60, 20

    def load(self):
        n = self.train + self.test
        x = torch.randint(0, 256, (n, 2, 6, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        x[:, 0, 0, 0] = torch.arange(n)
        examples = Examples(x, torch.arange(n) % 3)
        return {
            "train": Examples(*(part[: self.train] for part in examples)),
            "test": Examples(*(part[self.train :] for part in examples)),
        }


def ready(**arguments):
    data = Numbers(batch_size=8, **arguments)
    data.setup()
    return data


def numbers(examples):
    return examples.x[:, 0, 0, 0].tolist()


def together(data, split):
    """All of one pass over a split."""
    return torch.cat([batch.x for batch in data.batches(split)])


# Splits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val_size", [0, 1, 25, 59])
def test_the_splits_are_disjoint_and_complete(val_size):
    splits = ready(val_size=val_size).splits
    train, val = numbers(splits["train"]), numbers(splits["val"]) if val_size else []
    assert len(val) == val_size
    assert sorted(train + val) == list(range(60))
    assert numbers(splits["test"]) == list(range(60, 80))


def test_labels_follow_their_pictures_into_the_splits():
    for examples in ready(val_size=25).splits.values():
        assert examples.y.tolist() == [number % 3 for number in numbers(examples)]


def test_the_validation_split_comes_from_its_seed_alone():
    splits = []
    for global_seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        splits.append(numbers(ready(val_size=25, split_seed=split_seed).splits["val"]))
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]
    assert splits[0] != sorted(splits[0])


def test_the_order_of_training_comes_from_the_run_s_seed():
    data, orders = ready(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append([numbers(batch) for batch in data.train_dataloader()])
    assert orders[0] == orders[1] != orders[2]


def test_each_epoch_of_a_loop_by_hand_has_the_order_it_has_under_a_trainer():
    data = ready()
    loader = data.train_dataloader()
    for epoch in range(3):
        expected = [batch.x / 255 for batch in loader]
        for batch, other in zip(data.batches("train", epoch=epoch), expected, strict=True):
            assert torch.equal(batch.x, other)


def test_evaluation_is_in_order_and_training_is_not():
    data = ready(val_size=20)
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        assert torch.equal(torch.cat([batch.x for batch in loader]), data.splits[split].x)
    first = next(iter(data.train_dataloader()))
    assert numbers(first) != numbers(Examples(data.splits["train"].x[:8]))


def test_without_a_validation_part_there_is_no_validation():
    assert ready().val_dataloader() == []
    probe = Probe()
    fit(probe, ready())
    assert len(probe.seen["train"]) == 2 * 7
    assert probe.seen["val"] == probe.seen["sanity"] == []


def test_setup_a_second_time_changes_nothing():
    data = ready(val_size=20, binarize="static")
    before = {split: examples.x.clone() for split, examples in data.splits.items()}
    data.setup("test")
    assert all(torch.equal(before[split], data.splits[split].x) for split in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_size": 60}, "val_size=60 leaves nothing of the 60 training examples: lower it"),
        ({"val_size": -1}, "val_size=-1: give 0 or more examples"),
        ({"shift": -2}, "shift=-2: give 0 or more pixels"),
        ({"binarize": "yes"}, "unknown binarize 'yes': use 'none', 'static' or 'dynamic'"),
    ],
)
def test_impossible_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ready(**arguments)


def test_a_split_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"no split 'val', only test, train: .* make a validation split with val_size"):
        next(ready().batches("val"))


def test_a_datamodule_without_data_says_what_to_define():
    with pytest.raises(NotImplementedError, match=r"ImageData has to define load\(\)"):
        ImageData().setup()


# What a method is given ----------------------------------------------------------------------------------------------


def test_bytes_become_numbers_between_zero_and_one():
    data = ready()
    stored = data.splits["test"].x.clone()
    x = together(data, "test")
    assert x.dtype == torch.float32
    assert torch.equal((x * 255).round().to(torch.uint8), stored)
    assert x.min() == 0
    assert x.max() == 1
    assert torch.equal(data.splits["test"].x, stored)


def test_images_stay_bytes_until_they_are_prepared():
    assert next(iter(ready().train_dataloader())).x.dtype == torch.uint8


class Probe(L.LightningModule):
    """Keeps the batches it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "sanity": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch.x)
        return self.weight * batch.x.mean()

    def validation_step(self, batch, batch_idx):
        self.seen["sanity" if self.trainer.sanity_checking else "val"].append(batch.x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(method, data):
    L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(method, datamodule=data)


def test_under_a_trainer_only_training_batches_are_augmented():
    data, probe = ready(val_size=20, binarize="dynamic", shift=2), Probe()
    fit(probe, data)
    assert len(probe.seen["train"]) == 2 * 5
    val = together(data, "val")
    assert set(val.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(torch.cat(probe.seen["val"]), torch.cat([val, val]))
    assert torch.equal(torch.cat(probe.seen["sanity"]), val[:16])
    train = torch.cat(probe.seen["train"])
    assert set(train.unique().tolist()) == {0.0, 1.0}
    # A shift by up to 2 of 6x5 pixels empties, on average, a fifth of the rows and 6/25 of the columns.
    assert train.mean() < 0.7 * val.mean()


# Binarisation --------------------------------------------------------------------------------------------------------


def test_bernoulli_draws_ones_with_the_given_probability():
    probability = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    draws = bernoulli(probability.expand(100_000, 5))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    error = (probability * (1 - probability) / 100_000).sqrt()
    assert ((draws.mean(0) - probability).abs() <= 5 * error).all()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_static_binarisation_is_the_same_in_every_epoch(split):
    data = ready(val_size=20, binarize="static")

    def epoch():
        return together(data, split).flatten(1).sort(0).values  # whatever the order

    data.batch_size = 1000
    first = epoch()
    assert torch.equal(first, epoch())
    assert set(first.unique().tolist()) == {0.0, 1.0}


def test_static_binarisation_comes_from_the_split_seed_alone():
    splits = []
    for global_seed, split_seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        splits.append(ready(binarize="static", split_seed=split_seed).splits["train"].x)
    assert torch.equal(splits[0], splits[1])
    assert not torch.equal(splits[0], splits[2])


@pytest.mark.slow
def test_static_binarisation_is_the_same_in_every_process(start, tmp_path):
    (tmp_path / "other.py").write_text(
        "import hashlib, torch; from datamodules import Digits; torch.manual_seed(9); "
        "data = Digits(binarize='static'); data.setup(); "
        "print([hashlib.md5(data.splits[name].x.numpy().tobytes()).hexdigest() for name in ('train', 'val', 'test')])"
    )
    other = start(tmp_path / "other.py", tmp_path)
    data = Digits(binarize="static")
    data.setup()
    own = [hashlib.md5(data.splits[name].x.numpy().tobytes()).hexdigest() for name in ("train", "val", "test")]
    assert other.stdout.strip() == str(own)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_static_binarisation_has_the_right_mean(split):
    probability = Digits()
    probability.setup()
    binary = Digits(binarize="static")
    binary.setup()
    p = probability.splits[split].x.double() / 16
    b = binary.splits[split].x.double() / 16
    assert set(b.unique().tolist()) == {0.0, 1.0}
    assert (b[p == 0] == 0).all()
    assert (b[p == 1] == 1).all()
    assert abs(b.mean() - p.mean()) < 5 * (p * (1 - p)).sum().sqrt() / p.numel()
    for level in (0.25, 0.5, 0.75):
        chosen = b[p == level]
        assert abs(chosen.mean() - level) < 5 * (level * (1 - level) / len(chosen)) ** 0.5


def test_the_splits_are_binarised_by_different_noise():
    """Equal pictures in two splits must not come out as equal pictures."""
    splits = ready(val_size=30, binarize="static")
    grey = torch.full((20, 2, 6, 5), 128, dtype=torch.uint8)
    splits.splits = {}
    splits.load = lambda: {"train": Examples(grey.repeat(3, 1, 1, 1)), "test": Examples(grey)}
    splits.setup()
    train, val, test = (splits.splits[name].x[:20] for name in ("train", "val", "test"))
    assert not torch.equal(train, val)
    assert not torch.equal(train, test)
    assert not torch.equal(val, test)


def test_dynamic_binarisation_draws_training_anew_and_keeps_evaluation():
    dynamic, static = ready(val_size=20, binarize="dynamic"), ready(val_size=20, binarize="static")
    for split in ("val", "test"):
        assert torch.equal(together(dynamic, split), together(static, split))
    dynamic.batch_size = 40
    first, second = together(dynamic, "train"), together(dynamic, "train")  # in the same order
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    assert dynamic.splits["train"].x.unique().numel() > 100  # what lies in memory stays grey


def test_dynamic_binarisation_averages_to_the_picture():
    data = ready(binarize="dynamic")
    batch = Examples(data.splits["train"].x[:4])
    mean = torch.stack([data.prepare(batch, training=True).x for _ in range(4000)]).mean(0)
    p = batch.x / 255
    assert ((mean - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt() + 1e-6).all()


# Shifts --------------------------------------------------------------------------------------------------------------


def candidates(picture, shift):
    """The picture moved by every whole number of pixels: {(down, right): moved}."""
    _, height, width = picture.shape
    moved = {}
    for down in range(-shift, shift + 1):
        for right in range(-shift, shift + 1):
            canvas = torch.zeros_like(picture)
            rows, columns = range(max(0, down), min(height, height + down)), range(max(0, right), min(width, width + right))
            for row in rows:
                for column in columns:
                    canvas[:, row, column] = picture[:, row - down, column - right]
            moved[down, right] = canvas
    return moved


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 7)], ids=str)
@pytest.mark.parametrize("shift", [1, 2])
def test_each_picture_is_moved_by_whole_pixels_all_channels_together(shape, shift):
    x = torch.rand(50, *shape)
    found = []
    for picture, moved in zip(x, random_shift(x, shift), strict=True):
        matches = [step for step, canvas in candidates(picture, shift).items() if torch.equal(canvas, moved)]
        assert len(matches) == 1
        found += matches
    assert len(set(found)) > (2 * shift + 1) ** 2 / 2  # pictures of one batch move apart


def test_no_content_of_the_interior_is_lost():
    x = torch.zeros(200, 1, 8, 8)
    x[:, :, 2:6, 2:6] = torch.rand(200, 1, 4, 4)
    moved = random_shift(x, 2)
    assert torch.equal(moved.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    assert not torch.equal(moved, x)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 32)], ids=str)
def test_deformed_pictures_are_moved_turned_and_stretched_by_no_more_than_is_said(shape):
    _, height, width = shape
    rows, columns = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    blob = torch.exp(-(rows.square() + columns.square()) / 8).expand(400, *shape).contiguous()
    torch.testing.assert_close(random_deformation(blob, 0.0, 0.0), blob)
    moved = random_deformation(blob, 0.0, 3.0)
    for axis in (rows, columns):
        centre = (moved[:, 0] * axis).sum((1, 2)) / moved[:, 0].sum((1, 2))
        assert 2.7 < centre.max() < 3.05 and -3.05 < centre.min() < -2.7
    # A ramp says from where each pixel was taken. An affine map leaves a plane of it, up to half the shifts that are bent in.
    middle = (rows.abs() < height / 4) & (columns.abs() < width / 4)
    plane = torch.stack([torch.ones_like(rows), rows, columns], -1)[middle]
    for axis, half in ((rows, height / 2), (columns, width / 2)):
        ramp = random_deformation(axis.expand(400, *shape).contiguous(), 0.2, 0.0)[:, 0, middle].T
        fit = torch.linalg.lstsq(plane, ramp).solution
        along, across = (fit[1], fit[2]) if axis is rows else (fit[2], fit[1])
        assert 0.3 < along.min() < 0.85 < 1.15 < along.max() < 1.7  # stretched, and bent
        across = across / half * (width / 2 if axis is rows else height / 2)
        assert 0.2 < across.abs().max() < 0.9  # turned, sheared, and bent
        bent = (ramp - plane @ fit).abs().amax(0) / half
        assert bent.quantile(0.1) > 0.01 and bent.max() < 0.5


def test_every_shift_is_as_likely():
    x = torch.zeros(9000, 1, 3, 3)
    x[:, :, 1, 1] = 1
    counts = random_shift(x, 1).sum((0, 1))
    assert counts.sum() == 9000
    assert ((counts - 1000).abs() < 5 * (9000 * (1 / 9) * (8 / 9)) ** 0.5).all()


def test_evaluation_is_not_shifted():
    data, plain = ready(val_size=20, shift=2), ready(val_size=20)
    for split in ("val", "test"):
        assert torch.equal(together(data, split), together(plain, split))
    data.batch_size = plain.batch_size = 40
    assert not torch.equal(together(data, "train"), together(plain, "train"))


# Files ---------------------------------------------------------------------------------------------------------------


def test_the_argument_goes_before_the_environment_and_that_before_the_cache(monkeypatch):
    monkeypatch.setenv("DLKIT_DATA", "/from/environment")
    assert data_root("/from/argument") == Path("/from/argument")
    assert data_root(None) == Path("/from/environment")
    monkeypatch.delenv("DLKIT_DATA")
    assert data_root(None) == Path(pooch.os_cache("dlkit"))


@pytest.fixture
def server(tmp_path):
    """The address of a folder with the file `numbers.bin`."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "numbers.bin").write_bytes(b"0123456789")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/"
        web.shutdown()
        thread.join()


CHECKSUM = "md5:" + hashlib.md5(b"0123456789").hexdigest()


def test_an_absent_file_is_downloaded_once(server, tmp_path, monkeypatch):
    path = fetch(tmp_path / "here", "numbers.bin", server + "numbers.bin", CHECKSUM)
    assert path == tmp_path / "here" / "numbers.bin"
    assert path.read_bytes() == b"0123456789"
    monkeypatch.setattr(pooch, "retrieve", None)  # from now on a download would be an error
    assert fetch(tmp_path / "here", "numbers.bin", server + "numbers.bin", CHECKSUM) == path


@pytest.mark.parametrize("damage", ["wrong checksum", "no such file"])
def test_a_failed_download_leaves_no_file_and_says_what_to_do(server, tmp_path, damage):
    name = "numbers.bin" if damage == "wrong checksum" else "other.bin"
    message = rf"^{name} is neither in \S+/here nor .* downloaded from {server}{name} .*: put the file there, or .*DLKIT_DATA$"
    with pytest.raises(FileNotFoundError, match=message):
        fetch(tmp_path / "here", name, server + name, "md5:" + "0" * 32)
    assert list((tmp_path / "here").iterdir()) == []


def test_batches_of_other_kinds_than_dlkits_are_moved_too():
    moved = Digits().transfer_batch_to_device({"x": [torch.ones(2)], "name": "a"}, torch.device("meta"), 0)
    assert moved["x"][0].is_meta
    assert moved["name"] == "a"
    examples = Digits().transfer_batch_to_device(Examples(torch.ones(2, 1)), torch.device("meta"), 0)
    assert examples.x.is_meta
    assert examples.y is None


def test_labels_that_are_not_one_an_example_are_named():
    class Own(MemoryData):
        data_shape, num_classes = (2,), 3

        def load(self):
            part = Examples(torch.rand(5, 2), torch.zeros(4, dtype=torch.int64))
            return {"train": part, "test": part}

    with pytest.raises(ValueError, match=r"Own has 5 examples and 4 labels in its part 'train': give one label each"):
        Own().setup()
