"""The rivals of a benchmark, which take turns in processes of their own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def turns(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmarks import turns

    for name, value in (("threads", 1), ("watched", False), ("patience", 0.0), ("rounds", 0), ("disturbed", 0)):
        monkeypatch.setattr(turns.Settings, name, value)
    return turns


def moments():
    """A rival that says how often it was called before, and when."""
    count = itertools.count()
    return lambda: (next(count), time.monotonic())


def test_each_rival_warms_up_once_and_then_leads_every_other_round(turns):
    found = turns.take_turns(4, {"one": moments, "other": moments})
    assert [[number for number, _ in turn] for turn in found.values()] == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert [min(found, key=lambda name: found[name][turn][1]) for turn in range(4)] == ["other", "one", "other", "one"]
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (4, 0)


def test_a_rival_has_a_process_of_its_own_with_its_threads_and_without_a_voice(turns, monkeypatch, capfd):
    monkeypatch.setattr(turns.Settings, "threads", 2)

    def speaks():
        print("a line of Python's")
        os.write(2, b"a line of a library's\n")
        return os.getpid(), torch.get_num_threads()

    found = turns.take_turns(2, {"one": lambda: speaks, "other": lambda: speaks})
    processes = {process for turn in found.values() for process, _ in turn}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {threads for turn in found.values() for _, threads in turn} == {2}
    assert capfd.readouterr() == ("", "")


def fails():
    raise ValueError("what went wrong")


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("make", "says"),
    [(fails, "what went wrong"), (lambda: fails, "what went wrong"), (dies, "exit code -9"), (lambda: dies, "exit code -9")],
    ids=["making", "turn", "killed while made", "killed in a turn"],
)
def test_a_rival_that_fails_or_dies_is_named_and_the_others_end(turns, tmp_path, make, says):
    def other():
        (tmp_path / "process").write_text(str(os.getpid()))
        return lambda: 0

    with pytest.raises(RuntimeError, match="slow library") as error:
        turns.take_turns(2, {"other": other, "slow library": make})
    assert says in str(error.value)
    assert not alive(int((tmp_path / "process").read_text()))
    with pytest.raises(RuntimeError, match=says):
        turns.alone(fails if says == "what went wrong" else dies)


def test_a_rival_ends_with_the_process_that_started_it(tmp_path):
    program = f"""
import os, sys
sys.path.insert(0, {str(SCRIPTS)!r})
from benchmarks.turns import Worker
worker = Worker("one", lambda: os.getpid)
print(worker(), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        rival = int(parent.stdout.readline())
        assert alive(rival)
        parent.kill()
    end = time.monotonic() + 20
    while alive(rival) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(rival)


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    status = Path(f"/proc/{process}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def watch(turns, monkeypatch, looks, patience):
    """Lets the machine's gauge show the given times, one a look."""
    shown = iter(looks)
    gauge = (lambda: next(shown), [1.0] * 20)
    monkeypatch.setattr(turns, "gauge", lambda: gauge)
    monkeypatch.setattr(turns, "PAUSE", 0.01)
    turns.Settings.watched, turns.Settings.patience = True, patience


def test_a_round_waits_for_a_steady_machine_and_is_taken_again_when_it_was_disturbed(turns, monkeypatch):
    # before the first round twice slow; after it slow, hence again; the second round is undisturbed
    watch(turns, monkeypatch, [1.5, 1.5, 1.0, 1.5, 1.0, 1.05, 1.0, 1.0], patience=60.0)
    found = turns.take_turns(2, {"one": moments})
    assert [number for number, _ in found["one"]] == [2, 3]
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (2, 0)
    assert 59 < turns.Settings.patience < 60


def test_a_machine_that_stays_slow_costs_patience_and_then_rounds_count_as_disturbed(turns, monkeypatch):
    watch(turns, monkeypatch, itertools.repeat(1.5), patience=0.1)
    found = turns.take_turns(3, {"one": moments})
    assert [number for number, _ in found["one"]] == [1, 2, 3]
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (3, 3)
    assert turns.Settings.patience <= 0


def test_one_fast_look_does_not_make_all_others_slow(turns, monkeypatch):
    watch(turns, monkeypatch, [0.5, 1.0, 1.0], patience=60.0)
    assert [turns.steady() for _ in range(3)] == [True, True, True]


def test_a_system_that_cannot_fork_is_refused(turns, monkeypatch):
    monkeypatch.setattr(turns.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(OSError, match="measure on Linux"):
        turns.start(1, 0)
