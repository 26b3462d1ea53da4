"""Grids of pictures and figures, as TensorBoard takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST_CELL = 40  # pixels; smaller pictures are enlarged by a whole factor, so that an 8x8 digit can be seen
GAP = 2
BACKGROUND = 0.35


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


def around(points: Tensor, margin: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a square around points, (n, 2), with a margin in shares of its side."""
    least, most = points.amin(0), points.amax(0)
    middle, half = (least + most) / 2, float((most - least).max()) * (0.5 + margin)
    left, bottom = (middle - half).tolist()
    right, top = (middle + half).tolist()
    return left, right, bottom, top


def pixels(canvas: Figure) -> np.ndarray:
    """A figure as (height, width, 3), uint8."""
    agg: Any = canvas.canvas
    agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()


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

    if codes.shape[1] == 1:
        codes = np.stack([codes[:, 0], np.zeros(len(codes))], 1)
    title, axis_names = "latent space", ("z_1", "z_2")
    if codes.shape[1] > 2:
        centred = codes - codes.mean(0)
        _, values, axes_of_codes = np.linalg.svd(centred, full_matrices=False)
        codes = centred @ axes_of_codes[:2].T
        share = (values[:2] ** 2).sum() / (values**2).sum()
        title = f"latent space, its two principal axes ({100 * share:.0f} % of the variance)"
        axis_names = ("first axis", "second axis")
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


# Flows ---------------------------------------------------------------------------------------------------------------

Limits = tuple[float, float, float, float]  # left, right, bottom, top
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
        axes[str(number)].set_title("the base" if number == 0 else f"after layer {number}", fontsize=8)
    return canvas


def cloud(points: np.ndarray, start: np.ndarray, limits: Limits, title: str) -> Figure:
    """One picture of a film of the same: (n, 2) each."""
    canvas, axes = figure(4.4, 4.6)
    canvas.set_layout_engine("none")  # by hand, so that nothing moves from picture to picture
    axes.set_position((0.09, 0.07, 0.88, 0.85))
    scatter(axes, points, start, limits)
    axes.set_title(title, fontsize=10)
    return canvas


def scatter(axes: Any, points: np.ndarray, start: np.ndarray, limits: Limits) -> None:
    """Points in the colours of where they start."""
    axes.scatter(
        *points.T, s=3, c=np.arctan2(start[:, 1], start[:, 0]), cmap=CLOUD_COLOURS, vmin=-np.pi, vmax=np.pi, linewidths=0
    )
    axes.set(xlim=limits[:2], ylim=limits[2:], aspect="equal")
    axes.tick_params(labelsize=7)


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


# Adversarial methods; green is real and purple generated, as in GAN Lab (Kahng et al. 2018, arXiv:1809.01587) ----------

REAL, GENERATED, PULL = "#1b7837", "#762a83", "crimson"
SURFACE_COLOURS, SURFACE_ALPHA = "PRGn", 0.6
REACH = 4.5  # of the picture beyond the two means, in standard deviations
LOSS_COLOURS = {"minimax": "tab:red", "non_saturating": "tab:orange", "wasserstein": "tab:blue"}


def plane(
    real: np.ndarray,
    generated: np.ndarray,
    pulls: np.ndarray,
    surface: np.ndarray,
    limits: tuple[float, float, float, float],
    centre: float | None,
    title: str,
) -> Figure:
    """Real and generated points on the critic's surface, and an arrow where each generated point is told to go.

    Args:
        real: (n, 2).
        generated: (n, 2).
        pulls: (m, 2), of the first m generated points; all are scaled alike, so that nine in ten are shorter than an eighth
            of the picture, and a key names the length. The longest are cut at one and a half times that.
        surface: (rows, columns), the critic's values over `limits`, the first row lowest.
        limits: (left, right, bottom, top).
        centre: the value between real and generated, about which colours are symmetric; None for probabilities.
        title: above the picture.
    """
    left, right, bottom, top = limits
    canvas, axes = figure(6.4, 5.6)
    # By hand, so that nothing moves from picture to picture.
    canvas.set_layout_engine("none")
    axes.set_position((0.095, 0.155, 0.69, 0.79))
    label = "D(x): 1 real, 0 generated" if centre is None else "critic d(x), less the middle of real and generated"
    if centre is not None:
        surface = surface - centre
    centre, reach = (0.5, 0.5) if centre is None else (0.0, max(float(np.abs(surface).max()), 1e-12))
    shown = axes.imshow(
        surface, extent=limits, origin="lower", cmap=SURFACE_COLOURS, vmin=centre - reach, vmax=centre + reach,
        alpha=SURFACE_ALPHA, interpolation="bilinear", aspect="auto",
    )  # fmt: skip
    columns, rows = np.linspace(left, right, surface.shape[1]), np.linspace(bottom, top, surface.shape[0])
    if surface.min() < centre < surface.max():
        axes.contour(columns, rows, surface, levels=[centre], colors="black", linewidths=0.8, linestyles="dashed")
    bar = canvas.colorbar(shown, cax=canvas.add_axes((0.82, 0.2, 0.03, 0.7)))
    bar.set_label(label)
    axes.scatter(*real.T, s=18, color=REAL, edgecolors="white", linewidths=0.3, label="real")
    axes.scatter(*generated.T, s=11, color=GENERATED, edgecolors="white", linewidths=0.3, label="generated")
    lengths = np.linalg.norm(pulls, axis=1)
    large = float(np.quantile(lengths, 0.9))
    if large > 0:
        unit = 10.0 ** np.floor(np.log10(large))
        unit *= max(step for step in (1, 2, 5) if step * unit <= large * (1 + 1e-9))
        scale = large / ((right - left) / 8)
        pulls = pulls * np.minimum(1, 1.5 * large / np.maximum(lengths, 1e-30))[:, None]
        arrows = axes.quiver(
            *generated[: len(pulls)].T, *pulls.T, color=PULL, angles="xy", scale_units="xy", scale=scale, width=0.004,
            zorder=3,
        )  # fmt: skip
        axes.quiverkey(
            arrows, 0.6, -0.124, unit, f"$-\\nabla$ generator loss: {unit:g} per unit", labelpos="E", coordinates="axes",
            fontproperties={"size": 8},
        )  # fmt: skip
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, -0.16), ncols=2, columnspacing=1.0, fontsize=8, frameon=False, markerscale=1.5
    )
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_title(title, fontsize=10)
    return canvas


def palette() -> list[int]:
    """256 colours, red, green and blue of each, that hold the pictures of `plane`: the surface, and shades of what is on it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    surface = colormaps[SURFACE_COLOURS](np.linspace(0, 1, 180))[:, :3]
    shades = [np.linspace(to_rgb(colour), (1, 1, 1), 19) for colour in ("black", REAL, GENERATED, PULL)]
    colours = np.concatenate([1 - SURFACE_ALPHA * (1 - surface), *shades])
    return (colours * 255).round().astype(int).ravel().tolist()


def critics(lines: dict[str, np.ndarray], means: dict[str, np.ndarray], shown: int) -> Figure:
    """A discriminator and a Wasserstein critic of two known densities, and the gradients that they give a generator.

    Args:
        lines: (separations, points) each, as `HasCriticCurves.along_the_lines` names them.
        means: (separations,) each, as `by_separation` names them.
        shown: the separation whose line is drawn.
    """
    s = means["separation"]
    near = (lines["x"][shown] > -REACH) & (lines["x"][shown] < s[shown] + REACH)
    line = {name: values[shown][near] for name, values in lines.items()}
    x = line["x"]
    canvas, axes = figure(
        11.5, 6.2, [["functions", "means"], ["gradients", "means"]], width_ratios=[1.25, 1], height_ratios=[1.25, 1]
    )
    above, below, right = axes["functions"], axes["gradients"], axes["means"]
    for name, colour in (("real", REAL), ("generated", GENERATED)):
        above.fill_between(x, 0.8 * line[name] / line[name].max(), color=colour, alpha=0.18, linewidth=0)
        above.text(x[line[name].argmax()], 0.1, name, color=colour, ha="center", fontsize=9)
    probability, exact = (1 / (1 + np.exp(-line[name].clip(-700, 700))) for name in ("logit", "exact_logit"))
    drawn = above.plot(x, probability, color=LOSS_COLOURS["minimax"], label="discriminator D(x)")
    drawn += above.plot(x, exact, color="black", linewidth=1, linestyle="dotted", label="p / (p + q)")
    other = above.twinx()
    drawn += other.plot(
        x, line["critic"] - line["critic"].mean(), color=LOSS_COLOURS["wasserstein"], label="Wasserstein critic f(x)"
    )
    other.set_ylabel("f(x), up to a constant")
    title = f"critics of two densities at distance {s[shown]:g}"
    above.set(ylabel="D(x)", xlim=(x[0], x[-1]), ylim=(-0.05, 1.3), title=title)
    above.legend(handles=drawn, loc="upper center", ncols=3, fontsize=8)
    formulas = {"minimax": "$D\\,|d'|$", "non_saturating": "$(1-D)\\,|d'|$", "wasserstein": "$|f'|$"}
    for name, colour in LOSS_COLOURS.items():
        label = {"wasserstein": "Wasserstein"}.get(name, name.replace("_", "-"))
        below.semilogy(x, line[f"{name}_gradient"].clip(1e-30), color=colour, label=f"{label} {formulas[name]}")
        right.semilogy(s, means[f"{name}_gradient"].clip(1e-30), color=colour, marker="o", label=label)
        if f"exact_{name}_gradient" in means:
            right.semilogy(s, means[f"exact_{name}_gradient"], color=colour, linestyle="dotted")
    below.axvspan(s[shown] - 3, s[shown] + 3, color=GENERATED, alpha=0.1, linewidth=0)
    below.set(xlabel="x; shaded: where generated points lie", ylabel="gradient", xlim=(x[0], x[-1]), ylim=(1e-8, 1e3))
    below.legend(fontsize=8, loc="upper center", ncols=3)
    right.set(
        xlabel="distance between the densities", ylabel="mean gradient at generated points",
        title="what reaches the generator; dotted: of the exact D",
    )  # fmt: skip
    right.grid(alpha=0.3)
    right.legend(loc="lower left")
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
