"""Runs scripts in processes of their own that have imported everything already, which takes most of a short script's time.

Started itself, it reads commands, one JSON object a line, from its input: "script" and "arguments", "folder" to start in,
"environment", and the files "stdout" and "stderr". It answers with the exit code, a line each.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
from typing import Any

import matplotlib.backends.backend_agg  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import datamodules  # noqa: F401
import dlkit.runner  # noqa: F401

TIMEOUT = 300  # seconds


def wait_for_command() -> dict[str, Any]:
    """Returns once for each command, in a process that is there for it alone."""
    gc.collect()
    gc.freeze()  # or each process would copy what it looks at for garbage
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    command = wait_for_command()
    signal.alarm(TIMEOUT)
    for number, path in enumerate((os.devnull, command["stdout"], command["stderr"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    sys.argv = [command["script"], *command["arguments"]]
    sys.path[0] = os.path.dirname(command["script"])
    runpy.run_path(command["script"], run_name="__main__")
