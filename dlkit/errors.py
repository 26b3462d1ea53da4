"""Mistakes that a user can mend: they end a command with one sentence, not with a traceback."""

from __future__ import annotations

import errno
import os
import re
import sys


class CommandLineError(Exception):
    """A mistake in the command: its message is all that the user needs to see."""


class NonFiniteError(RuntimeError):
    """A loss, or a parameter about to be saved, is NaN or infinite."""


class CollapseError(RuntimeError):
    """The samples of a generator have become all alike."""


USER_ERRORS = (ValueError, OSError, NonFiniteError, CollapseError)


def short_of_memory(error: BaseException) -> bool:
    """Whether an error says, in one of torch's or numpy's ways, that there is not enough memory."""
    found = re.search(r"can't allocate memory|out of memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or found is not None


def explain(error: BaseException) -> int:
    """Prints a failure in one sentence; the traceback is for DLKIT_TRACEBACK=1.

    Returns:
        The exit code, 1.
    """
    if os.environ.get("DLKIT_TRACEBACK"):
        raise error
    message = re.sub(r"\s+", " ", str(error)).strip()
    if short_of_memory(error):
        message = "there is not enough memory: ask for less at once, such as fewer samples or a smaller batch_size"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) and "--resume" not in message:
        message = f"{message}: make room, then run it again (a training with --resume, which goes on from its last checkpoint)"
    print(f"error: {message or type(error).__name__}", file=sys.stderr)
    return 1
