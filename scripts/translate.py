"""Translates the lines of standard input by a checkpoint, which is all it needs.

python scripts/translate.py CHECKPOINT < german.txt > english.txt
python scripts/translate.py CHECKPOINT --n-best 3 --beam-size 10
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import dlkit
from dlkit.evaluation import explain_errors
from dlkit.protocols import Translates
from dlkit.text import lines_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=1.0, help="strength of the length penalty")
    parser.add_argument("--min-length", type=int, default=0, help="tokens a translation has at least")
    parser.add_argument("--max-length", type=int, default=0, help="tokens it has at most; 0: twice the sentence's and ten more")
    parser.add_argument(
        "--n-best", type=int, default=1, help="how many of the beam's translations are printed, as: line, score, text"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.n_best <= arguments.beam_size:
        raise ValueError(f"--n-best {arguments.n_best}: give 1 or more, and no more than --beam-size {arguments.beam_size}")
    if not math.isfinite(arguments.alpha):
        raise ValueError(f"--alpha {arguments.alpha}: give a number")
    method = dlkit.load(arguments.checkpoint)
    if not isinstance(method, Translates):
        raise ValueError(
            f"{arguments.checkpoint} is a {type(method).__name__}, which does not translate: use scripts/evaluate.py"
        )
    try:
        sentences = lines_of(sys.stdin.buffer.read().decode("utf-8-sig"))  # whatever the terminal's encoding is
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 ({error}): convert it, such as by iconv -f latin1 -t utf-8") from error
    found = method.translations(  # type: ignore[attr-defined]
        sentences, arguments.beam_size, arguments.alpha, arguments.min_length, arguments.max_length
    )
    for number, translations in enumerate(found, 1):
        for translation in translations[: arguments.n_best]:
            print(translation.text if arguments.n_best == 1 else f"{number}\t{translation.score:.4f}\t{translation.text}")


if __name__ == "__main__":
    sys.exit(explain_errors(main))
