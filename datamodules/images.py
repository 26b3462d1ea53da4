"""Images: a folder of a user's own pictures."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from datamodules.base import Binarize, ImageData, select
from dlkit.batches import Examples

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Images(ImageData):
    """The pictures below a folder, held in memory as bytes. Sub-folders, where there are any, are the classes.

    Args:
        root: the folder; `root/cat/1.png` has the class "cat", `root/1.png` has none. Hidden files are passed over. What is
            transparent is white.
        size: height and width in pixels, square.
        mode: "rgb" or "grey".
        resize: "none" refuses pictures of another size; "crop" scales the shorter side to `size` and keeps the centre.
        test_size: share of the pictures that is the test part.
        val_size: pictures held out for validation, from which those in TensorBoard are drawn; None takes a tenth.
        batch_size, split_seed, binarize, shift: see `ImageData`. The test part comes from `split_seed` too.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, or one that cannot be read or has another size.
    """

    def __init__(
        self,
        root: str,
        size: int = 64,
        mode: Literal["rgb", "grey"] = "rgb",
        resize: Literal["none", "crop"] = "none",
        test_size: float = 0.1,
        batch_size: int = 64,
        val_size: int | None = None,
        split_seed: int = 0,
        binarize: Binarize = "none",
        shift: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size or 0, split_seed, binarize, shift)
        if mode not in ("rgb", "grey"):
            raise ValueError(f"unknown mode {mode!r}: use 'rgb' or 'grey'")
        if resize not in ("none", "crop"):
            raise ValueError(f"unknown resize {resize!r}: use 'none' or 'crop'")
        if size < 1:
            raise ValueError(f"size={size}: give at least 1 pixel")
        if not 0 < test_size < 1:
            raise ValueError(f"test_size={test_size}: give a share between 0 and 1")
        self.root = Path(root).expanduser()
        self.size = size
        self.mode: Literal["rgb", "grey"] = mode
        self.resize: Literal["none", "crop"] = resize
        self.data_shape = ({"rgb": 3, "grey": 1}[mode], size, size)
        self.paths = self.find()
        self.num_test = min(len(self.paths) - 1, max(1, round(test_size * len(self.paths))))
        if val_size is None:
            self.val_size = min(len(self.paths) - self.num_test - 1, max(1, round(0.1 * len(self.paths))))
        folders = {path.relative_to(self.root).parts[0] for path in self.paths if self.labelled(path)}
        self.class_names = tuple(sorted(folders))
        self.num_classes = len(self.class_names) or None

    def find(self) -> list[Path]:
        """Every picture below the folder, in alphabetical order."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"there is no folder {self.root}: name the folder of your pictures with --data.root")
        paths = [
            path
            for path in sorted(self.root.rglob("*"))
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
        ]
        if len(paths) < 2:
            raise ValueError(f"{self.root} holds {len(paths)} pictures ({', '.join(sorted(SUFFIXES))}): give at least 2")
        if len({self.labelled(path) for path in paths}) > 1:
            loose = next(path for path in paths if not self.labelled(path))
            raise ValueError(f"{loose} lies beside class folders and has no class: move it into one, or remove the folders")
        return paths

    def labelled(self, path: Path) -> bool:
        """Whether a picture lies in a class folder."""
        return len(path.relative_to(self.root).parts) > 1

    def read(self, path: Path) -> np.ndarray:
        """One picture: (channels, size, size), uint8."""
        try:
            with Image.open(path) as file:
                depth = file.mode
                picture = ImageOps.exif_transpose(file)
                if picture.has_transparency_data:
                    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
                picture = picture.convert({"rgb": "RGB", "grey": "L"}[self.mode])
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as a picture ({error}): remove or replace it") from error
        if depth.startswith(("I", "F")):  # Pillow would cut the values off at 255
            raise ValueError(f"{path} has more than 8 bits a channel (mode {depth}): save it with 8")
        if self.resize == "crop":
            scale = self.size / min(picture.size)
            width, height = (max(self.size, round(side * scale)) for side in picture.size)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            picture = picture.crop((left, top, left + self.size, top + self.size))
        elif picture.size != (self.size, self.size):
            width, height = picture.size
            raise ValueError(
                f"{path} has {width}x{height} pixels and size is {self.size}: set --data.size, or --data.resize crop"
            )
        return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)

    def load(self) -> dict[str, Examples]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
            x = torch.from_numpy(np.stack(list(pool.map(self.read, self.paths))))
        y = None
        if self.num_classes:
            index = {name: number for number, name in enumerate(self.class_names)}
            y = torch.tensor([index[path.relative_to(self.root).parts[0]] for path in self.paths])
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.split_seed))
        examples = Examples(x, y)
        return {"test": select(examples, order[: self.num_test]), "train": select(examples, order[self.num_test :])}
