"""Writes the README's table of results from the runs below lightning_logs, and never by hand.

    python scripts/results.py            # rewrites the table in README.md
    python scripts/results.py --check    # says whether the table is what the recorded runs give

For each recipe the newest run that was trained and tested (`fit.py RECIPE`, then `fit.py test RECIPE`) gives the row; where
there are such runs of other seeds (`fit.py RECIPE --seed 1`, ...), the row gives the mean and its standard error over the
newest run of each. What the runs say is recorded in `scripts/results.json`, so that the table can be checked where the runs
are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from dlkit.cli import LOGS, comment, options_of, recipe_classes, recipes, runs_of

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RECORD = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- results: written by scripts/results.py -->", "<!-- end of results -->"


def finished_runs(recipe: str) -> dict[int, dict[str, Any]]:
    """What the newest finished and tested run of each seed says, by seed."""
    found: dict[int, dict[str, Any]] = {}
    for folder in runs_of(recipe):
        run, test = folder / "run.json", folder / "test.json"
        record = json.loads(run.read_text()) if run.is_file() else {}
        # A run that the command line changed is another experiment, as is a test that it changed, and a test from before the
        # run's end is another result.
        tested = json.loads(test.read_text()) if test.is_file() else {}
        overrides = [*record.get("overrides", []), *tested.get("overrides", [])]
        changed = [option for option in options_of(overrides) if option != "--seed_everything"]
        stale = test.is_file() and run.is_file() and test.stat().st_mtime < run.stat().st_mtime
        if record and tested and not changed and not stale:
            found[record["seed"]] = {
                "seed": record["seed"],
                "seconds": record["seconds"],
                "epochs": record["epochs"],
                "metrics": tested["metrics"],
            }
    return found


def newest_result(recipe: str) -> dict[str, Any] | None:
    """The run of the lowest seed, with the metrics of the others under "more"; or None."""
    runs = finished_runs(recipe)
    if not runs:
        return None
    first, *others = sorted(runs)
    more = {"more": {str(seed): runs[seed]["metrics"] for seed in others}} if others else {}
    return {**runs[first], **more}


def shown(key: str, result: dict[str, Any]) -> str:
    """A metric's name and value, over seeds where there are several: mean ± standard error."""
    values = [metrics[key] for metrics in (result["metrics"], *result.get("more", {}).values())]
    name = key.removeprefix("test/")
    if len(values) == 1:
        return f"{name} {values[0]:.4g}"
    return f"{name} {statistics.fmean(values):.4g} ± {statistics.stdev(values) / len(values) ** 0.5:.2g}"


def row(recipe: str, path: Path, result: dict[str, Any] | None) -> str:
    """One line of the table."""
    name, unit, direction = [part.strip() for part in comment(path, "Metric").split(",")]
    method = recipe_classes(path)["model"].rpartition(".")[2]
    published = comment(path, "Published").rstrip(".")
    if result is None:
        return f"| `{recipe}` | {method} | not run | {published} | | |"
    metrics = result["metrics"]
    baselines = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if not key.startswith("test/") and key != name)
    also = [key.strip() for key in comment(path, "Also").split(",") if key.strip()]
    ours = ", ".join([f"{shown(name, result)} ({unit}; {direction})", *(shown(key, result) for key in also)])
    seeds = ", ".join([str(result["seed"]), *result.get("more", {})])
    minutes, seconds = divmod(round(result["seconds"]), 60)
    time = f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
    reference = f"{published}; here: {baselines}" if baselines else published
    return f"| `{recipe}` | {method} | {ours} | {reference} | {seeds} | {time} |"


def table(record: dict[str, Any]) -> str:
    """The whole table."""
    head = "| recipe | method | test, ours | published, or exact | seed | training time |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(row(name, path, record.get(name)) for name, path in recipes().items())])


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the README's table of results.", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when the table is out of date")
    arguments = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    if not arguments.check:
        found = {name: result for name in recipes() if (result := newest_result(name)) is not None}
        if not found and not record:
            print(f"there are no finished and tested runs in {LOGS}/ below this folder", file=sys.stderr)
        record = {name: {**record, **found}[name] for name in recipes() if name in {**record, **found}}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n\n{table(record)}\n\n{END}{after}"
    if arguments.check:
        print("the table is up to date" if new == text else "README.md: run scripts/results.py, the table is out of date")
        return int(new != text)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
