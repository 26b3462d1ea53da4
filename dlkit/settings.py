"""What a recipe and the command line may say: the classes that they name, and the settings that these have.

Everything is looked at before anything is built. No file has a function called.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from pathlib import Path
from typing import Any

import lightning as L
import lightning.pytorch.callbacks
import yaml
from lightning.pytorch.callbacks import LambdaCallback

from dlkit.callbacks import Checkpoints, Pictures
from dlkit.cli import options_of, recipe_classes, suggestion
from dlkit.errors import CommandLineError
from dlkit.loading import parameters
from dlkit.method import Method

SETTINGS = ("config", "seed_everything", "print_config", "model", "data", "trainer", "checkpoint", "pictures")


def imported(path: str) -> Any:
    """What is at a dotted path.

    Raises:
        CommandLineError: nothing.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandLineError(f"the class {path} cannot be imported ({error})\nname it as package.module.Class") from error


def import_class(path: str, base: type) -> type:
    """The class at a dotted path.

    Raises:
        CommandLineError: there is none, or it is of another kind.
    """
    if "." not in path:
        package = "dlkit" if base is Method else "datamodules"
        raise CommandLineError(
            f"the class {path} has no package in front of its name\nname it in full, such as {package}.{path}"
        )
    found = imported(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise CommandLineError(f"{path} is no {base.__name__}\nname a subclass of {base.__name__}")
    return found


def classes_first(arguments: list[str]) -> list[str]:
    """The arguments with another class of a section before the fields that are given below it, as the parser wants them."""
    first: list[str] = []
    rest = list(arguments)
    for index in reversed(range(len(rest))):
        if rest[index].partition("=")[0] in ("--model", "--data"):
            end = index + (1 if "=" in rest[index] else 2)
            first, rest = rest[index:end] + first, rest[:index] + rest[end:]
    return first + rest


def check_fields(classes: dict[str, type], config: dict[str, Any], arguments: list[str], linked: list[str]) -> None:
    """Refuses a field that does not exist, in the file or on the command line, and names the nearest that does.

    Raises:
        CommandLineError: naming the field.
    """
    sections = {**classes, "trainer": L.Trainer, "checkpoint": Checkpoints, "pictures": Pictures}
    fields = {section: set(parameters(owner)) for section, owner in sections.items()}
    fields["model"] -= set(linked)
    fields["pictures"] -= {"class_names"}
    known = [f"--{section}.{field}" for section, names in fields.items() for field in names]
    given = [option.replace(".init_args.", ".").rstrip("+") for option in options_of(arguments)]
    for section, content in config.items():
        if section in ("model", "data") and isinstance(content, dict):
            for field in content:
                if field not in ("class_path", "init_args", "dict_kwargs"):
                    raise CommandLineError(f"{section}.{field} stands beside class_path\nput it below {section}.init_args")
            content = content.get("init_args", {})
            if not isinstance(content, dict):
                what = "empty" if content is None else f"{content!r}, no section"
                raise CommandLineError(f"{section}.init_args is {what}\nleave the line out, or give settings below it")
            if f"--{section}" in given:  # another class takes of the file's settings those that it has too
                content = {field: value for field, value in content.items() if field in fields[section]}
        if isinstance(content, dict):
            given += [f"--{section}.{field}" for field in content]
        elif section not in SETTINGS:
            given.append(f"--{section}")
    refuse_calls(config)
    for section, field in (("trainer", "max_epochs"), ("checkpoint", "monitor"), ("pictures", "every_n_epochs")):
        if not isinstance(config.get(section), dict | None):
            raise CommandLineError(f"{section} is {config[section]!r}, no section\ngive settings below it, such as {field}")
    check_callbacks(callbacks_of(config.get("trainer") or {}))
    for option in given:
        section, _, field = option.removeprefix("--").partition(".")
        if option.startswith("--model.") and field in linked:
            raise CommandLineError(f"{option} is taken from the data\nleave it out, or choose other data with --data")
        if field.partition(".")[0] not in fields.get(section, ()) and not (not field and section in SETTINGS):
            nearest = suggestion(option, [*known, *(f"--{setting}" for setting in SETTINGS), "--seed", "--resume", "--compile"])
            raise CommandLineError(f"there is no option {option}\n{nearest}")


def refuse_calls(value: Any, where: str = "", inside: bool = False) -> None:
    """Refuses what would have the parser call something that a file names: a class_path among the settings of another.

    Where a setting takes a function, as those of Lightning's LambdaCallback do, the parser would import whatever stands there,
    os.system for one, and call it. What stands outside of settings has to be a method, data, or a part of a Trainer.

    Args:
        value: of the file, or of a part of it.
        where: the part's name.
        inside: whether it belongs to the settings of a class.

    Raises:
        CommandLineError: naming the setting.
    """
    if isinstance(value, dict):
        if inside and "class_path" in value:
            raise CommandLineError(
                f"{where} names {value['class_path']}, and a file that is opened runs no code\nset it in Python instead"
            )
        for name, part in value.items():
            refuse_calls(part, f"{where}.{name}".lstrip("."), inside or name in ("init_args", "dict_kwargs"))
    elif isinstance(value, list):
        for part in value:
            refuse_calls(part, where, inside)
    elif isinstance(value, str):  # which the parser reads where it asks for a class
        with contextlib.suppress(yaml.YAMLError):
            read = yaml.safe_load(value)
            if isinstance(read, dict | list):
                refuse_calls(read, where, True)


def callbacks_of(trainer: Any) -> list[Any]:
    """The callbacks that a section `trainer` names, which are a list, or one alone, or none."""
    callbacks = trainer.get("callbacks") or []
    return callbacks if isinstance(callbacks, list) else [callbacks]


def check_callbacks(entries: list[Any]) -> None:
    """Refuses callbacks of a file that do not exist, settings that they lack, and functions, which run code.

    Raises:
        CommandLineError: naming it.
    """
    for entry in entries:
        path, given = (entry.get("class_path"), entry.get("init_args")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(path, str):
            continue  # the parser refuses it
        # The parser knows Lightning's callbacks by their short names, and refuses other names without a package.
        found = imported(path) if "." in path else getattr(lightning.pytorch.callbacks, path, None)
        if isinstance(found, type) and issubclass(found, LambdaCallback):
            raise CommandLineError(f"{path} calls functions, and a file that is opened runs no code\nuse it in Python instead")
        known = parameters(found) if callable(found) else {}
        if not known or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
            continue  # likewise
        for field in given if isinstance(given, dict) else ():
            if field not in known:
                raise CommandLineError(f"{path} has no setting {field}\n{suggestion(field, list(known))}")


def choose_classes(path: Path, arguments: list[str]) -> dict[str, type]:
    """The method's and the data's class: the recipe's, or another named on the command line.

    Raises:
        CommandLineError: one is missing, or is no method or datamodule.
    """
    paths = recipe_classes(path)
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--model", "--data"):
            if not equals and index + 1 == len(arguments):
                raise CommandLineError(f"{option} needs a class\nfor example: --model dlkit.VAE")
            paths[option.removeprefix("--")] = value if equals else arguments[index + 1]
    for section in ("model", "data"):
        if section not in paths:
            raise CommandLineError(f"{path} names no class for {section}\nadd a section '{section}' with a class_path")
    return {
        "model": import_class(paths["model"], Method),
        "data": import_class(paths["data"], L.LightningDataModule),
    }
