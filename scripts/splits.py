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
import multiprocessing
import os
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

import datamodules  # noqa: F401 - and the next: what every run imports, once for all of them
import dlkit.runner  # noqa: F401
from dlkit.cli import comment, recipes
from dlkit.cli import main as command_line

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "splits.md"
RUNS = Path("splits")
FORK = multiprocessing.get_context("fork")  # a process of its own for each command, which has imported everything already

HEADER = """\
# Over many splits

Each row is a recipe trained and tested once for each combination of the values in its second column. Figures are of the test
part: mean ± standard deviation over the runs. Times are of one run, on one thread. Written by `scripts/splits.py`.

| recipe | over | runs | test, ours | published | training |
|---|---|---|---|---|---|
"""

Settings = dict[str, str]  # field -> value
SPLITS = ("seed", "seed_everything", "data.split_seed", "data.fold")  # fields that make another draw of the same experiment


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


def read(record: Path) -> dict[str, Any]:
    """What is recorded: recipe -> the digest of its settings, and its runs."""
    return json.loads(record.read_text()) if record.is_file() else {}


def known(record: Path, recipe: str) -> dict[str, Any]:
    """The recorded runs of a recipe as it is now, by their names."""
    found = read(record).get(recipe, {})
    return found["runs"] if found.get("recipe") == digest(recipe) else {}


def keep(record: Path, recipe: str, settings: Settings, run: dict[str, Any]) -> None:
    """Records a finished run."""
    runs = {**known(record, recipe), name_of(settings): run}
    content = {**read(record), recipe: {"recipe": digest(recipe), "runs": runs}}
    record.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def work(command: list[str], where: Path) -> None:
    """The command line in a folder, on one thread; what it prints goes to a file there."""
    os.chdir(where)
    with open("log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    code = command_line(command)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # leaves out what the process that was copied would do at its end


def train(recipe: str, settings: Settings) -> dict[str, Any]:
    """Trains and tests one run: its test metrics and seconds."""
    where = RUNS / recipe / digest(recipe) / name_of(settings).replace(" ", "_")
    where.mkdir(parents=True, exist_ok=True)
    options = [part for field, value in settings.items() for part in (f"--{field}", value)]
    for command in ([recipe, *options], ["test", recipe]):
        process = FORK.Process(target=work, args=(command, where))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"error: see {where / 'log.txt'}")
    folder = max((where / "lightning_logs" / recipe).glob("version_*"), key=lambda path: path.stat().st_mtime)
    metrics = json.loads((folder / "test.json").read_text())["metrics"]
    return {"metrics": metrics, "seconds": json.loads((folder / "run.json").read_text())["seconds"]}


def line(recipe: str, runs: dict[str, Any]) -> str:
    """One row of the table."""
    path = recipes()[recipe]
    metric, unit, direction = [part.strip() for part in comment(path, "Metric").split(",")]
    figures = []
    for name in (metric, *(part.strip() for part in comment(path, "Also").split(",") if part.strip())):
        found = [run["metrics"][name] for run in runs.values()]
        spread = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
        figures.append(f"{name.removeprefix('test/')} {statistics.fmean(found):.3g}{spread}")
    figures[0] += f" ({unit}; {direction})"
    values: dict[str, list[str]] = {}
    for field, _, value in (pair.partition("=") for name in runs for pair in name.split()):
        values.setdefault(field, []).append(value)
    over = "; ".join(f"{field} {', '.join(dict.fromkeys(found))}" for field, found in values.items())
    seconds = f"{statistics.fmean(run['seconds'] for run in runs.values()):.0f} s"
    cells = (f"`{recipe}`", over, str(len(runs)), ", ".join(figures), comment(path, "Published").rstrip("."), seconds)
    return f"| {' | '.join(cells)} |\n"


def experiments(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs, apart where they differ in more than the draw."""
    apart: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        other = " ".join(pair for pair in sorted(name.split()) if pair.partition("=")[0] not in SPLITS)
        apart.setdefault(other, {})[name] = run
    return list(apart.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="A recipe over many splits of its data.", allow_abbrev=False)
    parser.add_argument("recipe", nargs="?", help="its name")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUES", help="such as data.split_seed+seed=0..7")
    parser.add_argument("--table", type=Path, default=TARGET, help="where the table is written, and the record beside it")
    parser.add_argument("--share", default="0/1", help="run only every n-th run, from the i-th: i/n")
    arguments = parser.parse_args()
    arguments.table.parent.mkdir(parents=True, exist_ok=True)
    record = arguments.table.with_suffix(".json")
    if arguments.recipe is not None:
        if arguments.recipe not in recipes():
            parser.error(f"there is no recipe {arguments.recipe!r}: choose of {', '.join(recipes())}")
        try:
            runs = grid(arguments.fields)
        except ValueError as error:
            parser.error(str(error))
        first, number = map(int, arguments.share.split("/")) if re.fullmatch(r"\d+/\d+", arguments.share) else (1, 0)
        if not 0 <= first < number:
            parser.error(f"--share {arguments.share}: give i/n with i from 0 to n - 1")
        for settings in runs[first::number]:
            if name_of(settings) not in known(record, arguments.recipe):
                keep(record, arguments.recipe, settings, train(arguments.recipe, settings))
    rows = (line(recipe, runs) for recipe in recipes() for runs in experiments(known(record, recipe)))
    page = HEADER + "".join(rows)
    arguments.table.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
