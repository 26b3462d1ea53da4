"""Reading checkpoints, which cannot run code, and the methods that they describe; what a method is built from."""

from __future__ import annotations

import importlib
import inspect
import pickle
from pathlib import Path
from typing import Any

import torch

import dlkit

OTHER_NETWORK = "Error(s) in loading state_dict"  # how torch's message begins where the names or shapes of parameters differ


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without letting it run code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of dlkit, is cut short, or holds more than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}: give the path of a .ckpt file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds something other than tensors and plain data, which could run code, so it was not loaded"
        ) from error
    except Exception as error:  # torch's reader fails on damaged bytes in every way there is
        raise ValueError(f"{path} is damaged or no checkpoint: restore it, or use an earlier one") from error
    mark = checkpoint.get("dlkit") if isinstance(checkpoint, dict) else None
    named = isinstance(mark, dict) and isinstance(mark.get("method"), str)
    if not named or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        raise ValueError(f"{path} was not written by dlkit: train with `python scripts/fit.py` or a dlkit Method")
    for part in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint[part], dict):
            raise ValueError(f"{path} is damaged, its {part} is a {type(checkpoint[part]).__name__}: restore it")
    return checkpoint


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a callable, without self; of a class that takes **kwargs those of the classes behind it, too."""
    if not isinstance(function, type):
        return {**inspect.signature(function).parameters}
    found: dict[str, inspect.Parameter] = {}
    passed_on: dict[str, inspect.Parameter] = {}
    for kind in (kind for kind in function.__mro__[:-1] if "__init__" in vars(kind)):
        own = [parameter for name, parameter in inspect.signature(vars(kind)["__init__"]).parameters.items() if name != "self"]
        passed_on = {parameter.name: parameter for parameter in own if parameter.kind is parameter.VAR_KEYWORD}
        named = [parameter for parameter in own if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]
        found = {parameter.name: parameter for parameter in named} | found
        if not passed_on:
            break
    return found | passed_on


def load(path: str | Path, map_location: Any = "cpu") -> Any:
    """Loads the checkpoint of any method that dlkit ships, whichever it is, in evaluation mode.

    The class is looked up among dlkit's own names, never imported from a name in the file; for a class of your own,
    call its `load_from_checkpoint`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of a method that dlkit ships.
    """
    saved = read_checkpoint(path)["dlkit"]["method"]
    module, _, name = saved.rpartition(".")
    if dlkit.EXPORTS.get(name) != module:
        raise ValueError(f"{path} is a checkpoint of {saved}, not one of dlkit's: call {name}.load_from_checkpoint(path)")
    return getattr(importlib.import_module(module), name).load_from_checkpoint(path, map_location=map_location)
