"""Bags of pictures, with what a method pays attention to in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from dlkit.callbacks.drawing import figure, grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITNESS = "tab:orange"
BAR = "tab:blue"
PICTURE, STRIP = 0.9, 0.42  # of a cell of width 1: the side of a picture, and the height below it for the weight


class Bag(NamedTuple):
    """One bag as it is drawn.

    Attributes:
        pictures: (instances, channels, height, width) in [0, 1].
        weights: (instances,), attention, which sums to one.
        rescaled: (instances,), the same from 0 to 1.
        witness: (instances,), bool; None where it is not known.
        positive: its label.
        probability: of being positive.
    """

    pictures: Tensor
    weights: Tensor
    rescaled: Tensor
    witness: Tensor | None
    positive: bool
    probability: float


def plottable(pictures: Tensor) -> np.ndarray:
    """(*, channels, height, width) -> (*, height, width, 3), in [0, 1]."""
    channels_last = pictures.detach().float().cpu().clamp(0, 1).movedim(-3, -1)
    return channels_last.expand(*channels_last.shape[:-1], 3).numpy()


def attended_bags(bags: list[Bag], most: int) -> Figure:
    """A bag a row, its first `most` instances side by side: below each its weight, above a bar as long as the rescaled weight.

    Witnesses are framed; the bag's label and the probability of a positive one stand before it, red where they disagree.
    """
    columns = max(min(len(bag.pictures), most) for bag in bags)
    height = 1 + STRIP
    canvas, axes = figure(1.6 + 0.62 * columns, 0.7 + 0.62 * height * len(bags))
    for row, bag in enumerate(bags):
        bottom = (len(bags) - 1 - row) * height + STRIP
        right = bag.positive == (bag.probability > 0.5)
        label = f"{'positive' if bag.positive else 'negative'}\np = {bag.probability:.2f}"
        axes.text(-0.15, bottom + 0.4, label, ha="right", va="center", fontsize=8, color="black" if right else "tab:red")
        for column, picture in enumerate(plottable(bag.pictures[:most])):
            axes.imshow(picture, extent=(column, column + PICTURE, bottom, bottom + PICTURE), interpolation="nearest")
            length = float(bag.rescaled[column]) * PICTURE
            axes.add_patch(rectangle(column, bottom - 0.12, length, 0.08, facecolor=BAR))
            axes.text(
                column + PICTURE / 2, bottom - 0.24, f"{float(bag.weights[column]):.2f}", ha="center", va="center", fontsize=6
            )
            if bag.witness is not None and bag.witness[column]:
                axes.add_patch(rectangle(column, bottom, PICTURE, PICTURE, facecolor="none", edgecolor=WITNESS, linewidth=2))
        if len(bag.pictures) > most:
            axes.text(columns, bottom + 0.4, f"and {len(bag.pictures) - most} more", va="center", fontsize=6)
    axes.set(xlim=(-1.2, columns + 0.1), ylim=(-0.05, len(bags) * height), aspect="equal")
    axes.axis("off")
    frames = "; witnesses are framed" if any(bag.witness is not None for bag in bags) else ""
    axes.set_title(f"attention in each bag, and rescaled as a bar{frames}", fontsize=9)
    return canvas


def rectangle(left: float, bottom: float, width: float, height: float, **style: object) -> Any:
    """A rectangle to be put into axes."""
    from matplotlib.patches import Rectangle

    return Rectangle((left, bottom), width, height, **style)  # pyright: ignore[reportArgumentType]


def heat_map(image: Tensor, bag: Bag) -> Figure:
    """A large image, the patches that it is cut into, the witnesses among them, and the patches times their rescaled weights:
    Figure 5 of Ilse et al. 2018, arXiv:1802.04712.

    Args:
        image: (channels, height, width).
        bag: its patches, row by row; witnesses are known.
    """
    assert bag.witness is not None
    patches, witness = bag.pictures, bag.witness
    rows, columns = image.shape[1] // patches.shape[2], image.shape[2] // patches.shape[3]
    above = bag.weights[witness].unsqueeze(1) - bag.weights[~witness]
    auc = float(((above > 0).float() + (above == 0).float() / 2).mean())
    shown = {
        f"(a) an image; p = {bag.probability:.2f}": image,
        f"(b) its {len(patches)} patches": patches,
        f"(c) the {int(witness.sum())} witnesses": patches * witness.view(-1, 1, 1, 1),
        f"(d) times attention a'; AUC {auc:.2f}": patches * bag.rescaled.view(-1, 1, 1, 1),
    }
    canvas, axes = figure(14.0, 3.9, [list(shown)])
    for name, pictures in shown.items():
        pictures = pictures.detach().float().cpu()
        axes[name].imshow(plottable(pictures if pictures.dim() == 3 else grid(pictures.unflatten(0, (rows, columns)))))
        axes[name].set_title(name, fontsize=10)
        axes[name].axis("off")
    return canvas
