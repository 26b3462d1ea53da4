"""Figures of densities of the plane, of flows, and of lattice fields."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.callbacks.drawing import Limits, figure, moving

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOUD_COLOURS = "hsv"  # cyclic, for the angle at which a point starts


def densities(found: dict[str, np.ndarray], samples: np.ndarray, limits: Limits, title: str) -> Figure:
    """Densities of the plane side by side, in one scale of colours, and samples beside them.

    Args:
        found: by name, (rows, columns) over `limits`, the first row lowest.
        samples: (n, 2).
        limits: of each picture.
        title: above all.
    """
    names = [*found, "samples"]
    canvas, axes = figure(3.4 * len(names) + 0.7, 3.9, [names])
    # The scale ends where nearly all of the first density lies: a single peak must not darken the rest.
    first = next(iter(found.values()))
    top, shown = float(np.quantile(first[first > 0], 0.995)) if (first > 0).any() else 1.0, None
    for name, values in found.items():
        shown = axes[name].imshow(
            values, extent=limits, origin="lower", cmap="magma", vmin=0, vmax=top, interpolation="nearest"
        )  # fmt: skip
    if shown is not None:
        canvas.colorbar(shown, ax=[axes[name] for name in found], label="p(x)", shrink=0.8)
    axes["samples"].scatter(*samples.T, s=2, color="black", linewidths=0)
    for name in names:
        axes[name].set(xlim=limits[:2], ylim=limits[2:], aspect="equal", title=name)
    canvas.suptitle(title, fontsize=10)
    return canvas


def layers(clouds: np.ndarray, limits: Limits) -> Figure:
    """A cloud of points after each layer, coloured by the angle at which each point starts: (layers + 1, n, 2)."""
    columns = min(len(clouds), 5)
    rows = -(-len(clouds) // columns)
    names = [[str(number) if number < len(clouds) else "." for number in range(row * columns, (row + 1) * columns)]
             for row in range(rows)]  # fmt: skip
    canvas, axes = figure(2.1 * columns, 2.2 * rows, names)
    for number, points in enumerate(clouds):
        scatter(axes[str(number)], points, clouds[0], limits)
        axes[str(number)].set_title(after(number), fontsize=8)
    return canvas


def film(clouds: np.ndarray, between: int, limits: Limits) -> Iterator[np.ndarray]:
    """The same, moving: (height, width, 3), uint8 each.

    Args:
        clouds: (layers + 1, n, 2).
        between: pictures from one cloud to the next, on whose way each point goes straight on.
        limits: of every picture.
    """
    canvas, axes = figure(4.4, 4.6)
    canvas.set_layout_engine("none")  # by hand, so that nothing moves from picture to picture
    axes.set_position((0.09, 0.07, 0.88, 0.85))
    points, title = scatter(axes, clouds[0], clouds[0], limits), axes.set_title("", fontsize=10)

    def moves() -> Iterator[None]:
        for number, (cloud, following) in enumerate(pairwise(clouds)):
            title.set_text(after(number))
            for part in range(between):
                points.set_offsets(cloud + part / between * (following - cloud))
                yield
        title.set_text(after(len(clouds) - 1))
        points.set_offsets(clouds[-1])
        yield

    return moving(canvas, [points, title], moves())


def after(layer: int) -> str:
    """The title of a cloud."""
    return f"after layer {layer}" if layer else "the base"


def scatter(axes: Any, points: np.ndarray, start: np.ndarray, limits: Limits) -> Any:
    """Points in the colours of where they start, which are returned."""
    axes.set(xlim=limits[:2], ylim=limits[2:], aspect="equal")
    axes.tick_params(labelsize=7)
    return axes.scatter(
        *points.T, s=3, c=np.arctan2(start[:, 1], start[:, 0]), cmap=CLOUD_COLOURS, vmin=-np.pi, vmax=np.pi, linewidths=0
    )


# Lattices ------------------------------------------------------------------------------------------------------------

FLOW, HMC_COLOUR = "tab:blue", "tab:orange"


def configurations(flow: np.ndarray, other: np.ndarray, label: str, angles: bool) -> Figure:
    """Configurations of a flow (above) and of Hamiltonian Monte Carlo (below) in one scale of colours: (n, L1, L2) each."""
    count = len(flow)
    names = [[f"{kind} {number}" for number in range(count)] for kind in ("flow", "HMC")]
    canvas, axes = figure(1.5 * count + 0.9, 3.5, names)
    reach = np.pi if angles else float(np.abs(np.concatenate([flow, other])).max())
    shown = None
    for kind, fields in (("flow", flow), ("HMC", other)):
        for number, field in enumerate(fields):
            panel = axes[f"{kind} {number}"]
            shown = panel.imshow(field, cmap="twilight" if angles else "RdBu_r", vmin=-reach, vmax=reach)
            panel.set(xticks=[], yticks=[])
            if number == 0:
                panel.set_ylabel(kind)
    assert shown is not None
    canvas.colorbar(shown, ax=list(axes.values()), label=label, shrink=0.8)
    return canvas


def markov_chain(series: np.ndarray, accepted: np.ndarray, label: str) -> Figure:
    """An observable along a Metropolis chain, and the share of proposals accepted so far: (time,) each."""
    canvas, axes = figure(9, 4.2, [["series"], ["acceptance"]], sharex=True, height_ratios=[2, 1])
    axes["series"].plot(series, linewidth=0.6, color=FLOW)
    axes["series"].set(ylabel=label, title="Metropolis chain of the flow's proposals")
    axes["acceptance"].plot(np.cumsum(accepted) / np.arange(1, len(accepted) + 1), color=FLOW)
    axes["acceptance"].set(xlabel="step", ylabel="accepted so far", ylim=(0, 1))
    return canvas


def correlations(found: dict[str, tuple[np.ndarray, ...]], label: str) -> Figure:
    """Functions of distance with errors: by name the distances, the values and their errors, (distances,) each."""
    canvas, axes = figure(5.5, 4)
    for number, (name, (distances, values, errors)) in enumerate(found.items()):
        axes.errorbar(
            distances + 0.08 * (number - 0.5), values, errors, marker="o", markersize=3, linewidth=1, capsize=3, label=name,
            color=(FLOW, HMC_COLOUR)[number % 2],
        )  # fmt: skip
    if all((values > 0).all() for _, values, _ in found.values()):
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="distance", ylabel=label)
    axes.legend(fontsize=8)
    return canvas
