"""The watch for losses that are not finite."""

from __future__ import annotations

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
