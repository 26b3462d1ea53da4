"""Fixtures that several tests share."""

from __future__ import annotations

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


@pytest.fixture
def fit(tmp_path):
    """Runs the command line in a subprocess, in an empty folder: fit(*arguments) -> CompletedProcess."""

    def command(*arguments: object, script: Path = FIT, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(script), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return command


@pytest.fixture
def mnist_root():
    """Where the real MNIST lies."""
    root = os.environ.get("DLKIT_DATA")
    if root is None:
        pytest.skip("DLKIT_DATA is unset: it names a folder with mnist/*.gz")
    return root
