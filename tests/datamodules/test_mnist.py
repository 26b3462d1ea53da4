"""MNIST: the IDX reader, every damage a file can have, and the real files."""

from __future__ import annotations

import gzip
import hashlib
import re
import struct

import numpy as np
import pooch
import pytest
import torch

from datamodules import KMNIST, MNIST, FashionMNIST
from datamodules.mnist import FILES, read_idx

MEND = "delete it and download it again$"


def idx(array):
    """The bytes of an IDX file, before compression."""
    array = np.asarray(array, np.uint8)
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content))
    return path


@pytest.fixture
def small(tmp_path):
    """A folder with 30 training and 12 test pictures in MNIST's format, and what was written there."""
    generator, written = np.random.default_rng(0), {}
    for (part, (images, labels)), n in zip(FILES.items(), (30, 12), strict=True):
        written[part] = generator.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        write(tmp_path / "mnist" / images, idx(written[part][0]))
        write(tmp_path / "mnist" / labels, idx(written[part][1]))
    return tmp_path, written


# The reader ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (5,), (3, 4), (2, 28, 28), (2, 1, 3, 1)], ids=str)
def test_what_is_written_is_read(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    read = read_idx(write(tmp_path / "a.gz", idx(array)))
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)


def refuse(path, message):
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} {message}"):
        read_idx(path)


def test_a_file_that_is_not_compressed_is_damaged(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(idx(np.zeros(5)))
    refuse(path, rf"is damaged or cut short \(.+\): {MEND}")


def test_a_file_cut_at_any_place_is_damaged(tmp_path):
    path = write(tmp_path / "a.gz", idx(np.arange(200)))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refuse(path, rf"(is damaged or cut short \(.+\)|is no IDX file of unsigned bytes): {MEND}")


def test_a_changed_byte_of_compressed_data_is_damage(tmp_path):
    path = write(tmp_path / "a.gz", idx(np.random.default_rng(0).integers(0, 256, 500)))
    content = bytearray(path.read_bytes())
    for place in range(12, len(content) - 8, 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        refuse(path, rf"is damaged or cut short \(.+\): {MEND}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file of unsigned bytes"),
        (b"\0\0\x08", "is no IDX file of unsigned bytes"),
        (b"\0\1\x08" + idx([1, 2])[3:], "is no IDX file of unsigned bytes"),
        (b"\0\0\x0d" + idx([1, 2])[3:], "is no IDX file of unsigned bytes"),  # floats
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\7", "is no IDX file of unsigned bytes"),
        (b"\0\0\x08\x03" + struct.pack(">I", 5), "ends inside its header of 16 bytes"),
        (idx(np.zeros((2, 3)))[:-1], "holds 5 bytes of data and its header promises 6"),
        (idx(np.zeros((2, 3))) + b"\0", "holds 7 bytes of data and its header promises 6"),
        (b"\0\0\x08\x04" + struct.pack(">4I", *[2**16] * 4), f"holds 0 bytes of data and its header promises {2**64}"),
    ],
    ids=["empty", "short", "zeros", "type", "rank", "header", "too little", "too much", "overflow"],
)
def test_a_wrong_header_or_length_is_named(tmp_path, content, message):
    refuse(write(tmp_path / "a.gz", content), f"{message}: {MEND}")


# The data sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, KMNIST])
def test_the_files_become_examples(small, kind):
    root, written = small
    (root / "mnist").rename(root / kind.folder)
    data = kind(str(root), val_size=10)
    data.prepare_data()
    data.setup()
    assert {name: len(examples.x) for name, examples in data.splits.items()} == {"train": 20, "val": 10, "test": 12}
    pictures, labels = written["test"]
    assert np.array_equal(data.splits["test"].x[:, 0].numpy(), pictures)
    assert np.array_equal(data.splits["test"].y.numpy(), labels)
    batch = next(data.batches("train"))
    assert batch.x.shape == (20, *data.data_shape) == (20, 1, 28, 28)
    assert batch.x.dtype == torch.float32
    assert batch.y.dtype == torch.int64
    assert batch.x.min() == 0
    assert batch.x.max() == 1
    assert len(data.class_names) == data.num_classes == 10


def test_padding_adds_zeros_on_each_side(small):
    plain, padded = (MNIST(str(small[0]), val_size=10, pad=pad) for pad in (0, 2))
    assert padded.data_shape == (1, 32, 32)
    for split in ("train", "val", "test"):
        x, y = next(padded.batches(split))
        assert x.shape[1:] == padded.data_shape
        assert torch.equal(x, torch.nn.functional.pad(next(plain.batches(split)).x, (2, 2, 2, 2)))
        assert torch.equal(y, next(plain.batches(split)).y)


def test_a_negative_padding_is_named():
    with pytest.raises(ValueError, match=r"^pad=-1: give 0 or more pixels$"):
        MNIST(pad=-1)


def test_a_folder_named_by_the_environment_is_used(small, monkeypatch):
    monkeypatch.setenv("DLKIT_DATA", str(small[0]))
    data = MNIST(val_size=0)
    data.setup()
    assert len(data.splits["train"].x) == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels", idx(np.zeros(11)), r"\S+labels\S+ holds 11 labels and \S+images\S+ 12 pictures: delete both and .*again$"),
        ("labels", idx(np.full(12, 10)), rf"\S+labels\S+ holds the label 10, and the classes are 0..9: {MEND}"),
        ("labels", idx(np.zeros((12, 28, 28))), r"\S+labels\S+ holds data of shape \(12, 28, 28\), not a list of labels: put"),
        ("labels", idx(np.uint8(3)), r"\S+labels\S+ holds data of shape \(\), not a list of labels: put the official file"),
        ("images", idx(np.zeros((12, 28, 27))), r"\S+images\S+ holds .* \(12, 28, 27\), not pictures of \(28, 28\): put the"),
        ("images", idx(np.zeros(12)), r"\S+images\S+ holds data of shape \(12,\), not pictures of \(28, 28\): put the off"),
        ("images", idx(np.uint8(3)), r"\S+images\S+ holds data of shape \(\), not pictures of \(28, 28\): put the official"),
        ("images", idx(np.zeros((0, 28, 28))), r"\S+labels\S+ holds 12 labels and \S+images\S+ 0 pictures: delete both"),
        ("images", b"PNG", rf"\S+images\S+ is no IDX file of unsigned bytes: {MEND}"),
    ],
    ids=["count", "range", "swapped", "scalar label", "size", "vector", "scalar image", "none", "other format"],
)
def test_files_that_do_not_fit_are_named(small, name, content, message):
    root, _ = small
    write(root / "mnist" / FILES["test"][name == "labels"], content)
    with pytest.raises(ValueError, match=f"^{message}"):
        MNIST(str(root)).setup()


def test_two_empty_files_are_refused(small):
    root, _ = small
    write(root / "mnist" / FILES["train"][0], idx(np.zeros((0, 28, 28))))
    write(root / "mnist" / FILES["train"][1], idx(np.zeros(0)))
    with pytest.raises(ValueError, match=r"holds 0 labels and \S+ 0 pictures: delete both and download them again$"):
        MNIST(str(root)).setup()


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, KMNIST])
@pytest.mark.parametrize("method", ["prepare_data", "setup"])
def test_a_missing_file_without_a_network_says_where_it_was_looked_for(tmp_path, monkeypatch, kind, method):
    def retrieve(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    folder = re.escape(str(tmp_path / kind.folder))
    message = (
        rf"^train-images-idx3-ubyte.gz is neither in {folder} nor could it be downloaded from http\S+ \(OSError\): "
        r"put the file there, or name another folder with --data.root or DLKIT_DATA$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        getattr(kind(str(tmp_path)), method)()


def test_the_files_that_are_there_are_not_downloaded(small, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", None)  # calling it would be an error
    MNIST(str(small[0])).prepare_data()


# The real files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mnist(mnist_root):
    data = MNIST(mnist_root)
    data.setup()
    return data


def test_the_real_files_are_the_official_ones(mnist):
    """The published checksums of the contents, which do not depend on how they were compressed."""
    checksums = {
        "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, checksum in checksums.items():
        assert hashlib.md5(gzip.decompress(mnist.path(name).read_bytes())).hexdigest() == checksum


def test_the_real_mnist_has_its_known_statistics(mnist):
    """55,000 + 5,000 + 10,000 pictures; the mean .1307 and standard deviation .3081 that everyone normalises by."""
    splits = mnist.splits
    assert {name: len(examples.x) for name, examples in splits.items()} == {"train": 55000, "val": 5000, "test": 10000}
    x = torch.cat([splits["train"].x, splits["val"].x]).double() / 255
    assert x.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert x.std().item() == pytest.approx(0.3081, abs=5e-5)
    y = torch.cat([splits["train"].y, splits["val"].y])
    assert y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert splits["test"].y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert splits["test"].y[:5].tolist() == [7, 2, 1, 0, 4]


def test_the_real_mnist_is_served_in_batches(mnist):
    batch = next(mnist.batches("test"))
    assert batch.x.shape == (128, 1, 28, 28)
    assert torch.equal((batch.x * 255).round().to(torch.uint8), mnist.splits["test"].x[:128])
