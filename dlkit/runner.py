"""The part of the command line that needs torch: builds method, data and Trainer from a recipe, and runs them."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dlkit.callbacks import Checkpoints, Compile, FinalValidation, Pictures, Progress, RandomState, Summary
from dlkit.callbacks.summary import writer
from dlkit.cli import LINKED, LINKED_ALWAYS, LOGS, options_of, recipe_classes, recipes, suggestion, tidy
from dlkit.errors import USER_ERRORS, CommandLineError, explain
from dlkit.evaluation import measure, silence_nags
from dlkit.method import Method, read_checkpoint
from dlkit.processes import accelerator, keep_freed_memory, write_whole

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


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a callable, without self."""
    return {name: parameter for name, parameter in inspect.signature(function).parameters.items() if name != "self"}


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
            if content is None:
                raise CommandLineError(f"{section}.init_args is empty\nleave the line out, or give settings below it")
            if f"--{section}" in given:  # another class takes of the file's settings those that it has too
                content = {field: value for field, value in content.items() if field in fields[section]}
        if isinstance(content, dict):
            given += [f"--{section}.{field}" for field in content]
        elif section not in SETTINGS:
            given.append(f"--{section}")
    refuse_calls(config)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict | None):
        raise CommandLineError(f"trainer is {trainer!r}, which is no section\ngive settings below it, such as max_epochs")
    check_callbacks(trainer.get("callbacks") if trainer else None)
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


def check_callbacks(entries: Any) -> None:
    """Refuses callbacks of a file that do not exist, settings that they do not have, and functions, which run code.

    Raises:
        CommandLineError: naming it.
    """
    for entry in entries if isinstance(entries, list) else []:
        path, given = (entry.get("class_path"), entry.get("init_args")) if isinstance(entry, dict) else (None, None)
        if not isinstance(path, str) or "." not in path:
            continue  # the parser knows Lightning's callbacks by their short names, and refuses the rest
        found = imported(path)
        if isinstance(found, type) and issubclass(found, LambdaCallback):
            raise CommandLineError(f"{path} calls functions, and a file that is opened runs no code\nuse it in Python instead")
        known = parameters(found) if callable(found) else {}
        if not known or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
            continue  # likewise
        for field in given if isinstance(given, dict) else ():
            if field not in known:
                raise CommandLineError(f"{path} has no setting {field}\n{suggestion(field, list(known))}")


class Unprofiled(PassThroughProfiler):
    """Measures nothing, in less time: for each of some fifty calls a step, Lightning's own enters and leaves a generator."""

    nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


class SaveConfig(SaveConfigCallback):
    """Keeps the configuration beside the checkpoints, written whole or not at all, and shows it in TensorBoard."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asked by every process, because Lightning broadcasts it
        if not trainer.is_global_zero or folder is None or trainer.logger is None or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        content = self.parser.dump(self.config, skip_none=False)
        path = Path(folder) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        board = writer(trainer)
        if board is not None:
            board.add_text("config", f"```yaml\n{content}\n```", 0)


class Parser(LightningArgumentParser):
    """Reads no file but the recipe: Lightning's takes a file's name for any part of it, and nobody has checked that file."""

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})


class DlkitCLI(LightningCLI):
    """LightningCLI with dlkit's callbacks, and with the data's properties linked to what the method requires."""

    def __init__(
        self, name: str, linked: list[str], overrides: list[str], version: int | None, step: int | None, **kwargs: Any
    ) -> None:
        self.overrides = tuple(overrides)
        self.name = name
        self.linked = linked
        self.version = version
        self.step = step
        super().__init__(
            Method,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
            # One device: a recipe's batch size and number of steps are those of one, and so is its result.
            trainer_defaults={
                "accelerator": accelerator(),
                "devices": 1,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
            },
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Pictures, "pictures")
        for field in self.linked:
            parser.link_arguments("data", f"model.init_args.{field}", compute_fn=property_of(field), apply_on="instantiate")
        parser.link_arguments("data", "pictures.class_names", compute_fn=class_names, apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        if config["logger"] in (None, True):
            # On resuming, what was logged after the checkpoint is about to be logged again.
            kwargs["logger"] = TensorBoardLogger(
                LOGS, name=self.name, version=self.version, default_hp_metric=False, purge_step=self.step
            )
        for field in ("accumulate_grad_batches", "check_val_every_n_epoch"):
            if config[field] is not None and config[field] < 1:
                raise ValueError(f"--trainer.{field} {config[field]}: give at least 1")
        if config["profiler"] is None:
            kwargs["profiler"] = Unprofiled()
        devices, cores = config["devices"], os.cpu_count() or 1
        has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
        if config["accelerator"] == "cpu" or (config["accelerator"] == "auto" and not has_gpu):
            number = re.fullmatch(r"-?\d+", str(devices))
            if (number and not 1 <= int(devices) <= cores) or (not number and devices != "auto"):
                raise ValueError(
                    f"--trainer.devices {devices}: this machine has {cores} cores, and a process each is the most: give a "
                    f"number from 1 to {cores}"
                )
        seed = self._get(self.config, "seed_everything")
        summary = Summary(self.name, seed, self.overrides)
        kwargs["callbacks"] = [*(config["callbacks"] or []), RandomState(), FinalValidation(), summary]
        if config["enable_progress_bar"] is not False:
            kwargs["callbacks"].append(Progress())
        return super().instantiate_trainer(**kwargs)


def property_of(field: str) -> Callable[[L.LightningDataModule], Any]:
    """What reads a linked property of the data."""

    def read(data: L.LightningDataModule) -> Any:
        if not hasattr(data, field):
            raise ValueError(f"the method needs to know {field}, which {type(data).__name__} does not have: choose other data")
        return getattr(data, field)

    return read


def class_names(data: L.LightningDataModule) -> tuple[str, ...]:
    """The names of the data's classes, where it has any."""
    return tuple(getattr(data, "class_names", ()))


def run(
    command: str,
    name: str,
    path: Path,
    arguments: list[str],
    version: int | None = None,
    checkpoint: Path | None = None,
    compiled: bool = False,
) -> int:
    """Runs a recipe.

    Args:
        command: "fit", "validate" or "test".
        name: under which the run is logged.
        path: the recipe or configuration file.
        arguments: what overrides it.
        version: the run to continue, or None for a new one.
        checkpoint: the checkpoint to continue or to evaluate.
        compiled: whether to compile the networks.

    Returns:
        0, or 1 after a run that failed with an explanation.

    Raises:
        CommandLineError: the command makes no sense.
    """
    silence_nags()
    keep_freed_memory()
    sys.path.append(os.getcwd())  # so that `--model my_module.MyVAE` finds a user's own file
    torch.set_float32_matmul_precision("high")
    classes = choose_classes(path, arguments)
    linked = [
        field
        for field, parameter in parameters(classes["model"]).items()
        if (field in LINKED and parameter.default is inspect.Parameter.empty)
        or (field in (*LINKED_ALWAYS, *classes["model"].taken_from_data) and hasattr(classes["data"], field))
    ]
    check_fields(classes, yaml.safe_load(path.read_text()) or {}, arguments, linked)
    try:
        saved = saved_by(classes["model"], checkpoint, command) if checkpoint else None
        cli = DlkitCLI(
            name,
            linked,
            [*chosen_file(command, path, version, checkpoint), *arguments],
            version,
            saved["global_step"] if saved and command == "fit" else None,
            args=["--config", str(path), *arguments],
            save_config_callback=SaveConfig if command == "fit" else None,
        )
    except (jsonargparse.ArgumentError, jsonargparse.ParserError) as error:
        raise CommandLineError(tidy(str(error))) from error
    except (*USER_ERRORS, MisconfigurationException) as error:
        return explain(ValueError(innermost(str(error))) if isinstance(error, ValueError) else error)
    if command == "fit" and saved and finished(saved, cli.trainer):
        limit = "max_steps" if 0 < cli.trainer.max_steps <= saved["global_step"] else "max_epochs"
        print(f"the newest run of {name} has finished already: give more --trainer.{limit} to go on with it")
        return 0
    if compiled:
        cli.trainer.callbacks.insert(0, Compile())  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if command == "fit":
            fit(cli, checkpoint)
        else:
            evaluate(cli, command, checkpoint)
    except (*USER_ERRORS, MisconfigurationException) as error:
        if command == "fit" and version is None:
            forget(cli.trainer)
        return explain(error)
    except RuntimeError as error:
        if checkpoint and "Error(s) in loading state_dict" in str(error):
            changed = [option for option in options_of(arguments) if option.startswith(("--model", "--data"))]
            mend = f"leave out {' and '.join(changed)}" if changed else "go back to the code and config.yaml that wrote it"
            return explain(ValueError(f"{checkpoint} holds another network than the one that was built: {mend}"))
        # EarlyStopping's way to say that no such metric is recorded: the user's mistake, not the program's.
        if "Early stopping conditioned on metric" not in str(error):
            raise
        return explain(error)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns Ctrl-C and SIGTERM into exits; whoever started the run has to see that it is not finished.
        print("stopped before the end: continue with --resume", file=sys.stderr)
        return 143 if isinstance(stop, SIGTERMException) else 130
    return 0


def chosen_file(command: str, path: Path, version: int | None, checkpoint: Path | None) -> list[str]:
    """The option that named a file, where a run is not of a shipped recipe, or a test not of the checkpoint that it takes."""
    if command != "fit":
        return [f"--ckpt_path={checkpoint}"] if version == -1 else []
    return [f"--config={path}"] if version is None and path not in recipes().values() else []


def forget(trainer: L.Trainer) -> None:
    """Takes a run that failed before its first step out of those that --resume goes on with: it would only fail again."""
    if trainer.global_step == 0 and trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        Path(trainer.logger.log_dir, "config.yaml").unlink(missing_ok=True)


def saved_by(method: type, checkpoint: Path, command: str) -> dict[str, Any]:
    """The content of a checkpoint that a method wrote, and from which "fit" can go on.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another method's, or damaged.
    """
    saved = read_checkpoint(checkpoint)
    own, found = method.__name__, saved["dlkit"]["method"].rpartition(".")[2]
    if found != own:
        raise ValueError(f"{checkpoint} is a checkpoint of {found} and the recipe builds {own}: name the recipe that wrote it")
    for name in ("pytorch-lightning_version", *(("loops", "global_step", "optimizer_states") if command == "fit" else ())):
        if name not in saved:
            raise ValueError(f"{checkpoint} lacks {name}, which a run's checkpoint has: restore it, or use an earlier one")
    return saved


def innermost(message: str) -> str:
    """What a constructor said, without the parser's account of the types it tried around it."""
    found = re.search(r"Errors:\s+- (.+?)\s+- Expected an? |^Call to compute_fn of .+? failed: (.+)", message, re.DOTALL)
    return found.group(1) or found.group(2) if found else message


def finished(saved: dict[str, Any], trainer: L.Trainer) -> bool:
    """Whether a checkpoint is the end of the run that the Trainer is set to."""
    epochs = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    by_epochs = trainer.max_epochs not in (None, -1) and epochs >= (trainer.max_epochs or 0)
    return by_epochs or 0 < trainer.max_steps <= saved["global_step"]


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


def fit(cli: DlkitCLI, checkpoint: Path | None) -> None:
    """Trains, and says where to look."""
    trainer, method = cli.trainer, cli.model
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if first:
        size = sum(parameter.numel() for parameter in method.parameters())
        print(f"{type(method).__name__} with {size:,} parameters on {type(cli.datamodule).__name__}")
        print(f"watch it with: tensorboard --logdir {LOGS}")
    trainer.fit(method, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    folder = trainer.log_dir
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Left to the interpreter's exit, the group's threads can abort the process after all is done.
        trainer.strategy.barrier()
        torch.distributed.destroy_process_group()
    if first and folder is not None:
        metrics = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        print(f"finished: {folder}")
        print("  ".join(f"{key} {float(value):.4g}" for key, value in sorted(metrics.items())) or "no validation ran")


def evaluate(cli: DlkitCLI, command: str, checkpoint: Path | None) -> None:
    """Measures a checkpoint, and keeps the result in its run's folder as `test.json` or `validate.json`."""
    assert checkpoint is not None
    cli.trainer.logger = None
    target = None if cli.trainer.fast_dev_run else checkpoint.parent.parent / f"{command}.json"  # pyright: ignore[reportAttributeAccessIssue]
    split = "test" if command == "test" else "val"
    measure(cli.trainer, cli.model, cli.datamodule, split, checkpoint, str(checkpoint), target, cli.overrides)
