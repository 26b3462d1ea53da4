"""The part of the command line that needs torch: builds method, data and Trainer from a recipe, and runs them."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch
import yaml
from jsonargparse.typing import register_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dlkit.callbacks import Checkpoints, Compile, FinalValidation, Pictures, Progress, RandomState, Summary
from dlkit.callbacks.checkpoints import stopped_early
from dlkit.callbacks.summary import writer
from dlkit.cli import LINKED, LINKED_ALWAYS, LOGS, next_version, options_of, recipes, run_of, tidy
from dlkit.errors import USER_ERRORS, CommandLineError, explain, short_of_memory
from dlkit.evaluation import measure, silence_nags
from dlkit.loading import OTHER_NETWORK, parameters, read_checkpoint
from dlkit.method import Method
from dlkit.processes import accelerator, keep_freed_memory, world, write_whole
from dlkit.settings import callbacks_of, check_fields, choose_classes, classes_first

register_type(torch.device, fail_already_registered=False)  # or config.yaml could not name a callback's
OFTENER = "give --trainer.log_every_n_steps no more than an epoch has"
NO_VALIDATION = "no validation ran: there is no best.ckpt, and no pictures of examples"


class Unprofiled(PassThroughProfiler):
    """Measures nothing, in less time: for each of some fifty calls a step, Lightning's own enters and leaves a generator."""

    nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


class SaveConfig(SaveConfigCallback):
    """Keeps the configuration beside the checkpoints, written whole or not at all, and shows it in TensorBoard."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asked by every process, because Lightning broadcasts it
        if not trainer.is_global_zero or folder is None or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
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
        elif config["logger"] is False:  # a folder of its own all the same, for its checkpoints and its settings
            version = next_version(self.name) if self.version is None else self.version
            kwargs["default_root_dir"] = LOGS / self.name / f"version_{version}"
        if config["default_root_dir"] is not None:
            raise ValueError(f"--trainer.default_root_dir is not used: runs lie in {LOGS}/ below the folder you are in")
        if config["enable_checkpointing"] is False:
            raise ValueError(
                "--trainer.enable_checkpointing false: a run is resumed and tested from its checkpoints, leave it out"
            )
        if config["barebones"]:
            raise ValueError("--trainer.barebones true: a run is logged, saved and shown, leave it out")
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
        kwargs["callbacks"] = [*callbacks_of(config), RandomState(), FinalValidation(), summary]
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
            [*chosen_file(command, path, version, checkpoint), *arguments, *(["--compile"] if compiled else [])],
            version,
            None if version is None or command != "fit" else saved["global_step"] if saved else 0,
            args=["--config", str(path), *classes_first(arguments)],
            save_config_callback=SaveConfig if command == "fit" else None,
        )
    except (jsonargparse.ArgumentError, jsonargparse.ParserError) as error:
        raise CommandLineError(tidy(str(error))) from error
    except (*USER_ERRORS, ImportError, MisconfigurationException) as error:
        return explain(ValueError(innermost(str(error))) if isinstance(error, ValueError) else error)
    mend = reached(saved, cli.trainer) if command == "fit" and saved else None
    if mend:
        print(f"the newest run of {name} has finished already: {mend} to go on with it")
        return 0
    if compiled:
        cli.trainer.callbacks.insert(0, Compile())  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if command == "fit":
            with contextlib.nullcontext() if version is not None else forgotten_on_failure(cli.trainer):
                fit(cli, checkpoint)
        else:
            evaluate(cli, command, checkpoint)
    except (*USER_ERRORS, MisconfigurationException) as error:
        return explain(error)
    except (RuntimeError, MemoryError) as error:
        if short_of_memory(error):
            return explain(error)
        if world()[1] > 1 and "by peer" in str(error):  # "Connection closed by peer", among much else
            return explain(RuntimeError("another process of this run has failed and says above or below why: mend that"))
        if checkpoint and OTHER_NETWORK in str(error):
            changed = [option for option in options_of(arguments) if option.startswith(("--model", "--data"))]
            mend = f"leave out {' and '.join(changed)}" if changed else "go back to the code and config.yaml that wrote it"
            return explain(ValueError(f"{checkpoint} holds another network than the one that was built: {mend}"))
        # Lightning's way to say that there is no such metric, or more than one loader: the user's mistake, not the program's.
        if not any(said in str(error) for said in ("Early stopping conditioned on metric", "You provided multiple `")):
            raise
        if "metric `train/" in str(error):
            error = RuntimeError(f"{error} What training records is there from the first step on that is logged: {OFTENER}")
        return explain(error)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns Ctrl-C and SIGTERM into exits; whoever started the run has to see that it is not finished.
        print("stopped before the end: continue with --resume", file=sys.stderr)
        return 143 if isinstance(stop, SIGTERMException) else 130
    return 0


def chosen_file(command: str, path: Path, version: int | None, checkpoint: Path | None) -> list[str]:
    """The option that names a file, where a run is not of a shipped recipe, or a test not of the checkpoint that it takes."""
    if command != "fit":
        return [f"--ckpt_path={checkpoint}"] if version == -1 else []
    # A run without a checkpoint to go on from has kept its settings, and not which of them are the recipe's.
    return [f"--config={path}"] if checkpoint is None and path not in recipes().values() else []


@contextlib.contextmanager
def forgotten_on_failure(trainer: L.Trainer) -> Iterator[None]:
    """Takes a run that fails before its first step out of those that --resume goes on with: it would only fail again."""
    try:
        yield
    except Exception:
        if trainer.global_step == 0 and trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger | None):
            folder = trainer.default_root_dir if trainer.logger is None else trainer.logger.log_dir
            Path(folder, "config.yaml").unlink(missing_ok=True)
        raise


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
    parts = {name: saved.get(name) for name in ("pytorch-lightning_version",)}
    if command == "fit":
        parts |= {name: saved.get(name) for name in ("loops", "global_step", "optimizer_states", "callbacks")}
        parts["RandomState"] = (parts["callbacks"] or {}).get("RandomState")
    for name, part in parts.items():
        if not part:
            raise ValueError(f"{checkpoint} lacks {name}, which a run's checkpoint has: restore it, or use an earlier one")
    return saved


def innermost(message: str) -> str:
    """What a constructor said, without the parser's account of the types it tried around it."""
    seed = re.match(r"(\S+) is not in bounds, numpy accepts from (\d+) to (\d+)", message)
    if seed:
        return "--seed {}: give {} to {}".format(*seed.groups())
    found = re.search(r"Errors:\s+- (.+?)\s+- Expected an? |^Call to compute_fn of .+? failed: (.+)", message, re.DOTALL)
    return found.group(1) or found.group(2) if found else message


def reached(saved: dict[str, Any], trainer: L.Trainer) -> str | None:
    """What to change so that a run goes on from a checkpoint, if that is the end of the run that the Trainer is set to."""
    if 0 < trainer.max_steps <= saved["global_step"]:
        return "give more --trainer.max_steps"
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # pyright: ignore[reportAttributeAccessIssue]
    seconds = saved["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
    if timer is not None and timer._duration is not None and seconds >= timer._duration:
        return "give more --trainer.max_time"
    progress = saved["loops"]["fit_loop"]
    # A run that is counted in steps may have been saved at the last step of its epoch.
    over = progress["epoch_loop.batch_progress"]["is_last_batch"]
    epochs = progress["epoch_progress"]["current"]["ready" if over else "processed"]
    if trainer.max_epochs not in (None, -1) and epochs >= (trainer.max_epochs or 0):
        return "give more --trainer.max_epochs"
    if epochs >= (trainer.min_epochs or 0) and saved["global_step"] >= (trainer.min_steps or 0):
        stopping = stopped_early(saved, trainer)
        if stopping:  # More patience would not do: Lightning takes that from the checkpoint.
            return f"leave {type(stopping).__name__} out of trainer.callbacks"
    return None


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
    end_together(trainer)
    if not trainer.global_step:
        raise ValueError(
            "not one step was trained: give --trainer.max_epochs, --trainer.max_steps and --trainer.limit_train_batches above 0"
        )
    if first and folder is not None:
        metrics = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        print(f"finished: {folder}")
        print("  ".join(f"{key} {float(value):.4g}" for key, value in sorted(metrics.items())) or NO_VALIDATION)


def end_together(trainer: L.Trainer) -> None:
    """Waits for all processes. Left to the interpreter's exit, the group's threads can abort one after all is done."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        trainer.strategy.barrier()
        torch.distributed.destroy_process_group()


def evaluate(cli: DlkitCLI, command: str, checkpoint: Path | None) -> None:
    """Measures a checkpoint, and keeps the result in its run's folder as `test.json` or `validate.json`."""
    assert checkpoint is not None
    cli.trainer.logger = None
    # A checkpoint that was moved out of its run has the result beside it.
    folder = run_of(checkpoint) if (run_of(checkpoint) / "config.yaml").is_file() else checkpoint.parent
    target = None if cli.trainer.fast_dev_run else folder / f"{command}.json"  # pyright: ignore[reportAttributeAccessIssue]
    split = "test" if command == "test" else "val"
    measure(cli.trainer, cli.model, cli.datamodule, split, checkpoint, str(checkpoint), target, cli.overrides)
    end_together(cli.trainer)
