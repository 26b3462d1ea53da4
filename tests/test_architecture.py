"""Who may import whom, and what every public name must say."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import datamodules
import dlkit

ROOT = Path(__file__).parent.parent
# A module may import from its own floor's folder and from lower floors.
FLOORS = [
    ("errors", "batches", "processes", "text", "protocols", "functional", "adam"),
    ("nn",),
    ("metrics",),
    ("ability", "checks", "finite", "loading", "method", "supervised"),
    ("classifiers", "autoencoders", "adversarial", "sequences", "graphs", "sets", "flows"),
    ("callbacks",),
    ("cli", "settings", "runner", "evaluation"),
]
CHAPTERS = FLOORS[4]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in (ROOT / "dlkit").rglob("*.py") if path.parent != ROOT / "dlkit" or path.stem != "__init__")


def imports(path):
    """Dotted names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(dotted):
    """dlkit.nn.mlp -> nn."""
    return dotted.split(".")[1] if "." in dotted else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_lower_floors_only(path):
    own = path.relative_to(ROOT / "dlkit").with_suffix("").parts[0]
    for name in imports(path):
        other = part(name) if name.startswith("dlkit.") else None
        if other is None or other == own:
            continue
        assert FLOOR[other] < FLOOR[own] or (FLOOR[other] == FLOOR[own] and own not in CHAPTERS), f"{own} imports {name}"
        assert not (own in CHAPTERS and other in CHAPTERS)


@pytest.mark.parametrize("path", sorted((ROOT / "datamodules").glob("*.py")), ids=lambda path: path.name)
def test_datamodules_know_batches_processes_and_text_and_nothing_else_of_dlkit(path):
    assert {name for name in imports(path) if name.startswith("dlkit")} <= {"dlkit.batches", "dlkit.processes", "dlkit.text"}


@pytest.mark.parametrize("path", sorted((ROOT / "dlkit" / "nn").glob("*.py")), ids=lambda path: path.name)
def test_networks_know_no_lightning(path):
    assert not [name for name in imports(path) if name.startswith("lightning")]


def public():
    for package in (dlkit, datamodules):
        for name, module in package.EXPORTS.items():
            yield pytest.param(module, name, id=f"{package.__name__}.{name}")


@pytest.mark.parametrize(("module", "name"), list(public()))
def test_a_public_name_is_documented_typed_and_without_swallowed_arguments(module, name):
    found = getattr(importlib.import_module(module), name)
    assert found.__doc__
    if not inspect.isclass(found) or "__init__" not in vars(found):
        return
    for parameter in list(inspect.signature(found.__init__).parameters.values())[1:]:
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        assert parameter.annotation is not parameter.empty
        assert parameter.name in found.__doc__, parameter.name


def test_the_exported_names_are_those_that_packages_announce():
    for package in (dlkit, datamodules):
        assert sorted(package.EXPORTS) == sorted(package.__all__)
        assert set(package.EXPORTS) <= set(dir(package))
        with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
            package.Nothing  # noqa: B018
