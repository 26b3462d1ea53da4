"""Grids of pictures and figures, as TensorBoard takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST_CELL = 40  # pixels; smaller pictures are enlarged by a whole factor, so that an 8x8 digit can be seen
GAP = 2
BACKGROUND = 0.35

Limits = tuple[float, float, float, float]  # left, right, bottom, top


def is_image(shape: tuple[int, ...] | torch.Size) -> bool:
    """Whether (channels, height, width) can be shown as a picture."""
    return len(shape) == 3 and shape[0] in (1, 3)


def grid(rows: Tensor) -> Tensor:
    """Pictures laid out in a table: (rows, columns, channels, height, width) in [0, 1] -> (3, height', width').

    Values outside [0, 1] are clipped.
    """
    rows = rows.detach().float().cpu().clamp(0, 1)
    rows = rows.expand(-1, -1, 3, -1, -1) if rows.shape[2] == 1 else rows
    factor = max(1, -(-SMALLEST_CELL // max(rows.shape[-2:])))
    rows = rows.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    rows = torch.nn.functional.pad(rows, (GAP, GAP, GAP, GAP), value=BACKGROUND)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def square(pictures: Tensor, columns: int) -> Tensor:
    """(n, ...) -> (n // columns, columns, ...), what is left over dropped."""
    rows = len(pictures) // columns
    return pictures[: rows * columns].unflatten(0, (rows, columns))


def aligned(rows: Sequence[Tensor], columns: int) -> Tensor:
    """Pictures that belong together, one above the other: the first pictures of each row, then the next, and so on.

    Args:
        rows: each (n, channels, height, width).
        columns: how many side by side, where there are as many.
    """
    return grid(torch.stack([square(row, min(columns, len(row))) for row in rows], 1).flatten(0, 1))


def figure(width: float = 5.0, height: float = 4.0, mosaic: Any = None, **layout: Any) -> tuple[Figure, Any]:
    """A figure with one pair of axes, or a dict of them by the mosaic's names, drawn without a display and without pyplot's
    global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, canvas.subplots() if mosaic is None else canvas.subplot_mosaic(mosaic, **layout)


def around(points: Tensor, margin: float) -> Limits:
    """Left, right, bottom and top of a square around points, (n, 2), with a margin in shares of its side."""
    least, most = points.amin(0), points.amax(0)
    side = float((most - least).max()) or 1.0  # of a single point
    middle, half = (least + most) / 2, side * (0.5 + margin)
    left, bottom = (middle - half).tolist()
    right, top = (middle + half).tolist()
    return left, right, bottom, top


def pixels(canvas: Figure) -> np.ndarray:
    """A figure as (height, width, 3), uint8."""
    agg: Any = canvas.canvas
    agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()


def moving(canvas: Figure, artists: Sequence[Any], moves: Iterable[None]) -> Iterator[np.ndarray]:
    """Pictures of a figure in which few artists change, as `pixels` gives them, but for what would lie above these: they are
    drawn last. All else is drawn once, which is most of the time where little moves.

    Args:
        canvas: the figure.
        artists: that change, in the order in which they lie on each other.
        moves: changes them, once before each picture.
    """
    for artist in artists:
        artist.set_animated(True)
    pixels(canvas)
    agg: Any = canvas.canvas
    still = agg.copy_from_bbox(canvas.bbox)
    for _ in moves:
        agg.restore_region(still)
        for artist in artists:
            artist.axes.draw_artist(artist)
        yield np.asarray(agg.buffer_rgba())[..., :3].copy()


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray, names: list[str]) -> Figure:
    """How often each class (row) is taken for each other (column), as shares of the row."""
    count = len(names)
    table = np.zeros((count, count))
    np.add.at(table, (labels, probabilities.argmax(1)), 1)
    shares = table / table.sum(1, keepdims=True).clip(1)
    canvas, axes = figure(1.5 + 0.42 * count, 1.2 + 0.42 * count)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        axes.text(
            column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=8,
            color="white" if shares[row, column] > 0.5 else "black",
        )  # fmt: skip
    axes.set(
        xticks=range(count), yticks=range(count), xlabel="predicted class", ylabel="true class",
        title="confusion, % of each true class",
    )  # fmt: skip
    axes.set_xticklabels(names, rotation=0 if max(map(len, names)) < 3 else 60)
    axes.set_yticklabels(names)
    return canvas


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Figure:
    """Accuracy against confidence: on the diagonal the probabilities mean what they say."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    canvas, axes = figure()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfect")
    filled = [number for number in range(bins) if (which == number).any()]
    accuracy = [right[which == number].mean() for number in filled]
    size = np.array([(which == number).mean() for number in filled])
    mean_confidence = [confidence[which == number].mean() for number in filled]
    axes.plot(mean_confidence, accuracy, color="tab:blue", linewidth=1)
    axes.scatter(mean_confidence, accuracy, s=15 + 150 * size, color="tab:blue", label="bins, area = share of examples")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", title="reliability")
    axes.legend(loc="upper left", fontsize=8)
    return canvas


def latent_scatter(codes: np.ndarray, labels: np.ndarray | None, names: list[str]) -> Figure:
    """The codes in two dimensions: as they are, or on their two principal axes."""
    from matplotlib import colormaps

    title, axis_names = "latent space", ("z_1", "z_2")
    if codes.shape[1] > 2:
        centred = codes - codes.mean(0)
        _, values, axes_of_codes = np.linalg.svd(centred, full_matrices=False)
        codes = centred @ axes_of_codes[:2].T
        share = (values[:2] ** 2).sum() / max((values**2).sum(), np.finfo(values.dtype).tiny)
        title = f"latent space, its two principal axes ({100 * share:.0f} % of the variance)"
        axis_names = ("first axis", "second axis")
    codes = np.pad(codes, ((0, 0), (0, 2 - codes.shape[1])))  # of one dimension, or of one example
    canvas, axes = figure(6, 5)
    if labels is None:
        axes.scatter(codes[:, 0], codes[:, 1], s=8)
    else:
        colours = colormaps["tab10" if len(names) <= 10 else "gist_ncar"]
        for number, name in enumerate(names):
            chosen = codes[labels == number]
            shade = colours(number if len(names) <= 10 else number / len(names))
            axes.scatter(chosen[:, 0], chosen[:, 1], s=8, color=shade, label=name)
        axes.legend(markerscale=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(title=title, xlabel=axis_names[0], ylabel=axis_names[1])
    return canvas


def bars(values: np.ndarray, title: str, ylabel: str) -> Figure:
    """Values in falling order, one bar each."""
    canvas, axes = figure()
    axes.bar(np.arange(1, len(values) + 1), np.sort(values)[::-1], color="tab:blue")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=title, xlabel="latent dimension, in falling order", ylabel=ylabel)
    return canvas


# Sequences -----------------------------------------------------------------------------------------------------------


def attention(source: list[str], target: list[str], weights: Tensor) -> Figure:
    """Where each word written (row) looks in the sentence (column).

    Args:
        source: the sentence's tokens.
        target: the translation's.
        weights: (target, source), each row summing to one.
    """
    canvas, axes = figure(1.8 + 0.42 * len(source), 1.6 + 0.3 * len(target))
    axes.imshow(weights.float().cpu().numpy(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.set(xticks=range(len(source)), yticks=range(len(target)), title="attention")
    axes.set_xticklabels(source, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(target)
    return canvas


def by_length(length: np.ndarray, accuracy: np.ndarray, majority: np.ndarray) -> Figure:
    """Accuracy against length, beside that of always naming the most frequent class: (lengths,) each."""
    return compared_by_length(length, {"accuracy": accuracy[None]}, majority)


def compared_by_length(length: np.ndarray, curves: dict[str, np.ndarray], majority: np.ndarray) -> Figure:
    """The same of several methods.

    Args:
        length: (lengths,).
        curves: by name the accuracies of each run, (runs, lengths); the mean is drawn, and bars from the least to the best.
        majority: (lengths,).
    """
    canvas, axes = figure()
    axes.plot(length, majority, color="grey", linewidth=1, linestyle="dashed", label="most frequent class")
    for number, (name, runs) in enumerate(curves.items()):
        mean, colour = runs.mean(0), f"C{number}"
        axes.plot(length, mean, color=colour, marker="o", markersize=4, label=name)
        if len(runs) > 1:
            axes.errorbar(length, mean, [mean - runs.min(0), runs.max(0) - mean], color=colour, linewidth=1, capsize=2)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(ylim=(0, 1.02), xlabel="length of the sequence", ylabel="share of right answers", title="accuracy against length")
    axes.legend(loc="lower left", fontsize=8)
    return canvas


def panels(steps: list[float], rows: dict[str, dict[str, list[float]]], title: str) -> Figure:
    """Curves over the same steps, a row for each group, logarithmic where positive values span two decades.

    Args:
        steps: where on the time axis.
        rows: name of a row -> name of a curve -> its values, NaN where there was none.
        title: above the first row.
    """
    canvas, axes = figure(7, 1.0 + 1.6 * len(rows), [[name] for name in rows], sharex=True)
    for number, (name, curves) in enumerate(rows.items()):
        for shade, (label, values) in enumerate(curves.items()):
            axes[name].plot(steps, values, marker=".", color=f"C{2 * number + shade}", label=label)
        finite = [value for values in curves.values() for value in values if np.isfinite(value)]
        if finite and min(finite) > 0 and max(finite) > 100 * min(finite):
            axes[name].set_yscale("log")
        elif all(value == round(value) for value in finite):
            axes[name].yaxis.get_major_locator().set_params(integer=True)
        axes[name].set_ylabel(name)
        axes[name].grid(alpha=0.3)
        axes[name].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes[next(iter(rows))].set_title(title)
    axes[list(rows)[-1]].set_xlabel("step")
    return canvas
