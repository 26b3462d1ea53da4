"""Predicted against true values, and molecules with what was predicted of them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlkit.callbacks.drawing import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TARGETS = 12
COLUMNS = 4
CELL = (280, 240)  # pixels of a molecule


def against_truth(predicted: np.ndarray, y: np.ndarray, names: Sequence[str]) -> Figure:
    """A pair of axes for each target: predicted against true values, on the line where they agree.

    Args:
        predicted, y: (examples, targets), in the targets' units; NaN in y where one is missing.
        names: of the targets, with their units.
    """
    count = min(y.shape[1], MOST_TARGETS)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    mosaic = [[min(row * columns + column, count) for column in range(columns)] for row in range(rows)]
    canvas, found = figure(max(4.4, 3.6 * columns), max(4.4, 3.8 * rows), mosaic, empty_sentinel=count)
    for target in range(count):
        axes, known = found[target], ~np.isnan(y[:, target])
        true, guess = y[known, target], predicted[known, target]
        title = "no value is known"
        if len(true):
            least, most = min(true.min(), guess.min()), max(true.max(), guess.max())
            margin = 0.05 * (most - least) or 1.0
            limits = (least - margin, most + margin)
            axes.plot(limits, limits, color="grey", linewidth=1)
            # Where there are many, the cloud's middle is to be seen too.
            axes.scatter(true, guess, s=12, alpha=min(0.7, max(0.1, 200 / len(true))), color="tab:blue", linewidths=0)
            axes.set(xlim=limits, ylim=limits, aspect="equal")
            title = f"rmse {math.sqrt(((guess - true) ** 2).mean()):.4g}, {len(true)} examples"
        axes.set_title(f"{names[target]}\n{title}", fontsize=9)
        axes.set(xlabel="true", ylabel="predicted")
    return canvas


def molecules(smiles: Sequence[str], legends: Sequence[str]) -> np.ndarray | None:
    """Molecules in a table, what is to be said of each below it: (height, width, 3), uint8; None where RDKit is absent."""
    try:
        from rdkit import Chem
        from rdkit.Chem.Draw import rdMolDraw2D
    except ModuleNotFoundError:
        return None
    from PIL import Image

    columns = min(COLUMNS, len(smiles))
    rows = -(-len(smiles) // columns)
    board = rdMolDraw2D.MolDraw2DCairo(columns * CELL[0], rows * CELL[1], *CELL)
    options = board.drawOptions()
    options.legendFontSize = 18
    options.legendFraction = 0.2
    board.DrawMolecules([Chem.MolFromSmiles(string) for string in smiles], legends=list(legends))
    board.FinishDrawing()
    with Image.open(io.BytesIO(board.GetDrawingText())) as picture:
        return np.asarray(picture.convert("RGB"))
