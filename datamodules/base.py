"""SplitData, MemoryData and ImageData: the bases of datamodules held in memory, of examples, and of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from datamodules.loader import EpochLoader, Loader
from dlkit.batches import Examples

Binarize = Literal["none", "static", "dynamic"]
Split = Literal["train", "val", "test"]


class SplitData(L.LightningDataModule):
    """Data held in memory in parts "train", "val" (where there is one) and "test".

    A subclass gives `load()` and `serve()`, and `divide()` where it takes the validation part out of the training part.

    Args:
        batch_size: examples a batch and device.

    Attributes:
        splits: the parts after `setup()`, as they lie in memory.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.splits: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        """The parts "train" and "test", and "val" where the data says what it is."""
        raise NotImplementedError(f"{type(self).__name__} has to define load()")

    def divide(self, parts: dict[str, Any]) -> dict[str, Any]:
        """The loaded parts with "val" taken out of "train"; here they are the same."""
        return parts

    def serve(self, part: Any, shuffle: bool, seed: int) -> EpochLoader:
        """The loader of a part."""
        raise NotImplementedError(f"{type(self).__name__} has to define serve()")

    def __str__(self) -> str:  # Lightning's asks every loader for what only PyTorch's has
        return type(self).__name__

    # What Lightning calls --------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            self.splits = self.divide(self.load())

    def train_dataloader(self) -> EpochLoader:
        # overfit_batches asks for the same batches in every epoch
        return self.loader("train", shuffle=not getattr(self.trainer, "overfit_batches", 0))

    def val_dataloader(self) -> EpochLoader | list[Any]:
        self.setup()
        if "val" in self.splits:
            return self.loader("val")
        # Lightning warns that an empty list may be a mistake; here it is what no validation part asks for.
        warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return []

    def test_dataloader(self) -> EpochLoader:
        return self.loader("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # Lightning looks through a batch for whatever could be moved; dlkit's batches hold tensors and Nones.
        if hasattr(batch, "_make") and all(part is None or isinstance(part, Tensor) for part in batch):
            # On CUDA without waiting for what is under way there; what is copied is set aside before the call returns.
            cuda = torch.device(device).type == "cuda"
            return batch._make(part if part is None else part.to(device, non_blocking=cuda) for part in batch)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.prepare(batch, training=self.trainer is not None and self.trainer.training)

    # For everybody ---------------------------------------------------------------------------------------------------

    def loader(self, split: Split, shuffle: bool = False) -> EpochLoader:
        """Batches of a part as they lie in memory. The seed of the order is the run's (torch's initial seed)."""
        self.setup()
        if split not in self.splits:
            mend = f", or make a validation split with {self.makes_validation}" if split == "val" else ""
            raise ValueError(f"there is no split {split!r}, only {', '.join(sorted(self.splits))}: name one of them{mend}")
        return self.serve(self.splits[split], shuffle, torch.initial_seed())

    makes_validation = "val_size"  # the argument that does

    def batches(self, split: Split = "train", device: str | torch.device = "cpu", epoch: int = 0) -> Iterator[Any]:
        """One pass over a part, ready for `Method.loss`: "train" shuffled and augmented, the others in order.

        Args:
            split: "train", "val" or "test".
            device: where the batches go.
            epoch: whose order "train" has; a loop that always asks for the same epoch always gets the same order.
        """
        training = split == "train"
        loader = self.loader(split, shuffle=training)
        loader.set_epoch(epoch)
        for batch in loader:
            yield self.prepare(self.transfer_batch_to_device(batch, torch.device(device), 0), training)

    def prepare(self, batch: Any, training: bool = False) -> Any:
        """A batch as it lies in memory to what methods are given, on the batch's device; here they are the same.

        Args:
            batch: as `serve` gives it.
            training: whether this batch is trained on.
        """
        return batch


class MemoryData(SplitData):
    """Examples held in memory, served a whole batch at a time.

    A subclass sets `data_shape`, `num_classes` and `class_names`, and gives `load()`, x (n, *shape), as `prepare` takes it,
    and y (n,), int64, or None; what lies in memory in another form than methods are given is turned into it by `prepare()`.
    The validation split is taken from the training part by `split_seed`; the test part is whatever the data set says it is.

    Args:
        batch_size: examples a batch and device.
        val_size: examples held out of the training part for validation; 0 trains without it, and then no examples are drawn.
        split_seed: of that split. The order of training comes from the run's seed.

    Attributes:
        data_shape: the shape of one example, without the batch.
        num_classes: how many classes, or None.
        class_names: a name for each class.
    """

    data_shape: tuple[int, ...]
    num_classes: int | None
    class_names: tuple[str, ...] = ()

    def __init__(self, batch_size: int = 128, val_size: int = 0, split_seed: int = 0) -> None:
        super().__init__(batch_size)
        self.val_size = not_negative("val_size", val_size, "examples")
        self.split_seed = split_seed

    def divide(self, parts: dict[str, Examples]) -> dict[str, Examples]:
        """The loaded parts with "val" taken out of "train".

        Raises:
            ValueError: nothing would be left to train on, or there are not as many labels as examples.
        """
        for name, part in parts.items():
            if part.y is not None and len(part.x) != len(part.y):
                raise ValueError(
                    f"{type(self).__name__} has {len(part.x)} examples and {len(part.y)} labels in its part {name!r}: give one "
                    f"label each"
                )
        train = parts["train"]
        if self.val_size:
            kept, held_out = hold_out(len(train.x), self.val_size, self.split_seed)
            parts["val"], parts["train"] = select(train, held_out), select(train, kept)
        return parts

    def serve(self, part: Examples, shuffle: bool, seed: int) -> Loader:
        return Loader.of(part, self.batch_size, shuffle, seed)

    def on_after_batch_transfer(self, batch: Examples, dataloader_idx: int) -> Examples:
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        if self.trainer is None:
            return batch
        return batch._replace(x=batch.x.to(self.trainer.lightning_module.dtype))  # other than float32 in "true" half precision


class ImageData(MemoryData):
    """Images held in memory as bytes, turned into float32 in [0, 1] on the device that trains.

    A subclass sets `data_shape`, `num_classes` and `num_levels`, and gives `load()`: x (n, *data_shape), uint8 in
    0 .. num_levels - 1.

    Args:
        batch_size, val_size: see `MemoryData`.
        split_seed: of the validation split, and of static binarisation.
        binarize: "none"; "static": each pixel is drawn once as Bernoulli(x), the same in every epoch; "dynamic": drawn
            anew for each training batch, and as "static" in evaluation (Burda et al. 2016, arXiv:1509.00519).
        shift: training pictures are moved by up to so many pixels in each direction, filled with zeros.

    Attributes:
        data_shape: (channels, height, width).
        num_levels: how many values a pixel can take.
    """

    num_levels: int = 256

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 0,
        split_seed: int = 0,
        binarize: Binarize = "none",
        shift: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, split_seed)
        if binarize not in ("none", "static", "dynamic"):
            raise ValueError(f"unknown binarize {binarize!r}: use 'none', 'static' or 'dynamic'")
        self.binarize: Binarize = binarize
        self.shift = not_negative("shift", shift, "pixels")

    def divide(self, parts: dict[str, Examples]) -> dict[str, Examples]:
        """The loaded parts with "val" taken out of "train", and binarised where that is done once."""
        parts = super().divide(parts)
        if self.binarize != "none":
            for index, name in enumerate(sorted(parts)):
                if name != "train" or self.binarize == "static":
                    generator = torch.Generator().manual_seed(1000 * self.split_seed + index)
                    bright = bernoulli(parts[name].x / (self.num_levels - 1), generator)
                    parts[name] = parts[name]._replace(x=bright.to(torch.uint8) * (self.num_levels - 1))
        return parts

    def prepare(self, batch: Examples, training: bool = False) -> Examples:
        """Bytes to float32 in [0, 1], and in training the augmentation and the dynamic binarisation.

        Args:
            batch: x (batch, *data_shape), uint8.
            training: whether this batch is trained on.
        """
        x = batch.x.float().div_(self.num_levels - 1)
        if training and self.shift:
            x = random_shift(x, self.shift)
        if training and self.binarize == "dynamic":
            x = bernoulli(x)
        return batch._replace(x=x)


def bernoulli(probability: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """1 with the given probability, else 0: any shape -> the same shape, float32."""
    noise = torch.rand(probability.shape, generator=generator, device=probability.device)
    return (noise < probability).float()


def random_shift(x: Tensor, shift: int) -> Tensor:
    """Moves each picture by its own whole number of pixels in -shift .. shift: (batch, channels, height, width)."""
    n, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2, n, 1), device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    picture = torch.arange(n, device=x.device).view(n, 1, 1)
    return padded[picture, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


BENDS = 5  # points a side of the grid that bends a picture


def random_deformation(x: Tensor, amount: float, shift: float) -> Tensor:
    """Turns, stretches, shears, moves and bends each picture at random: (batch, channels, height, width).

    A turn of up to `amount` radians; each side stretched, and the whole sheared, by up to that share; a move of up to `shift`
    pixels. Then the points of a 5 x 5 grid are each moved by up to a quarter of `amount` of the picture's side, and what lies
    between them smoothly with them: the elastic distortions of Simard, Steinkraus and Platt 2003 (Best practices for
    convolutional neural networks, section 2), who smooth the displacement of every pixel instead. What comes in from outside
    is 0.
    """
    angle, wide, high, shear, right, down = 2 * torch.rand(6, len(x), device=x.device) - 1
    cos, sin = (amount * angle).cos(), (amount * angle).sin()
    across = torch.stack([cos * (1 + amount * wide), amount * shear - sin, 2 * shift / x.shape[3] * right], 1)
    along = torch.stack([sin, cos * (1 + amount * high), 2 * shift / x.shape[2] * down], 1)
    grid = torch.nn.functional.affine_grid(torch.stack([across, along], 1), list(x.shape), align_corners=False)
    knots = amount * (torch.rand(len(x), 2, BENDS, BENDS, device=x.device) - 0.5)
    bent = torch.nn.functional.interpolate(knots, x.shape[2:], mode="bicubic", align_corners=True)
    grid = grid + bent.permute(0, 2, 3, 1)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def hold_out(number: int, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which of `number` examples stay for training, in order, and which are held out for validation: int64 each.

    Raises:
        ValueError: none would stay, or there are none.
    """
    if not number:
        raise ValueError("there are no examples to train on: look at the data and what it is cut into")
    if val_size >= number:
        raise ValueError(f"val_size={val_size} leaves nothing of the {number} training examples: lower it")
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    return order[val_size:].sort().values, order[:val_size]


def not_negative(name: str, value: int, what: str) -> int:
    """The value, if it is no less than zero.

    Raises:
        ValueError: naming it.
    """
    if value < 0:
        raise ValueError(f"{name}={value}: give 0 or more {what}")
    return value


def select(examples: Examples, rows: Tensor) -> Examples:
    """The examples at `rows`."""
    return examples.map(lambda part: part[rows])


def data_root(root: str | None) -> Path:
    """Where data lies: `root`, else the environment's DLKIT_DATA, else the user's cache folder for dlkit."""
    import pooch

    return Path(root or os.environ.get("DLKIT_DATA") or pooch.os_cache("dlkit"))


def fetch(folder: Path, name: str, url: str, checksum: str) -> Path:
    """The path of a file, downloaded when it is absent; a download is checked before it takes the file's name.

    Raises:
        FileNotFoundError: it is absent and could not be downloaded.
    """
    import pooch

    path = folder / name
    if path.is_file():
        return path
    try:
        pooch.retrieve(url, checksum, fname=name, path=folder, progressbar=True)
    except Exception as error:
        raise FileNotFoundError(
            f"{name} is neither in {folder} nor could it be downloaded from {url} "
            f"({type(error).__name__}): put the file there, or name another folder with --data.root or DLKIT_DATA"
        ) from error
    return path
