"""Draws samples from a checkpoint, as a PNG grid and an npz file.

python scripts/sample.py CHECKPOINT [--number 64] [--out samples] [--seed 0] [--labels 3 3 7] [--latents mixture]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dlkit.evaluation import explain_errors, sample


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws samples from a checkpoint.", allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--number", type=int, default=64, help="how many samples (64)")
    parser.add_argument("--out", type=Path, default=Path("samples"), help="writes OUT.png and OUT.npz (samples)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=int, nargs="+", help="classes to go through, for a conditional method")
    parser.add_argument(
        "--latents", choices=["gaussian", "mixture"],
        help="density to fit to an autoencoder's latents (the one in the checkpoint, or else a mixture)",
    )  # fmt: skip
    arguments = parser.parse_args()
    sample(arguments.checkpoint, arguments.number, arguments.out, arguments.seed, arguments.labels, arguments.latents)


if __name__ == "__main__":
    sys.exit(explain_errors(main))
