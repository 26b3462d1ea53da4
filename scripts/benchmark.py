"""Measures dlkit against hand-written PyTorch loops and against its peers, in turn, by medians.

    python scripts/benchmark.py [SECTION ...] [--repeats 7] [--threads 1] [--steps N] [--json FILE] [--table FILE]
    python scripts/benchmark.py latent adversarial graphs --repeats 5 --table docs/speed.md

latent: variational autoencoders against a plain loop and pythae. adversarial: GAN and WGAN against a plain loop, torchgan and
the loops of PyTorch-GAN. sequences: a language model against a bare loop, a translator against Joey NMT, and beam search for
many sentences at once. flows: normalizing flows against zuko, nflows, normflows and a plain loop. graphs: message passing
against torch_geometric's layers. The files in benchmarks/ say what is compared with what; without a section all are measured.

Times depend on the machine and on its load; the ratios much less, because the rivals take turns, each in a process of its own,
and because a round is taken again, twice at most, when the machine became slower meanwhile. Waiting for that takes ten minutes
in all at most, and the last line says how many rounds had to be taken as they came; with --steps nobody looks or waits. Without
--threads there are as many as PyTorch takes, one a core, and each is bound to its own, so that no scheduler puts two on one.
On a machine that others use, --threads 1 gives steadier ratios: threads that wait for each other lose their time slices. A
rival that is not installed is named in its row: pip install dlkit[bench], and pip install --no-deps torchgan==0.1.0, which
would bring torchvision along and runs here without it. Joey NMT is installed as benchmarks/joeynmt_rival.py says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Read when torch is imported. A number of threads that is given may be less than there are cores, and others may run beside us.
os.environ["OMP_PROC_BIND"] = str(not any(word.startswith("--threads") for word in sys.argv)).lower()

import torch
from benchmarks import adversarial, flows, graphs, latent, sequences
from benchmarks.timing import Row, in_markdown, show, show_header
from benchmarks.turns import Settings, apart, start

from dlkit.evaluation import silence_nags

PATIENCE = 600.0  # seconds
SECTIONS = ("latent", "adversarial", "sequences", "flows", "graphs")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures dlkit against plain loops and its peers.", allow_abbrev=False)
    parser.add_argument("sections", nargs="*", help=f"{', '.join(SECTIONS)} (all)")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each rival, at least 2 (7)")
    parser.add_argument("--threads", type=int, help="of PyTorch (one a core)")
    parser.add_argument("--steps", type=int, help="of a turn, but in latent, for a quick look (what steady times need)")
    parser.add_argument("--json", type=Path, help="where to write the rows as JSON")
    parser.add_argument("--table", type=Path, help="where to write the rows as a page of Markdown")
    arguments = parser.parse_args()
    sections = arguments.sections or SECTIONS
    unknown = [section for section in sections if section not in SECTIONS]
    if unknown:
        parser.error(f"there is no section '{unknown[0]}': choose {' or '.join(SECTIONS)}")
    if arguments.repeats < 2:
        parser.error(f"--repeats {arguments.repeats}: a median needs at least 2")
    if arguments.steps is not None and arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: a turn has at least 1")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads {arguments.threads}: a rival has at least 1")
    try:
        threads = start(arguments.threads, PATIENCE if arguments.steps is None else 0)
    except OSError as error:
        parser.error(str(error))
    silence_nags()
    torch.manual_seed(0)
    bound = "bound to cores" if arguments.threads is None else "not bound to cores"
    conditions = f"torch {torch.__version__}, threads {bound}: {threads}, medians of {arguments.repeats} turns"
    print(conditions)
    show_header()
    made: dict[str, Callable[[], Iterator[Row]]] = {
        "latent": lambda: latent.rows(arguments.repeats),
        "adversarial": lambda: adversarial.rows(arguments.repeats, arguments.steps),
        "sequences": lambda: sequences.rows(arguments.repeats, arguments.steps),
        "flows": lambda: flows.rows(arguments.repeats, arguments.steps),
        "graphs": lambda: graphs.rows(arguments.repeats, arguments.steps),
    }
    rows: list[Row] = []
    try:
        for section in sections:
            for line in apart(f"the section {section}", made[section]):
                show(line)
                rows.append(line)
    finally:  # what was measured is worth having even where a later row fails
        if Settings.watched:
            share = f"{Settings.disturbed} of {Settings.rounds} rounds while the machine was slower than at other times"
            print(share)
            conditions = f"{conditions}, {share}"
        write(arguments.json, json.dumps([line._asdict() for line in rows], indent=2) + "\n")
        write(arguments.table, in_markdown(rows, conditions))


def write(path: Path | None, text: str) -> None:
    """Writes a file that was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
