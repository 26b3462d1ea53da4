"""Figures of particles: their ways, where a method sees them arrive, and a film of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlkit.callbacks.drawing import figure, moving

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
MARGIN = 0.08  # around what is shown, of its extent
COLOURS = {"+": "tab:red", "-": "tab:blue"}  # of a charge's sign


class System(NamedTuple):
    """What is drawn of a system, the first two coordinates of each place.

    Attributes:
        path: (times, particles, 2), the true way; the last is where the particles are to be foretold.
        predicted: (particles, 2).
        charges: (particles,).
        error: the mean squared error of this prediction, all coordinates counted.
    """

    path: np.ndarray
    predicted: np.ndarray
    charges: np.ndarray
    error: float


def trajectories(systems: list[System]) -> Figure:
    """True ways and predicted ends of a few systems, each in its own frame."""
    canvas, axes = panes(systems, "true end")
    for system, pane in zip(systems, axes, strict=True):
        for number, charge in enumerate(system.charges):
            way, colour = system.path[:, number], colour_of(charge)
            pane.plot(*way.T, color=colour, linewidth=1.2, alpha=0.8)
            pane.plot(*way[0], marker="o", markersize=4, color="white", markeredgecolor=colour)
            pane.plot(*way[-1], marker="o", markersize=6, color=colour)
    return canvas


def film(systems: list[System]) -> Iterator[np.ndarray]:
    """The same, moving: pictures of one size, (height, width, 3), uint8, one for each time."""
    canvas, axes = panes(systems, "particle")
    parts: list[tuple[Any, Any, np.ndarray]] = []
    for system, pane in zip(systems, axes, strict=True):
        for number, charge in enumerate(system.charges):
            way, colour = system.path[:, number], colour_of(charge)
            pane.plot(*way[0], marker="o", markersize=4, color="white", markeredgecolor=colour)
            (trace,) = pane.plot([], [], color=colour, linewidth=1.2, alpha=0.8)
            (particle,) = pane.plot([], [], marker="o", markersize=6, color=colour)
            parts.append((trace, particle, way))

    def moves() -> Iterator[None]:
        for time in range(len(systems[0].path)):
            for trace, particle, way in parts:
                trace.set_data(*way[: time + 1].T)
                particle.set_data(*way[time : time + 1].T)
            yield

    return moving(canvas, [artist for trace, particle, _ in parts for artist in (trace, particle)], moves())


def panes(systems: list[System], dot: str) -> tuple[Figure, list[Any]]:
    """A pane for each system with its predicted ends and how they miss, and the legend of all, `dot` what a dot is."""
    from matplotlib.lines import Line2D

    columns = min(len(systems), COLUMNS)
    rows = -(-len(systems) // columns)
    names = [[str(row * columns + column) if row * columns + column < len(systems) else "." for column in range(columns)]
             for row in range(rows)]  # fmt: skip
    canvas, axes = figure(2.9 * columns + 0.3, 3.1 * rows + 0.6, names)
    found = [axes[str(number)] for number in range(len(systems))]
    for system, pane in zip(systems, found, strict=True):
        for number, charge in enumerate(system.charges):
            end, predicted = system.path[-1, number], system.predicted[number]
            pane.plot(*np.stack([end, predicted]).T, color="black", linewidth=0.8, linestyle="dotted")
            pane.plot(*predicted, marker="x", markersize=8, markeredgewidth=1.8, color=colour_of(charge), zorder=3)
        places = np.concatenate([system.path.reshape(-1, 2), system.predicted])
        middle, half = (places.max(0) + places.min(0)) / 2, float(np.ptp(places, axis=0).max()) * (0.5 + MARGIN)
        pane.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
        pane.set_title(f"mean squared error {system.error:.2g}", fontsize=9)
        pane.tick_params(labelsize=7)
        pane.set_xlabel("x_1", fontsize=8)
        pane.set_ylabel("x_2", fontsize=8)
    grey: dict[str, Any] = {"color": "grey", "linestyle": "none"}
    entries = [
        *(Line2D([], [], color=colour, label=f"charge {sign}1") for sign, colour in COLOURS.items()),
        Line2D([], [], marker="o", markersize=4, markerfacecolor="white", label="given", **grey),
        Line2D([], [], marker="o", markersize=6, label=dot, **grey),
        Line2D([], [], marker="x", markersize=8, markeredgewidth=1.8, label="predicted end", **grey),
    ]
    canvas.legend(handles=entries, loc="outside lower center", ncols=len(entries) if columns > 1 else 2, fontsize=8)
    return canvas, found


def colour_of(charge: float) -> str:
    """Of a particle."""
    return COLOURS["+" if charge > 0 else "-"]


def errors(moved: np.ndarray, missed: np.ndarray) -> Figure:
    """How far each particle's prediction misses, against how far the particle moves: (particles,) each."""
    canvas, axes = figure(5.4, 4.2)
    axes.scatter(moved, missed, s=5, alpha=0.4, linewidths=0, color="tab:blue", label="a particle")
    ends = np.array([moved.min(), moved.max()])
    axes.plot(ends, ends, color="grey", linewidth=1, linestyle="dashed", label="as if it had stayed where it was")
    order = np.argsort(moved)
    groups = [group for group in np.array_split(order, min(10, len(order))) if len(group)]
    axes.plot(
        [np.median(moved[group]) for group in groups], [np.sqrt(np.mean(missed[group] ** 2)) for group in groups],
        color="black", marker="o", markersize=4, linewidth=1, label="root mean square of a tenth of them",
    )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="distance that the particle moves", ylabel="distance by which the prediction misses",
        title="errors of held-out particles",
    )  # fmt: skip
    axes.legend(fontsize=8, loc="upper left")
    return canvas
