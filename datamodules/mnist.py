"""MNIST and its two drop-in replacements, read from the official IDX files.

MNIST: LeCun et al. 1998. Fashion-MNIST: Xiao et al. 2017 (arXiv:1708.07747). Kuzushiji-MNIST: Clanuwat et al. 2018
(arXiv:1812.01718).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from datamodules.base import Binarize, ImageData, data_root, fetch, not_negative
from dlkit.batches import Examples

SIZE = 28  # height and width of the pictures in the files
MAX_RANK = 32  # NumPy's; the sets below have 1 and 3
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes: two zero bytes, the type 0x08, the rank, the sizes (big-endian), the data.

    Returns:
        uint8, of the shape that the header gives.

    Raises:
        ValueError: the file is damaged, cut short, or no IDX file of bytes.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): delete it and download it again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] > MAX_RANK:
        raise ValueError(f"{path} is no IDX file of unsigned bytes: delete it and download it again")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise ValueError(f"{path} ends inside its header of {header} bytes: delete it and download it again")
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    size = math.prod(shape)
    if len(content) - header != size:
        raise ValueError(
            f"{path} holds {len(content) - header} bytes of data and its header promises {size}: "
            f"delete it and download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


class MNIST(ImageData):
    """28x28 grey handwritten digits in ten classes: 60,000 for training, 10,000 for the test.

    Args:
        root: a folder that holds (or will hold) the folder `mnist` with the four IDX files; by default DLKIT_DATA, or
            the user's cache.
        batch_size, val_size, split_seed, binarize, shift: see `ImageData`.
        pad: rows and columns of zeros added on each side of the picture; 2 makes it 32x32.

    Raises:
        FileNotFoundError: a file is absent and cannot be downloaded.
        ValueError: a file is damaged.
    """

    data_shape = (1, SIZE, SIZE)
    num_classes = 10
    class_names = tuple("0123456789")
    folder = "mnist"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    checksums = {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        val_size: int = 5000,
        split_seed: int = 0,
        binarize: Binarize = "none",
        shift: int = 0,
        pad: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, split_seed, binarize, shift)
        self.root = root
        self.pad = not_negative("pad", pad, "pixels")
        self.data_shape = (1, SIZE + 2 * pad, SIZE + 2 * pad)

    def prepare_data(self) -> None:
        for name in self.checksums:
            self.path(name)

    def path(self, name: str) -> Path:
        """Where a file of the set lies, after downloading it if need be."""
        return fetch(data_root(self.root) / self.folder, name, self.url + name, self.checksums[name])

    def load(self) -> dict[str, Examples]:
        return {part: self.read(*(self.path(name) for name in names)) for part, names in FILES.items()}

    def read(self, images: Path, labels: Path) -> Examples:
        """The examples of one pair of files.

        Raises:
            ValueError: they do not fit each other or the data set.
        """
        x, y = read_idx(images), read_idx(labels)
        if x.shape[1:] != (SIZE, SIZE):
            raise ValueError(
                f"{images} holds data of shape {x.shape}, not pictures of {(SIZE, SIZE)}: put the official file there"
            )
        if y.ndim != 1:
            raise ValueError(f"{labels} holds data of shape {y.shape}, not a list of labels: put the official file there")
        if not len(x) or len(y) != len(x):
            raise ValueError(
                f"{labels} holds {len(y)} labels and {images} {len(x)} pictures: delete both and download them again"
            )
        if y.max() >= len(self.class_names):
            raise ValueError(
                f"{labels} holds the label {y.max()}, and the classes are 0..{len(self.class_names) - 1}: "
                f"delete it and download it again"
            )
        x = np.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad)))  # a copy: what was read is read-only
        return Examples(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y.astype(np.int64)))


class FashionMNIST(MNIST):
    """28x28 grey pictures of clothing in ten classes, in MNIST's format; the folder is `fashion_mnist`."""

    folder = "fashion_mnist"
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    checksums = {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    }
    class_names = (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip


class KMNIST(MNIST):
    """28x28 grey cursive Japanese characters in ten classes, in MNIST's format; the folder is `kmnist`."""

    folder = "kmnist"
    url = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    checksums = {
        "train-images-idx3-ubyte.gz": "md5:bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "md5:e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "md5:5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "md5:7320c461ea6c1c855c0b718fb2a4b134",
    }
    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
