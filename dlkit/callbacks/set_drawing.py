"""Sets of pictures in rows, and curves over the sizes of sets."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from dlkit.callbacks.bag_drawing import plottable, rectangle
from dlkit.callbacks.drawing import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE, CHOSEN, WRONG = "tab:orange", "tab:blue", "tab:red"
CELL, STRIP = 0.62, 0.5  # inches a picture; and the height below one, in pictures
MOST = 20  # pictures of a set, side by side
LETTERS = 14  # of a title, in an inch


class Row(NamedTuple):
    """One set as it is drawn.

    Attributes:
        pictures: (members, channels, height, width) in [0, 1].
        texts: what stands below each picture.
        framed: the colour of each picture's frame; "" for none.
        marked: the place of the member that is underlined; None for none.
        caption: what stands before the row.
        right: whether the set's answer is.
    """

    pictures: Tensor
    texts: list[str]
    framed: list[str]
    marked: int | None
    caption: str
    right: bool


def rows_of_pictures(rows: list[Row], title: str) -> Figure:
    """A set a row, its first members side by side; the captions of wrong answers are red."""
    columns = max(min(len(row.pictures), MOST) for row in rows)
    height = 1 + STRIP
    canvas, axes = figure(1.9 + CELL * columns, 0.6 + CELL * height * len(rows))
    for number, row in enumerate(rows):
        bottom = (len(rows) - 1 - number) * height + STRIP
        axes.text(-0.2, bottom + 0.4, row.caption, ha="right", va="center", fontsize=8, color="black" if row.right else WRONG)
        for column, picture in enumerate(plottable(row.pictures[:MOST])):
            axes.imshow(picture, extent=(column, column + 0.9, bottom, bottom + 0.9), interpolation="nearest")
            axes.text(column + 0.45, bottom - 0.24, row.texts[column], ha="center", va="center", fontsize=7)
            if row.framed[column]:
                frame = {"facecolor": "none", "edgecolor": row.framed[column], "linewidth": 2}
                axes.add_patch(rectangle(column, bottom, 0.9, 0.9, **frame))
            if column == row.marked:
                axes.add_patch(rectangle(column, bottom - 0.12, 0.9, 0.08, facecolor=CHOSEN))
        if len(row.pictures) > MOST:
            axes.text(columns, bottom + 0.4, f"and {len(row.pictures) - MOST} more", va="center", fontsize=7)
    axes.set(xlim=(-2.2, columns + 0.1), ylim=(-0.05, len(rows) * height), aspect="equal")
    axes.axis("off")
    # Of few and small sets the figure is narrower than a line.
    axes.set_title(textwrap.fill(title, int(LETTERS * canvas.get_figwidth())), fontsize=9)
    return canvas


def by_size(found: dict[str, np.ndarray], largest: int | None) -> Figure:
    """Shares of right answers, and errors, against the size of sets.

    Args:
        found: (sizes,) each: `size`, and any of `accuracy`, `exact` and `mae`.
        largest: of the sets in training, up to which the ground is grey; None where it is not known.
    """
    titles = {"accuracy": "share of right answers", "exact": "share of exact answers", "mae": "mean absolute error"}
    names = [name for name in titles if name in found]
    canvas, axes = figure(4.6 * len(names), 3.6, [names])
    for name in names:
        panel = axes[name]
        if largest is not None:
            panel.axvspan(0, largest, color="grey", alpha=0.2, linewidth=0, label="sizes of training sets")
            panel.legend(fontsize=8, loc="upper left" if name == "mae" else "center right")
        panel.plot(found["size"], found[name], marker="o", markersize=4, color=CHOSEN)
        panel.set(xlabel="members of the set", title=titles[name], xlim=(0, 1.04 * found["size"].max()))
        panel.set_ylim(0, None if name == "mae" else 1.02)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    return canvas
