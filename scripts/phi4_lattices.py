"""phi^4 on lattices of growing size, at couplings that keep the box four correlation lengths wide.

    python scripts/phi4_lattices.py            # runs what has not been run yet, then writes docs/phi4-lattices.md
    python scripts/phi4_lattices.py 6 8        # only these sizes

Each row is the recipe `lattice-phi4` with another lattice and another lam, trained and tested by the command line; the
couplings are those of Albergo, Kanwar and Shanahan 2019 (arXiv:1904.12072). Its runs lie in `phi4-lattices` below the folder it
is started in. What the finished runs say is recorded in `docs/phi4-lattices.json`, and what is recorded is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "phi4-lattices.md"
RECORD = TARGET.with_suffix(".json")
FIT = Path(__file__).parent / "fit.py"
RUNS = Path("phi4-lattices")
LAM = {6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113}
# FlowLattice's re-run of the notebook of Albergo et al. 2021 (arXiv:2101.08176): 16 couplings, 40,592 proposals each.
OTHERS = {6: 0.510, 8: 0.475, 10: 0.431, 12: 0.293, 14: 0.264}
LEARNING_RATE = 0.01  # up to L = 8; a layer adds up over the lattice, so beyond its steps fall as 1 / L^2
EPOCHS = 3
STEPS, BATCH_SIZE = 2000, 128
SEED = 0
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
PAIRS = ("chi_2", "phi_squared")
KEPT = ("acceptance", "ess", "samples", "tau", "length", "hmc_length")

HEADER = """\
# phi^4 on growing lattices

S = sum phi (-laplace) phi + m2 phi^2 + lam phi^4 with m2 = -4: couplings that keep the box four correlation lengths wide. Every
run: the recipe `lattice-phi4` with the row's lattice and lam, {epochs} epochs of {steps} batches of {batch_size}, step size
.01, or .01 (8 / L)^2 beyond L = 8, seed {seed}, one thread. ESS and acceptance are of {samples:,} proposals; errors by
autocorrelation times, HMC's beside. Acceptance elsewhere: FlowLattice's re-run of the notebook of arXiv:2101.08176. Written by
`scripts/phi4_lattices.py`.

| L | lam | acceptance | elsewhere | ESS | tau | chi_2 | chi_2, HMC | phi^2 | phi^2, HMC | length, HMC's | training |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def measured(size: int) -> dict[str, float] | None:
    """The test metrics of a size's newest finished run, with its seconds."""
    found = (RUNS / str(size) / "lightning_logs" / "lattice-phi4").glob("version_*/test.json")
    finished = sorted(found, key=lambda path: path.stat().st_mtime)
    if not finished:
        return None
    metrics = json.loads(finished[-1].read_text())["metrics"]
    names = [*KEPT, *(f"{start}{name}{end}" for name in PAIRS for start in ("", "hmc_") for end in ("", "_error"))]
    seconds = json.loads((finished[-1].parent / "run.json").read_text())["seconds"]
    return {**{name: metrics[f"test/{name}"] for name in names}, "seconds": seconds}


def train(size: int) -> None:
    """Trains and tests one size."""
    where = RUNS / str(size)
    where.mkdir(parents=True, exist_ok=True)
    settings = [
        "--model.lattice_shape", f"[{size}, {size}]", "--model.lam", str(LAM[size]), "--seed", str(SEED),
        "--trainer.max_epochs", str(EPOCHS), "--data.steps", str(STEPS), "--data.batch_size", str(BATCH_SIZE),
        "--model.learning_rate", f"{LEARNING_RATE * min(1, (8 / size) ** 2):.4g}",
    ]  # fmt: skip
    for command in (["lattice-phi4", *settings], ["test", "lattice-phi4"]):
        with open(where / "log.txt", "a") as log:
            done = subprocess.run([sys.executable, str(FIT), *command], cwd=where, stdout=log, stderr=log, env=ONE_THREAD)
        if done.returncode:
            sys.exit(f"error: see {where / 'log.txt'}")


def line(size: int, found: dict[str, float]) -> str:
    """One row."""
    pairs = [
        f"{found[start + name]:.4g} ± {found[f'{start}{name}_error']:.1g}" for name in PAIRS for start in ("", "hmc_")
    ]  # fmt: skip
    numbers = [f"{found['acceptance']:.3f}", f"{OTHERS[size]:.3f}", f"{found['ess']:.3f}", f"{found['tau']:.2f}"]
    lengths = f"{found['length']:.2f}, {found['hmc_length']:.2f}"
    return "| " + " | ".join([str(size), f"{LAM[size]}", *numbers, *pairs, lengths, f"{found['seconds']:.0f} s"]) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="phi^4 flows on lattices of growing size.", allow_abbrev=False)
    parser.add_argument("sizes", nargs="*", type=int, metavar="L", help=f"{', '.join(map(str, LAM))} (all)")
    sizes = parser.parse_args().sizes
    if set(sizes) - set(LAM):
        parser.error(f"there is no size {sorted(set(sizes) - set(LAM))[0]}: choose of {', '.join(map(str, LAM))}")
    for size in sizes or LAM:
        record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        if str(size) not in record:
            train(size)
            record[str(size)] = measured(size)
            RECORD.write_text(json.dumps(record, indent=1) + "\n")
        known = {size: record[str(size)] for size in LAM if str(size) in record}
        samples = int(next(iter(known.values()))["samples"])
        header = HEADER.format(epochs=EPOCHS, steps=STEPS, batch_size=BATCH_SIZE, seed=SEED, samples=samples)
        TARGET.write_text(header + "".join(line(*row) for row in known.items()))


if __name__ == "__main__":
    main()
