"""CIFAR10: read from a small archive in the official binary format, and from damaged ones."""

from __future__ import annotations

import io
import re
import tarfile

import numpy as np
import pooch
import pytest
import torch

from datamodules import CIFAR10
from datamodules.cifar import ARCHIVE, MEMBERS

NAMES = [name for names in MEMBERS.values() for name in names]


def records(number, count=4):
    """`count` records of a label byte and 3 x 32 x 32 pixels."""
    generator = np.random.default_rng(number)
    table = generator.integers(0, 256, (count, 3073)).astype(np.uint8)
    table[:, 0] = generator.integers(0, 10, count)
    return table


def write(root, members, mode="w:gz"):
    """An archive of (name, content) pairs; a TarInfo is added as it is."""
    path = root / "cifar10" / ARCHIVE
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def official():
    """The members of the official archive, smaller."""
    members = [("cifar-10-batches-bin/batches.meta.txt", b"airplane\n"), ("cifar-10-batches-bin/readme.html", b"<html>")]
    return members + [(f"cifar-10-batches-bin/{name}", records(number).tobytes()) for number, name in enumerate(NAMES)]


def refuse(root, message):
    path = root / "cifar10" / ARCHIVE
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} {message}: delete it and download it again$"):
        CIFAR10(str(root), val_size=0).setup()


def test_the_records_become_examples_in_the_order_of_the_files(tmp_path):
    write(tmp_path, reversed(official()))
    data = CIFAR10(str(tmp_path), val_size=0)
    data.prepare_data()
    data.setup()
    train = np.concatenate([records(number) for number in range(5)])
    for split, table in (("train", train), ("test", records(5))):
        assert np.array_equal(data.splits[split].x.flatten(1).numpy(), table[:, 1:])
        assert data.splits[split].y.tolist() == table[:, 0].tolist()
        assert data.splits[split].x.shape[1:] == data.data_shape == (3, 32, 32)


def test_the_first_channel_is_red_and_rows_run_downwards(tmp_path):
    table = np.zeros((4, 3, 32, 32), np.uint8)
    table[:, 0, 0, :] = 200  # red, the first row
    content = b"".join(b"\1" + picture.tobytes() for picture in table)
    write(tmp_path, [(name, content) for name in NAMES])
    x = next(CIFAR10(str(tmp_path), val_size=0).batches("test")).x
    assert x.dtype == torch.float32
    assert (x[:, 0, 0] == 200 / 255).all()
    assert x.count_nonzero() == 4 * 32


def test_the_splits_have_labels_and_sizes(tmp_path):
    write(tmp_path, official())
    data = CIFAR10(str(tmp_path), val_size=6)
    data.setup()
    assert {name: len(examples.x) for name, examples in data.splits.items()} == {"train": 14, "val": 6, "test": 4}
    assert all(examples.y.dtype == torch.int64 for examples in data.splits.values())
    assert len(data.class_names) == data.num_classes == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_member_is_named(tmp_path, name):
    write(tmp_path, [member for member in official() if not member[0].endswith(name)])
    refuse(tmp_path, f"holds 0 bytes of {name}, not whole records of 3073")


def test_half_a_record_is_named(tmp_path):
    members = official()
    members[3] = members[3][0], members[3][1][:-1]
    write(tmp_path, members)
    refuse(tmp_path, f"holds {4 * 3073 - 1} bytes of data_batch_2.bin, not whole records of 3073")


def test_an_impossible_label_is_named(tmp_path):
    members = official()
    members[-1] = members[-1][0], b"\x0b" + members[-1][1][1:]
    write(tmp_path, members)
    refuse(tmp_path, "holds the label 11, and CIFAR-10 has 0..9")


def test_an_archive_that_is_not_compressed_is_damaged(tmp_path):
    write(tmp_path, official(), mode="w")
    refuse(tmp_path, r"is damaged or cut short \(.+\)")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.7, 0.99])
def test_an_archive_that_is_cut_short_is_damaged(tmp_path, share):
    path = write(tmp_path, official())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(tmp_path, r"is damaged or cut short \(.+\)")


def test_changed_bytes_are_damage(tmp_path):
    path = write(tmp_path, official())
    content = path.read_bytes()
    for place in range(40, len(content) - 8, len(content) // 40):  # behind gzip's header, which holds a name
        damaged = bytearray(content)
        damaged[place : place + 8] = bytes(byte ^ 0xFF for byte in content[place : place + 8])
        path.write_bytes(damaged)
        refuse(tmp_path, r"is damaged or cut short \(.+\)")


def test_a_file_of_another_format_is_damaged(tmp_path):
    path = write(tmp_path, official())
    path.write_bytes(b"<html>not found</html>")
    refuse(tmp_path, r"is damaged or cut short \(.+\)")


def test_paths_and_links_in_the_archive_reach_nothing(tmp_path):
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(records(9).tobytes())
    link = tarfile.TarInfo("cifar-10-batches-bin/link.bin")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    hostile = [
        ("../../evil.txt", b"evil"),
        (str(tmp_path / "evil.txt"), b"evil"),
        ("cifar-10-batches-bin/../../../evil.txt", b"evil"),
        (link, b""),
    ]
    path = write(root, [*official(), *hostile])
    before = sorted(tmp_path.rglob("*"))
    data = CIFAR10(str(root), val_size=0)
    data.setup()
    assert sorted(tmp_path.rglob("*")) == before
    assert np.array_equal(data.splits["test"].x.flatten(1).numpy(), records(5)[:, 1:])

    # A link in the place of a member is not followed: the member is missing.
    link.name = "cifar-10-batches-bin/test_batch.bin"
    assert path == write(root, [*official()[:-1], (link, b"")])
    refuse(root, "holds 0 bytes of test_batch.bin, not whole records of 3073")


def test_a_missing_archive_without_a_network_says_where_it_was_looked_for(tmp_path, monkeypatch):
    def retrieve(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    message = (
        rf"^{ARCHIVE} is neither in {re.escape(str(tmp_path / 'cifar10'))} nor could it be downloaded from http\S+ "
        r"\(OSError\): put the file there, or name another folder with --data.root or DLKIT_DATA$"
    )
    for method in ("prepare_data", "setup"):
        with pytest.raises(FileNotFoundError, match=message):
            getattr(CIFAR10(str(tmp_path)), method)()
