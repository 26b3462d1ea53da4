"""Fixtures that several tests share."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Lightning's lines at every start would bury what a failing test has to say.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)

FIT = Path(__file__).parent.parent / "scripts" / "fit.py"

torch.set_num_threads(1)  # two threads on tiny tensors mostly wait for each other


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def warm():
    """A process that has imported everything and starts others: see `tests/dlkit/warm.py`."""
    command = [sys.executable, str(Path(__file__).parent / "dlkit" / "warm.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.communicate()  # ends its input, and so itself


@pytest.fixture(scope="session")
def start(tmp_path_factory, warm):
    """Runs a script in a process of its own, in a given folder: start(script, folder, *arguments) -> CompletedProcess."""

    def command(script: Path, folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        printed = tmp_path_factory.mktemp("printed")
        what = {
            "script": str(script),
            "arguments": list(map(str, arguments)),
            "folder": str(folder),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
            "stdout": str(printed / "stdout"),
            "stderr": str(printed / "stderr"),
        }
        warm.stdin.write(json.dumps(what) + "\n")
        warm.stdin.flush()
        code = int(warm.stdout.readline())
        out, err = ((printed / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess([what["script"], *what["arguments"]], code, out, err)

    return command


@pytest.fixture
def fit(tmp_path, start):
    """Runs the command line in a process of its own, in an empty folder or a given one: fit(*arguments) -> CompletedProcess."""

    def command(
        *arguments: object, script: Path = FIT, folder: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess:
        return start(script, folder, *arguments, **environment)

    return command


@pytest.fixture
def mnist_root():
    """Where the real MNIST lies."""
    root = os.environ.get("DLKIT_DATA")
    if root is None:
        pytest.skip("DLKIT_DATA is unset: it names a folder with mnist/*.gz")
    return root
