"""The watch for losses that are not finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dlkit
from dlkit.finite import FiniteWatch


def test_the_watch_on_the_device_remembers_the_first_bad_step_and_its_term():
    watch = FiniteWatch()
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    watch.check()
    watch.see(3, {"loss": good, "kl": good, "reconstruction": good})
    watch.check()
    watch.see(4, {"loss": bad, "kl": good, "reconstruction": bad})
    watch.see(5, {"loss": bad, "kl": bad, "reconstruction": bad})
    with pytest.raises(dlkit.NonFiniteError, match=r"term 'reconstruction' .* at step 4"):
        watch.check()


TOGETHER = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from dlkit import NonFiniteError
from dlkit.finite import FiniteWatch
from dlkit.processes import world
from training import two_processes

with two_processes():
    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    watch, good, bad = FiniteWatch(), torch.tensor(1.0), torch.tensor(float("nan"))
    watch.check(together=True)
    watch.see(1, {"loss": good, "kl": good})
    watch.check(together=True)
    watch.see(2, {"loss": good, "kl": bad} if world()[0] else {"loss": good, "kl": good})
    watch.see(3, {"loss": bad, "kl": bad})
    try:
        watch.check(together=True)
    except NonFiniteError as error:
        open(str(world()[0]), "w").write(str(error))
    torch.distributed.destroy_process_group()
"""


def test_processes_that_ask_together_stop_together(start, tmp_path):
    (tmp_path / "two.py").write_text(TOGETHER)
    done = start(tmp_path / "two.py", tmp_path, Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").read_text().startswith("another process's loss is not finite at step 2: ")
    assert (tmp_path / "1").read_text().startswith("the term 'kl' of the loss is not finite at step 2: ")
