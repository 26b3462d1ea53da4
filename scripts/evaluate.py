"""Measures a checkpoint on the test data of its run, as a table and as JSON.

python scripts/evaluate.py CHECKPOINT [--json FILE] [--split test]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dlkit.evaluation import evaluate, explain_errors


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a checkpoint on the data of its run.", allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--json", type=Path, help="where to write the metrics")
    arguments = parser.parse_args()
    evaluate(arguments.checkpoint, arguments.split, arguments.json)


if __name__ == "__main__":
    sys.exit(explain_errors(main))
