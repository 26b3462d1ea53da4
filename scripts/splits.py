"""A recipe over many splits of its data: each trained and tested by the command line, then mean and standard deviation.

    python scripts/splits.py mpnn-esol data.split_seed+seed=0..7
    python scripts/splits.py musk1-attention data.split_seed=0..4 data.fold=0..9
    python scripts/splits.py                   # runs nothing, writes the table

A field takes each value of a range, both ends included, or of a list, a,b,c, in every combination with the other fields; fields
joined by + take the same value. The runs lie in `splits` below the folder the command is started in, so that several commands
can share the work (--share 0/2 and --share 1/2). What the finished runs say is recorded in `docs/splits.json`, and what is
recorded is not run again, as long as the recipe has the same settings; `docs/splits.md` is the table of the record.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from dlkit.cli import recipes

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "splits.md"
RECORD = TARGET.with_suffix(".json")
FIT = Path(__file__).parent / "fit.py"
RUNS = Path("splits")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

HEADER = """\
# Over many splits

Each row is a recipe trained and tested once for each combination of the values in its second column. Figures are of the test
part: mean ± standard deviation over the runs. Times are of one run, on one thread. Written by `scripts/splits.py`.

| recipe | over | runs | test, ours | published | training |
|---|---|---|---|---|---|
"""

Settings = dict[str, str]  # field -> value


def values_of(text: str) -> list[str]:
    """0..3 -> 0, 1, 2, 3; a,b -> a, b."""
    first, dots, last = text.partition("..")
    if dots and first.isdigit() and last.isdigit() and int(first) <= int(last):
        return list(map(str, range(int(first), int(last) + 1)))
    found = text.split(",")
    if dots or not all(found):
        raise ValueError(f"{text!r} is neither a range, such as 0..7, nor a list, such as a,b")
    return found


def grid(fields: list[str]) -> list[Settings]:
    """Every combination of the fields' values: "a+b=0..1" -> a=0 b=0, and a=1 b=1.

    Raises:
        ValueError: a field without values.
    """
    choices: list[list[Settings]] = []
    for field in fields:
        names, equals, text = field.partition("=")
        if not equals or not all(names.split("+")):
            raise ValueError(f"{field!r} is no field with its values: write data.split_seed=0..7")
        choices.append([dict.fromkeys(names.split("+"), value) for value in values_of(text)])
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*choices)]


def name_of(settings: Settings) -> str:
    """One run's name."""
    return " ".join(f"{field}={value}" for field, value in settings.items())


def digest(recipe: str) -> str:
    """What changes with the recipe's settings, and not with its comments."""
    content = yaml.safe_load(recipes()[recipe].read_text())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def comment(recipe: str, key: str) -> str:
    """The text behind "# Key: " in a recipe."""
    lines = recipes()[recipe].read_text().splitlines()
    return next((line.removeprefix(f"# {key}: ").strip() for line in lines if line.startswith(f"# {key}: ")), "")


def known(recipe: str) -> dict[str, Any]:
    """The recorded runs of a recipe as it is now, by their names."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    found = record.get(recipe, {})
    return found["runs"] if found.get("recipe") == digest(recipe) else {}


def keep(recipe: str, settings: Settings, run: dict[str, Any]) -> None:
    """Records a finished run."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    record[recipe] = {"recipe": digest(recipe), "runs": {**known(recipe), name_of(settings): run}}
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def train(recipe: str, settings: Settings) -> dict[str, Any]:
    """Trains and tests one run: its test metrics and seconds."""
    where = RUNS / recipe / digest(recipe) / name_of(settings).replace(" ", "_")
    where.mkdir(parents=True, exist_ok=True)
    options = [part for field, value in settings.items() for part in (f"--{field}", value)]
    for command in ([recipe, *options], ["test", recipe]):
        with open(where / "log.txt", "a") as log:
            done = subprocess.run([sys.executable, str(FIT), *command], cwd=where, stdout=log, stderr=log, env=ONE_THREAD)
        if done.returncode:
            sys.exit(f"error: see {where / 'log.txt'}")
    folder = max((where / "lightning_logs" / recipe).glob("version_*"), key=lambda path: path.stat().st_mtime)
    metrics = json.loads((folder / "test.json").read_text())["metrics"]
    return {"metrics": metrics, "seconds": json.loads((folder / "run.json").read_text())["seconds"]}


def line(recipe: str, runs: dict[str, Any]) -> str:
    """One row of the table."""
    metric, unit, direction = [part.strip() for part in comment(recipe, "Metric").split(",")]
    figures = []
    for name in (metric, *(part.strip() for part in comment(recipe, "Also").split(",") if part.strip())):
        found = [run["metrics"][name] for run in runs.values()]
        spread = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
        figures.append(f"{name.removeprefix('test/')} {statistics.fmean(found):.3g}{spread}")
    figures[0] += f" ({unit}; {direction})"
    values: dict[str, list[str]] = {}
    for field, _, value in (pair.partition("=") for name in runs for pair in name.split()):
        values.setdefault(field, []).append(value)
    over = "; ".join(f"{field} {', '.join(dict.fromkeys(found))}" for field, found in values.items())
    seconds = f"{statistics.fmean(run['seconds'] for run in runs.values()):.0f} s"
    cells = (f"`{recipe}`", over, str(len(runs)), ", ".join(figures), comment(recipe, "Published").rstrip("."), seconds)
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="A recipe over many splits of its data.", allow_abbrev=False)
    parser.add_argument("recipe", nargs="?", help="its name")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUES", help="such as data.split_seed+seed=0..7")
    parser.add_argument("--share", default="0/1", help="run only every n-th run, from the i-th: i/n")
    arguments = parser.parse_args()
    if arguments.recipe is not None:
        if arguments.recipe not in recipes():
            parser.error(f"there is no recipe {arguments.recipe!r}: choose of {', '.join(recipes())}")
        try:
            runs = grid(arguments.fields)
        except ValueError as error:
            parser.error(str(error))
        first, number = map(int, arguments.share.split("/"))
        for settings in runs[first::number]:
            if name_of(settings) not in known(arguments.recipe):
                keep(arguments.recipe, settings, train(arguments.recipe, settings))
    page = HEADER + "".join(line(recipe, runs) for recipe in recipes() if (runs := known(recipe)))
    TARGET.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
