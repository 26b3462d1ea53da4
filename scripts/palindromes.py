"""Accuracy against length of the palindrome recipes, in one figure: the course's comparison of RNN, GRU and LSTM.

    for seed in 0 1 2; do for cell in rnn gru lstm; do
        python scripts/fit.py palindromes-$cell --seed $seed && python scripts/fit.py test palindromes-$cell
    done; done
    python scripts/palindromes.py        # from the runs below lightning_logs/

Writes docs/palindromes.png, and the same figure for TensorBoard into lightning_logs/palindromes-compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from results import finished_runs
from torch.utils.tensorboard import SummaryWriter

from datamodules import Palindromes
from dlkit.callbacks import drawing

LOGS = Path("lightning_logs")
TARGET = Path(__file__).parent.parent / "docs" / "palindromes.png"
CELLS = ("rnn", "gru", "lstm")
PREFIX = "test/accuracy_at_length_"


def runs(cell: str) -> list[dict[int, float]]:
    """The accuracies by length of each seed's newest finished and tested run of a cell's recipe as it stands."""
    return [
        {int(name.removeprefix(PREFIX)): value for name, value in run["metrics"].items() if name.startswith(PREFIX)}
        for _, run in sorted(finished_runs(f"palindromes-{cell}").items())
    ]


def main() -> None:
    every = {cell: runs(cell) for cell in CELLS}
    absent = [cell for cell, found in every.items() if not found]
    if absent:
        sys.exit(f"error: there is no tested run of palindromes-{absent[0]} below {LOGS}/: train and test it first")
    length = np.array(sorted(every["lstm"][0]))
    curves = {cell: np.array([[run[step] for step in length] for run in found]) for cell, found in every.items()}
    data = Palindromes()
    data.setup()
    test = data.splits["test"]
    majority = np.array(
        [test["y"][test["x"].lengths == step].bincount().max() / (test["x"].lengths == step).sum() for step in length]
    )
    figure = drawing.compared_by_length(length, curves, majority)
    figure.savefig(TARGET)
    with SummaryWriter(str(LOGS / "palindromes-compared")) as board:
        board.add_figure("accuracy_by_length", figure)
    for cell, values in curves.items():
        print(
            f"{cell:5} {len(values)} runs  "
            + "  ".join(f"{step}: {mean:.3f}" for step, mean in zip(length, values.mean(0), strict=True))
        )
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
