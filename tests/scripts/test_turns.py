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


def ends_early():
    raise EOFError("the file is cut off")


@pytest.mark.parametrize(
    ("function", "says"), [(fails, "what went wrong"), (ends_early, "the file is cut off"), (dies, "exit code -9")]
)
@pytest.mark.parametrize("moment", ["making", "turn"])
def test_a_rival_that_fails_or_dies_is_named_and_the_others_end(turns, tmp_path, function, says, moment):
    def other():
        (tmp_path / "process").write_text(str(os.getpid()))
        return lambda: 0

    make = function if moment == "making" else lambda: function
    with pytest.raises(RuntimeError, match="slow library") as error:
        turns.take_turns(2, {"other": other, "slow library": make})
    assert says in str(error.value)
    assert not alive(int((tmp_path / "process").read_text()))


def test_what_fails_in_a_process_of_its_own_says_why(turns):
    with pytest.raises(RuntimeError, match="what went wrong"):
        turns.alone(fails)
    turns.Settings.threads = -1
    with pytest.raises(RuntimeError, match="expects a positive integer"):
        turns.alone(lambda: 0)


def test_answers_may_be_large_and_nobody_has_to_wait_for_them(turns):
    found = torch.arange(1_000_000)
    assert torch.equal(turns.alone(lambda: found), found)
    worker = turns.Worker("one", lambda: lambda: found)
    worker.connection.send_bytes(b"again")
    worker.close()
    assert not worker.process.is_alive()


def test_rows_come_one_by_one_from_a_process_that_starts_rivals_of_its_own(turns):
    def rows():
        yield os.getpid(), os.getppid()
        found = turns.take_turns(2, {"one": lambda: os.getpid, "other": lambda: os.getppid})
        yield found["one"][0], found["other"][0]

    section, rivals = list(turns.apart("a section", rows))
    assert section[1] == os.getpid()
    assert rivals[1] == section[0]
    assert rivals[0] not in (section[0], os.getpid())
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (2, 0)
    assert not alive(section[0])


def test_a_section_that_fails_is_named_after_the_rows_before_it(turns):
    def rows():
        yield 1
        fails()

    given = turns.apart("the section adversarial", rows)
    assert next(given) == 1
    with pytest.raises(RuntimeError, match="the section adversarial failed") as error:
        next(given)
    assert "what went wrong" in str(error.value)


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
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def watch(turns, monkeypatch, looks, patience):
    """Lets the machine's gauge show the given times, one a look."""
    shown, known = iter(looks), [1.0] * 20
    monkeypatch.setattr(turns, "gauge", lambda: (lambda: next(shown), known))
    monkeypatch.setattr(turns, "PAUSE", 0.01)
    turns.Settings.watched, turns.Settings.patience = True, patience
    return known


def test_a_round_waits_for_a_steady_machine_and_is_taken_again_when_it_was_disturbed(turns, monkeypatch):
    # Slow twice before the first round, and after it, which is taken again; the second one is undisturbed.
    known = watch(turns, monkeypatch, [1.2, 1.2, 1.0, 1.2, 1.0, 1.05, 1.0, 1.0], patience=60.0)
    found = turns.take_turns(2, {"one": moments})
    assert [number for number, _ in found["one"]] == [2, 3]
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (2, 0)
    assert 30 < turns.Settings.patience < 60 - 2 * turns.PAUSE
    assert known[20:] == [1.2, 1.2, 1.0, 1.2, 1.0, 1.05, 1.0, 1.0]


def test_a_round_that_is_disturbed_each_time_counts_as_disturbed_in_the_end(turns, monkeypatch):
    watch(turns, monkeypatch, itertools.cycle([1.0, 1.2]), patience=60.0)
    found = turns.take_turns(1, {"one": moments})
    assert [number for number, _ in found["one"]] == [1 + turns.ROUNDS_AGAIN]
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (1, 1)


def test_a_round_that_began_on_a_slow_machine_counts_as_disturbed_though_it_ended_on_a_steady_one(turns, monkeypatch):
    watch(turns, monkeypatch, [1.2, 1.0], patience=1e-9)
    turns.take_turns(1, {"one": moments})
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (1, 1)


def test_a_machine_that_stays_slow_costs_patience_and_then_rounds_count_as_disturbed(turns, monkeypatch):
    watch(turns, monkeypatch, itertools.repeat(1.2), patience=0.1)
    found = turns.take_turns(3, {"one": moments})
    assert [number for number, _ in found["one"]] == [1, 2, 3]
    assert (turns.Settings.rounds, turns.Settings.disturbed) == (3, 3)
    assert turns.Settings.patience <= 0
    assert not any(turns.steady() for _ in range(1000)), "a machine that is slow for long counts as steady"


def test_looks_are_charged(turns, monkeypatch):
    watch(turns, monkeypatch, [], patience=60.0)
    monkeypatch.setattr(turns, "gauge", lambda: (lambda: time.sleep(0.02) or 1.0, [1.0] * 3))
    assert turns.steady()
    assert turns.Settings.patience <= 60 - 0.02


def test_one_fast_look_does_not_make_all_others_slow(turns, monkeypatch):
    watch(turns, monkeypatch, [0.5, 1.0, 1.0], patience=60.0)
    assert [turns.steady() for _ in range(3)] == [True, True, True]


def test_the_gauge_multiplies_in_a_process_of_its_own(turns, monkeypatch):
    monkeypatch.setattr(turns, "BEGINNING", 3)
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    turns.gauge.cache_clear()
    worker, times = turns.gauge()
    assert turns.gauge()[0] is worker
    assert len(times) == 3
    assert all(0 < seconds < 1 for seconds in [*times, worker()])
    worker.close()
    turns.gauge.cache_clear()


def test_a_system_that_cannot_fork_is_refused(turns, monkeypatch):
    monkeypatch.setattr(turns.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(OSError, match="measure on Linux"):
        turns.start(1, 0)
