"""Figures of generators and critics.

Green is real and purple generated, as in GAN Lab (Kahng et al. 2018, arXiv:1809.01587).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlkit.callbacks.drawing import Limits, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL, GENERATED, PULL = "#1b7837", "#762a83", "crimson"
SURFACE_COLOURS, SURFACE_ALPHA = "PRGn", 0.6
REACH = 4.5  # of the picture beyond the two means, in standard deviations
LOSS_COLOURS = {"minimax": "tab:red", "non_saturating": "tab:orange", "wasserstein": "tab:blue"}


def plane(
    real: np.ndarray,
    generated: np.ndarray,
    pulls: np.ndarray,
    surface: np.ndarray,
    limits: Limits,
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
