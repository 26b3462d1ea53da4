"""What a trained method does for a user: in evaluation mode and without gradients, or with them where it says so."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from dlkit.method import Method

Function = TypeVar("Function", bound=Callable[..., Any])


def ability(function: Function) -> Function:
    """Marks what a trained method does for a user: it runs in evaluation mode and without gradients."""

    @functools.wraps(function)
    def wrapper(self: Method, *args: Any, **kwargs: Any) -> Any:
        if self._evaluating:  # one ability calls another
            with torch.no_grad():
                return function(self, *args, **kwargs)
        training = modules_in_training(self)
        for attributes in training:
            attributes["training"] = False
        self._evaluating = True
        try:
            with torch.no_grad():
                return function(self, *args, **kwargs)
        finally:
            self._evaluating = False
            for attributes in training:
                attributes["training"] = True

    return wrapper  # type: ignore[return-value]


def modules_in_training(root: torch.nn.Module) -> list[dict[str, Any]]:
    """The attributes of each module in training mode, root included: one that was frozen in evaluation mode is none of them.

    By the attributes, past `modules` and `Module.__setattr__`, which for many small modules take longer than they do.
    """
    found, ahead = [], [root]
    for module in ahead:
        if module is not None:
            attributes = vars(module)
            if attributes.get("training"):  # compiled modules have none of their own
                found.append(attributes)
            ahead.extend(attributes["_modules"].values())
    return found


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Allows gradients within validation and test, whose inference mode forbids them; tensors from outside must be copied."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
