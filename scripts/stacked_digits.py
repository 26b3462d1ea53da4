"""What breaks mode collapse on stacked digits: the objective, the penalty or the optimizer? Every combination, several seeds.

    python scripts/stacked_digits.py            # runs what has not been run yet, one run after the other, then writes the table
    python scripts/stacked_digits.py --table    # only rewrites docs/stacked-digits.md from the runs that are there

Each cell is the recipe `stacked-digits-rpgan` with other settings; its runs lie in `stacked-digits` below the folder it is
started in, one folder a run, so that several of these commands can share the work (--share 0/2 and --share 1/2). What the
finished runs say is recorded in `docs/stacked-digits.json`, and what is recorded is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "stacked-digits.md"
RECORD = TARGET.with_suffix(".json")
KEPT = ("test/modes", "test/kl", "test/judge_accuracy", "test/real_modes", "test/real_kl", "test/uniform_kl")
FIT = Path(__file__).parent / "fit.py"
RUNS = Path("stacked-digits")
EPOCHS = 2
SEEDS = range(5)
OBJECTIVES = ("non-saturating", "relativistic")
PENALTIES = ("none", "r1+r2")
OPTIMIZERS = {"2e-4, (.5, .999), DCGAN's": (2e-4, (0.5, 0.999)), "5e-4, (0, .99)": (5e-4, (0.0, 0.99))}


def cells() -> list[tuple[str, str, str]]:
    """Every combination of objective, penalty and optimizer."""
    return list(itertools.product(OBJECTIVES, PENALTIES, OPTIMIZERS))


def folder(cell: tuple[str, str, str], seed: int) -> Path:
    """Where a run of a cell lies."""
    objective, penalty, optimizer = cell
    return RUNS / f"{objective}-{penalty}-{list(OPTIMIZERS).index(optimizer)}-seed{seed}"


def results() -> dict[str, dict[str, float]]:
    """What the finished runs say, here and in the record, by the name of the run's folder; brings the record up to date."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    for cell, seed in itertools.product(cells(), SEEDS):
        found = finished_run(cell, seed)
        if found is not None:
            record[folder(cell, seed).name] = found
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return record


def finished_run(cell: tuple[str, str, str], seed: int) -> dict[str, float] | None:
    """The test metrics of a run that is here and has finished, with its seconds."""
    runs = (folder(cell, seed) / "lightning_logs" / "stacked-digits-rpgan").glob("version_*")
    finished = [run for run in runs if (run / "test.json").is_file()]
    if not finished:
        return None
    run = finished[-1]
    metrics = json.loads((run / "test.json").read_text())["metrics"]
    return {**{name: metrics[name] for name in KEPT}, "seconds": json.loads((run / "run.json").read_text())["seconds"]}


def train(cell: tuple[str, str, str], seed: int) -> None:
    """Trains and tests one run by the command line."""
    objective, penalty, optimizer = cell
    rate, betas = OPTIMIZERS[optimizer]
    where = folder(cell, seed)
    where.mkdir(parents=True, exist_ok=True)
    settings = [
        "--model.objective", objective, "--model.penalty", penalty, "--model.learning_rate", str(rate), "--model.betas",
        str(list(betas)), "--seed", str(seed), "--trainer.max_epochs", str(EPOCHS),
    ]  # fmt: skip
    for command in (["stacked-digits-rpgan", *settings], ["test", "stacked-digits-rpgan"]):
        with open(where / "log.txt", "a") as log:
            done = subprocess.run([sys.executable, str(FIT), *command], cwd=where, stdout=log, stderr=log, env=os.environ)
        if done.returncode:
            print(f"failed: see {where / 'log.txt'}", file=sys.stderr)


def line(cell: tuple[str, str, str], record: dict[str, dict[str, float]]) -> str:
    """One row of the table: mean and standard error over seeds."""
    found = [record[name] for seed in SEEDS if (name := folder(cell, seed).name) in record]
    if not found:
        return f"| {' | '.join(cell)} | not run | | | |"
    values = {name: np.array([metrics[name] for metrics in found]) for name in ("test/modes", "test/kl", "seconds")}
    error = {name: value.std(ddof=1) / len(value) ** 0.5 if len(value) > 1 else 0.0 for name, value in values.items()}
    modes = f"{values['test/modes'].mean():.0f} ± {error['test/modes']:.0f}"
    kl = f"{values['test/kl'].mean():.3f} ± {error['test/kl']:.3f}"
    return f"| {' | '.join(cell)} | {modes} | {kl} | {len(found)} | {values['seconds'].mean():.0f} s |"


def table(record: dict[str, dict[str, float]]) -> str:
    """The page."""
    found = next(iter(record.values()), None)
    floor = ""
    if found is not None:
        floor = (
            f"The judge gets {100 * found['test/judge_accuracy']:.1f} % of the test digits right. Real training triples have "
            f"{found['test/real_modes']:.0f} modes and KL {found['test/real_kl']:.3f}; as many draws from exactly even modes "
            f"have {found['test/uniform_kl']:.3f}, and nothing can be expected below that.\n\n"
        )
    return (
        "# Stacked digits: what breaks mode collapse?\n\n"
        "Three of scikit-learn's 8x8 digits as the colours of one picture make 1000 modes. 26,000 samples, a mode counts at "
        "one sample, KL(samples over modes || even) in nats, mean ± standard error over seeds. Every run: the recipe "
        f"`stacked-digits-rpgan` (same networks, batch 64, moving average, cosine schedule) for {EPOCHS} epochs, with the "
        "settings of its row; one thread. Written by `scripts/stacked_digits.py`.\n\n" + floor
        + "| objective | penalty | Adam: step size, betas | modes | KL | seeds | training |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(line(cell, record) for cell in cells()) + "\n"
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Objective, penalty and optimizer on stacked digits.", allow_abbrev=False)
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    parser.add_argument("--share", default="0/1", help="run only every n-th run, from the i-th: i/n")
    arguments = parser.parse_args()
    if not arguments.table:
        first, number = map(int, arguments.share.split("/"))
        runs = [(cell, seed) for seed in SEEDS for cell in cells()]
        for cell, seed in runs[first::number]:
            if folder(cell, seed).name not in results():
                train(cell, seed)
    _, _, after = TARGET.read_text().partition("## What it says") if TARGET.is_file() else ("", "", "")
    page = table(results())
    TARGET.write_text(page + (f"\n## What it says{after}" if after else ""))
    print(page)


if __name__ == "__main__":
    main()
