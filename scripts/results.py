"""Writes the README's table of results from the runs below lightning_logs, and never by hand.

    python scripts/results.py            # rewrites the table in README.md
    python scripts/results.py --check    # says whether the table is what the recorded runs give

For each recipe the newest run that was trained and tested (`fit.py RECIPE`, then `fit.py test RECIPE`) gives the row; where
there are such runs of other seeds (`fit.py RECIPE --seed 1`, ...), the row gives the mean and its standard error over the
newest run of each. A row is replaced by runs that have all of its seeds. What the runs say is recorded in
`scripts/results.json`, so that the table can be checked where the runs are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from dlkit.cli import LOGS, comment, options_of, recipe_classes, recipes, runs_of
from dlkit.processes import write_whole

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RECORD = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- results: written by scripts/results.py -->", "<!-- end of results -->"


def read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none. Ends the program where it is damaged."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError:
        sys.exit(f"{path} is damaged: restore it, or remove it")


def metrics_shown(recipe: str) -> list[str]:
    """The metrics that a recipe's row shows, its own first."""
    path = recipes()[recipe]
    listed = [comment(path, "Metric").split(",")[0], *comment(path, "Also").split(",")]
    return [name.strip() for name in listed if name.strip()]


def finished_runs(recipe: str) -> dict[int, dict[str, Any]]:
    """What the newest finished and tested run of each seed says, by seed."""
    found: dict[int, dict[str, Any]] = {}
    for folder in runs_of(recipe):
        run, test = folder / "run.json", folder / "test.json"
        record = read(run)
        # A run that the command line changed is another experiment, as is a test that it changed, and a test from before the
        # run's end is another result.
        tested = read(test)
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


def newest_result(recipe: str, recorded: dict[str, Any] | None) -> dict[str, Any] | None:
    """The run of the lowest seed, with the metrics of the others under "more"; what was recorded, where its seeds are not all
    there, since a mean over other seeds is no newer result; or None."""
    runs = finished_runs(recipe)
    for seed, name in [(seed, name) for seed in runs for name in metrics_shown(recipe) if name not in runs[seed]["metrics"]]:
        if runs.pop(seed, None):
            print(f"{recipe}: the test of seed {seed} lacks {name}, which the row shows: test it again", file=sys.stderr)
    missing = {str(recorded["seed"]), *recorded.get("more", {})} - {str(seed) for seed in runs} if recorded else set()
    if runs and missing:
        seeds = ", ".join(sorted(missing))
        print(
            f"{recipe}: the row stays as it is, since no finished and tested run here has its seed {seeds}: "
            f"train and test that too, or take the row out of {RECORD.name}",
            file=sys.stderr,
        )
    if not runs or missing:
        return recorded
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
    name, *also = metrics_shown(recipe)
    unit, direction = [part.strip() for part in comment(path, "Metric").split(",")[1:]]
    method = recipe_classes(path)["model"].rpartition(".")[2]
    published = comment(path, "Published").rstrip(".")
    if result is None:
        return f"| `{recipe}` | {method} | not run | {published} | | |"
    metrics = result["metrics"]
    baselines = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if not key.startswith("test/") and key != name)
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
    record = read(RECORD)
    if not arguments.check:
        record = {name: result for name in recipes() if (result := newest_result(name, record.get(name))) is not None}
        if not record:
            print(f"there are no finished and tested runs in {LOGS}/ below this folder", file=sys.stderr)
    text = README.read_text()
    if text.find(END) < text.find(BEGIN) or BEGIN not in text:
        sys.exit(f"{README} lacks the lines '{BEGIN}' and '{END}' that the table stands between: put them back")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n\n{table(record)}\n\n{END}{after}"
    if arguments.check:
        print("the table is up to date" if new == text else "README.md: run scripts/results.py, the table is out of date")
        return int(new != text)
    write_whole(RECORD, json.dumps(record, indent=1) + "\n")
    write_whole(README, new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
