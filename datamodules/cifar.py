"""CIFAR10: Krizhevsky 2009, read from the binary version, which unlike the Python version holds no pickles."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch

from datamodules.base import Binarize, ImageData, data_root, fetch
from dlkit.batches import Examples

ARCHIVE = "cifar-10-binary.tar.gz"
URL = "https://www.cs.toronto.edu/~kriz/" + ARCHIVE
CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"
RECORD = 1 + 3 * 32 * 32
MEMBERS = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}


class CIFAR10(ImageData):
    """32x32 colour photographs in ten classes: 50,000 for training, 10,000 for the test.

    Args:
        root: a folder that holds (or will hold) `cifar10/cifar-10-binary.tar.gz`; by default DLKIT_DATA, or the user's
            cache.
        batch_size, val_size, split_seed, binarize, shift: see `ImageData`.

    Raises:
        FileNotFoundError: the archive is absent and cannot be downloaded.
        ValueError: the archive is damaged.
    """

    data_shape = (3, 32, 32)
    num_classes = 10
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        val_size: int = 5000,
        split_seed: int = 0,
        binarize: Binarize = "none",
        shift: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, split_seed, binarize, shift)
        self.root = root

    def prepare_data(self) -> None:
        self.path()

    def path(self) -> Path:
        """Where the archive lies, after downloading it if need be."""
        return fetch(data_root(self.root) / "cifar10", ARCHIVE, URL, CHECKSUM)

    def load(self) -> dict[str, Examples]:
        path = self.path()
        contents: dict[str, bytes] = {}
        try:
            # Read from the archive directly: nothing is extracted, so no path inside it can reach the disk.
            with gzip.open(path, "rb") as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() else None
                    if file is not None:
                        contents[Path(member.name).name] = file.read()
                unpacked.read()  # to the end, where gzip compares its checksum
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged or cut short ({error}): delete it and download it again") from error
        return {part: read_records(path, contents, names) for part, names in MEMBERS.items()}


def read_records(path: Path, contents: dict[str, bytes], names: list[str]) -> Examples:
    """Records of a label byte and 3 x 32 x 32 pixels, from the named members of the archive.

    Raises:
        ValueError: a member is missing, cut short, or holds an impossible label.
    """
    records = []
    for name in names:
        content = contents.get(name, b"")
        if not content or len(content) % RECORD:
            raise ValueError(
                f"{path} holds {len(content)} bytes of {name}, not whole records of {RECORD}: delete it and download it again"
            )
        records.append(np.frombuffer(content, np.uint8).reshape(-1, RECORD))
    table = np.concatenate(records)
    if table[:, 0].max() > 9:
        raise ValueError(f"{path} holds the label {table[:, 0].max()}, and CIFAR-10 has 0..9: delete it and download it again")
    return Examples(
        torch.from_numpy(table[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(table[:, 0].astype(np.int64))
    )
