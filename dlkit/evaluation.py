"""What scripts/sample.py and scripts/evaluate.py do: a checkpoint and its run's configuration are all they need."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from PIL import Image

import dlkit
from dlkit.callbacks import Quality, RandomState, Translations
from dlkit.callbacks.drawing import grid, is_image, square
from dlkit.callbacks.random_state import isolated
from dlkit.cli import run_of
from dlkit.errors import USER_ERRORS, CommandLineError, NonFiniteError, explain, short_of_memory
from dlkit.processes import accelerator, keep_freed_memory, whole, write_whole
from dlkit.protocols import FitsLatentDensity, HasBaselines, HasTrivialBaselines, Samples
from dlkit.settings import callbacks_of

LARGEST_COVARIANCE = 4096  # elements of an example up to which baselines are computed, which takes their cube in time
MEASURES: tuple[type[L.Callback], ...] = (Quality, Translations)

# Lines that Lightning and its dependencies print at every run and that a user of dlkit can do nothing about.
NAGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r".*smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*args parameter is intended to run from within Python.*",
)


def silence_nags() -> None:
    """Filters exactly these lines, and Lightning's advertisements."""
    for nag in NAGS:
        warnings.filterwarnings("ignore", nag)
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.pytorch.utilities",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def explain_errors(main: Callable[[], None]) -> int:
    """Runs a script's main function; a failure that a user can mend is one sentence and exit code 1."""
    silence_nags()
    keep_freed_memory()
    try:
        main()
    except (*USER_ERRORS, CommandLineError) as error:
        return explain(error)
    except (RuntimeError, MemoryError) as error:
        if not short_of_memory(error):
            raise
        return explain(error)
    return 0


def training_examples(data: Any) -> Iterator[Any]:
    """The training part in order, as methods are given it: as in training where each batch is binarised anew, and so shifted
    where that is asked for too, else not augmented."""
    training = getattr(data, "binarize", None) == "dynamic"
    return (data.prepare(batch, training) for batch in data.loader("train"))


def configuration(checkpoint: Path) -> tuple[Path, dict[str, Any]]:
    """The `config.yaml` beside a checkpoint's folder: its path and its content.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not the configuration of a run.
    """
    path = run_of(checkpoint) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{checkpoint} needs its run's data and there is no {path}: keep the run's folder together, or, if fit.py did not "
            f"write it, use it from Python"
        )
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not the configuration of a run: restore it") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the configuration of a run: restore it")
    return path, config


def measures_of(checkpoint: Path) -> list[L.Callback]:
    """What a run measured beyond its method's own: its `dlkit.callbacks.Quality` and `Translations`, if it had them."""
    _, config = configuration(checkpoint)
    measures = {f"{place}.{kind.__name__}": kind for kind in MEASURES for place in ("dlkit.callbacks", kind.__module__)}
    callbacks = callbacks_of(config.get("trainer") or {})
    ours = [entry for entry in callbacks if isinstance(entry, dict) and entry.get("class_path") in measures]
    found = [measures[entry["class_path"]](**(entry.get("init_args") or {})) for entry in ours]
    if importlib.util.find_spec("sacrebleu") is None and any(isinstance(measure, Translations) for measure in found):
        print("BLEU is left out: it needs pip install 'dlkit[text]'")
        found = [measure for measure in found if not isinstance(measure, Translations)]
    return found


def data_of(checkpoint: Path) -> Any:
    """The datamodule of the run that wrote a checkpoint, from the `config.yaml` beside the checkpoints' folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it names no datamodule of dlkit.
    """
    path, config = configuration(checkpoint)
    try:
        config = config["data"]
        package, _, name = config["class_path"].rpartition(".")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the configuration of a run: restore it") from error
    exports = importlib.import_module("datamodules").EXPORTS
    if name not in exports or package not in ("datamodules", exports[name]):
        raise ValueError(f"{path} names the data {config['class_path']}, which is not dlkit's: use fit.py test, or Python")
    try:
        return getattr(importlib.import_module("datamodules"), name)(**(config.get("init_args") or {}))
    except TypeError as error:
        raise ValueError(f"{path} names settings that {name} does not have ({error}): restore it") from error


def sample(
    checkpoint: Path,
    number: int = 64,
    out: Path = Path("samples"),
    seed: int = 0,
    labels: list[int] | None = None,
    latents: str | None = None,
) -> None:
    """Writes `number` samples of a checkpoint's method to `out`.npz (array `x`) and, if they are pictures, `out`.png.

    Args:
        checkpoint: of any method that samples.
        number: how many.
        out: path without suffix.
        seed: of the random numbers.
        labels: classes to go through in turn, for a conditional method.
        latents: the density fitted to the latents of a method that has none of its own: "gaussian" or "mixture"; None takes
            the one in the checkpoint, or else fits a mixture.

    Raises:
        ValueError: the method does not sample, takes no labels or does not know one, or `number` or `seed` is out of range.
    """
    if number < 1:
        raise ValueError(f"--number {number}: ask for at least one sample")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give 0 to 2^63 - 1")
    method = dlkit.load(checkpoint)
    if not isinstance(method, Samples):
        raise ValueError(f"{checkpoint} is a {type(method).__name__}, which does not sample: use scripts/evaluate.py")
    torch.manual_seed(seed)
    if isinstance(method, FitsLatentDensity) and (latents is not None or method.latent_density is None):
        method.fit_latent_density(training_examples(data_of(checkpoint)), latents or "mixture")
    if labels and "labels" not in inspect.signature(method.sample).parameters:
        raise ValueError(f"{checkpoint} is a {type(method).__name__}, which takes no labels: leave out --labels")
    classes = getattr(method, "num_classes", None)
    if labels and classes is not None and not 0 <= min(labels) <= max(labels) < classes:
        wrong = next(label for label in labels if not 0 <= label < classes)
        raise ValueError(f"--labels {wrong}: {checkpoint} knows the classes 0 to {classes - 1}, choose among them")
    if labels:
        chosen = torch.tensor([labels[index % len(labels)] for index in range(number)])
        x = method.sample(number, labels=chosen)  # type: ignore[call-arg]
    else:
        x = method.sample(number)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = [Path(f"{out}.npz")]
    with whole(written[0]) as temporary, temporary.open("wb") as file:
        np.savez(file, x=x.numpy())  # compressing floats takes ten times as long and saves little
    if is_image(x.shape[1:]):
        columns = math.isqrt(number)
        picture = grid(square(torch.cat([x, x.new_zeros(-number % columns, *x.shape[1:])]), columns))
        written.append(Path(f"{out}.png"))
        with whole(written[1]) as temporary:
            Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(temporary, format="PNG")
    print(f"wrote {' and '.join(map(str, written))}: {number} samples of {type(method).__name__}")


def baselines(method: Any, data: Any) -> dict[str, float]:
    """The closed-form baselines of a method on its data, by name; none for a method that has none, large examples, or data
    not of dlkit."""
    if not isinstance(method, HasBaselines) or not hasattr(data, "prepare"):  # a datamodule of the user's own
        return {}
    elements = next(iter(data.loader("test"))).x[0].numel()
    if elements > LARGEST_COVARIANCE:
        print(f"closed-form baselines are left out: examples of {elements} elements have more than {LARGEST_COVARIANCE}")
        return {}
    with isolated():
        train = torch.cat([batch.x.flatten(1).double() for batch in training_examples(data)])
    test = torch.cat([data.prepare(batch).x.flatten(1).double() for batch in data.loader("test")])
    return method.baselines(train, test)


def evaluate(checkpoint: Path, split: str = "test", target: Path | None = None) -> dict[str, Any]:
    """Prints the metrics of a checkpoint, with the closed-form baselines that fit its method and data.

    Args:
        checkpoint: of any method of dlkit.
        split: "test" or "val".
        target: where to write them as JSON.

    Returns:
        The metrics.
    """
    if target is not None and target.is_dir():
        raise ValueError(f"--json {target}: that is a folder, name a file in it")
    method, data = dlkit.load(checkpoint), data_of(checkpoint)
    torch.set_float32_matmul_precision("high")  # as where the run was tested
    trainer = L.Trainer(
        accelerator=accelerator(), devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[RandomState(), *measures_of(checkpoint)],
    )  # fmt: skip
    return measure(trainer, method, data, split, None, f"{type(method).__name__}, {checkpoint}", target)


def measure(
    trainer: L.Trainer,
    method: Any,
    data: Any,
    split: str,
    checkpoint: Path | None,
    title: str,
    target: Path | None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs validation or test; the first process adds the baselines, prints a table and writes it as JSON: see `evaluate`.

    Args:
        overrides: what the command line changed of the run's settings, for the file.
    """
    run = trainer.test if split == "test" else trainer.validate
    found = run(method, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    if not found:
        mend = (
            "set --data.val_size, or measure the test split" if split == "val" else "give --trainer.limit_test_batches above 0"
        )
        raise ValueError(f"{type(data).__name__} gives no examples of the {split} split: {mend}")
    metrics = dict(found[0])
    if not math.isfinite(metrics.get(f"{split}/loss", 0.0)):
        raise NonFiniteError(f"{split}/loss is {metrics[f'{split}/loss']}: look for values in the data that are not finite")
    if not trainer.is_global_zero:
        return metrics
    if split == "test":
        metrics.update(baselines(method, data))
        if isinstance(data, HasTrivialBaselines):
            metrics.update(data.trivial_baselines())
    print(f"{title}, {split} split of {type(data).__name__}")
    for name, value in metrics.items():
        print(f"  {name:32} {value:.6g}")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        record = {"split": split, "overrides": list(overrides), "metrics": metrics}
        write_whole(target, json.dumps(record, indent=2) + "\n")
    return metrics
