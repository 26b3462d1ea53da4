"""Method: the mechanics that every method shares, so that a method's own file holds nothing but its mathematics.

A method gives `loss(batch) -> (loss, terms)`, a pure function of the batch (no logging, no optimizer, no Trainer), and
networks built by hooks. `Method` adds the steps, the recording, the optimizer, the watch for non-finite losses and the
checkpoint's identity.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from torch import Tensor

import dlkit
from dlkit.adam import Adam
from dlkit.batches import Examples
from dlkit.errors import NonFiniteError
from dlkit.finite import FiniteWatch
from dlkit.loading import OTHER_NETWORK, parameters, read_checkpoint

Terms = dict[str, Tensor]
Schedule = Literal["constant", "linear", "cosine"]


class Method(L.LightningModule):
    """The base of every method. A subclass gives `__init__` with plain data, networks, and `loss`.

    Attributes:
        learning_rate: step size of the default optimizer, Adam.
        schedule: "constant", or "linear" or "cosine" to zero over the whole run (Loshchilov and Hutter 2017,
            arXiv:1608.03983, without restarts).
        weight_decay: of the default optimizer, which adds so many times the parameters to their gradients.
        reads: the kind of batch, one of `dlkit.batches`, that `loss` takes, or None where it looks for itself.
        compiled_networks: the networks that gain from `--compile`, by attribute name.
        compiled_functions: its own methods that gain from it, by name: what they compute around the networks, too.
        taken_from_data: arguments with a default that the command line takes from the data nevertheless.
    """

    reads: type | None = None
    compiled_networks: tuple[str, ...] = ()
    compiled_functions: tuple[str, ...] = ()
    taken_from_data: tuple[str, ...] = ()
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    _evaluating = False  # within an ability

    def __init__(self) -> None:
        super().__init__()
        self._watch = FiniteWatch()

    # What a method gives ---------------------------------------------------------------------------------------------

    def loss(self, batch: Any) -> tuple[Tensor, Terms]:
        """The method's whole mathematics.

        Returns:
            The scalar to minimise, and the scalars worth plotting. Pure: the same batch, parameters and random state
            give the same result, with or without a Trainer; only a weight that warms up needs the Trainer's steps.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define loss(batch) -> (loss, terms)")

    def batch_size(self, batch: Any) -> int:
        """How many examples a batch holds: the weight of its mean in an epoch's mean."""
        return len(batch[0])

    # Mechanics -------------------------------------------------------------------------------------------------------

    def compile_parts(self, **options: Any) -> None:
        """Compiles in place what gains from it: `torch.compile(network)` would change the names in every checkpoint.

        Args:
            options: of `torch.compile`.
        """
        for name in self.compiled_networks:
            getattr(self, name).compile(**options)
        for name in self.compiled_functions:
            setattr(self, name, torch.compile(getattr(self, name), **options))

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes in this attribute which hook runs, forty times a step. Torch would look every time whether it is a
        # parameter or a module, which costs a small network a tenth of its step.
        if name == "_current_fx_name":
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Lightning's `dtype` and `device` know of a conversion of the method alone, not of a module that it is a part of.
        found = super()._apply(fn, recurse)
        parameter = next((parameter for parameter in self.parameters() if parameter.is_floating_point()), None)
        if parameter is not None:
            self._dtype, self._device = parameter.dtype, parameter.device
        return found

    def __getstate__(self) -> dict[str, Any]:
        # A copy is not compiled: what was compiled would go on with the original's parameters.
        return {name: value for name, value in super().__getstate__().items() if name not in self.compiled_functions}

    def _apply_batch_transfer_handler(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        # Behind all of Lightning's hooks, which a user's data and method may have.
        batch = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        return batch if self._trainer is not None and self.trainer.predicting else self.as_read(batch)

    def as_read(self, batch: Any) -> Any:
        """The batch; what PyTorch's loader makes of a `TensorDataset`, [x] or [x, y], as the `Examples` that it is.

        Raises:
            ValueError: a batch of dlkit of another kind than the method reads, a dictionary, or a tensor alone.
        """
        if self.reads is None or isinstance(batch, self.reads):
            return batch
        # A subclass with a loss of its own reads what it likes, unless it says so too. An [x, y] is its two parts all the same.
        own = next(vars(kind) for kind in type(self).__mro__ if {"reads", "loss"} & vars(kind).keys())
        says = own.get("reads") is not None
        if self.reads is Examples and type(batch) in (list, tuple) and len(batch) in ((1, 2) if says else (2,)):
            return Examples(*batch)
        # A named tuple of the user's own with the same parts is as good as ours; a tensor would be taken apart by its rows.
        if not says or not (isinstance(batch, Tensor | dict) or type(batch).__module__ == Examples.__module__):
            return batch
        raise ValueError(
            f"{type(self).__name__} learns from batches of {self.reads.__name__} and was given {type(batch).__name__}: choose "
            f"data that gives dlkit.batches.{self.reads.__name__}"
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, terms = self.loss(batch)
        self.guard(loss, terms)
        self.record("train", {"loss": loss, **terms}, batch)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluation_step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluation_step("test", batch)

    def evaluation_step(self, stage: str, batch: Any) -> None:
        """What validation and test do with a batch; override it to record more than the loss and its terms."""
        loss, terms = self.loss(batch)
        self.record(stage, {"loss": loss, **terms}, batch)

    def record(self, stage: str, terms: Terms, batch: Any, size: int | None = None) -> None:
        """Logs `stage/term`: in training as it is, on the steps the logger writes; otherwise the mean over examples, or over
        what `size` counts, where the terms are means of that.

        Lightning's `self.log` keeps a metric for each key, which costs every later step of training; there is nothing to be
        averaged there, so the terms go to the loggers as they are.
        """
        training = stage == "train"
        if training and not self.writes_now:
            return
        values = {f"{stage}/{name}": value.detach().clone() for name, value in terms.items()}
        if training:
            self.trainer.callback_metrics.update(values)
            self.trainer.logged_metrics.update(values)
            self.trainer._logger_connector.log_metrics(values)
            return
        # Lightning averages the examples of the processes as whole numbers; a multiple of their number loses nothing.
        count = (self.batch_size(batch) if size is None else size) * self.trainer.world_size
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)

    @property
    def writes_now(self) -> bool:
        """Whether the loggers are given the step that is being trained."""
        # Asked of Lightning itself, because its rule is counted in batches that stepped; tests hold us to these names.
        return self.trainer._logger_connector.should_update_logs and not self.trainer.fit_loop._should_accumulate()

    def guard(self, loss: Tensor, terms: Terms) -> None:
        """Stops before the step that would carry a non-finite loss into the parameters.

        On a CPU every loss is looked at. On an accelerator looking would make every step wait for the device, so
        the first bad step is remembered there and read back when the logger writes and before a checkpoint is saved.
        """
        if loss.is_cpu and math.isfinite(loss.item()):
            return
        self._watch.see(self.global_step, {"loss": loss, **terms})
        if loss.is_cpu or self.writes_now:
            self._watch.check(together=not loss.is_cpu)

    def configure_optimizers(self) -> Any:
        """Adam with the method's schedule."""
        optimizer = Adam(self.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        scheduler = self.build_scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR | None:
        """The method's schedule for one optimizer; None where the step size is constant.

        Raises:
            ValueError: an unknown schedule.
        """
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"unknown schedule {self.schedule!r}: use 'constant', 'linear' or 'cosine'")
        if self.schedule == "constant":
            return None

        def factor(step: int) -> float:
            # At step 0, when the scheduler is made, the length of the run is not known yet, nor needed.
            share = min(1.0, step / self.total_steps()) if step else 0.0
            return 1 - share if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def total_steps(self) -> int:
        """Optimizer steps of the whole run.

        Raises:
            ValueError: the Trainer was given no end, or one in epochs of unknown length.
        """
        trainer = self.trainer
        limits = [trainer.max_steps] if trainer.max_steps > 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(trainer.num_training_batches):
            limits.append(trainer.max_epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
        if not limits:
            raise ValueError(
                f"schedule={self.schedule!r} ends with the run: set trainer.max_steps, or trainer.max_epochs for data that has "
                f"a length"
            )
        return min(limits)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes whose checkpoint it is, after making sure that it is worth keeping."""
        self._watch.check(together=self.device.type != "cpu")
        for name, parameter in self.named_parameters():
            if not parameter.isfinite().all():
                raise NonFiniteError(
                    f"the parameter '{name}' is not finite at step {self.global_step}, so it was not saved; "
                    f"what was saved before is kept: lower the learning rate or clip gradients"
                )
        checkpoint["dlkit"] = {
            "version": dlkit.__version__,
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
        }

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, map_location: Any = "cpu", **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Builds the method that a checkpoint describes, in evaluation mode. The file cannot run code.

        Args:
            checkpoint_path: a `.ckpt` file that this class wrote.
            map_location: the device to load to.
            kwargs: hyperparameters to override.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, tries to run code, or belongs to another method or another network.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        unknown = set(kwargs) - set(parameters(cls))
        if unknown:
            raise ValueError(f"{cls.__name__} has no hyperparameter {sorted(unknown)[0]!r}: see its docstring for the names")
        saved = checkpoint["dlkit"]["method"]
        names = {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}
        if saved not in names and cls is not Method:
            raise ValueError(
                f"{checkpoint_path} is a checkpoint of {saved}, not of {cls.__name__}: load it with that class, or with "
                f"dlkit.load"
            )
        try:
            return super().load_from_checkpoint(checkpoint_path, map_location=map_location, weights_only=True, **kwargs).eval()
        except RuntimeError as error:
            if OTHER_NETWORK not in str(error):
                raise
            mend = f"leave out {' and '.join(sorted(kwargs))}" if kwargs else "go back to the code that wrote it"
            raise ValueError(f"{checkpoint_path} holds another network than {cls.__name__} builds: {mend}") from error
        except (AttributeError, KeyError, TypeError) as error:
            # A class of one's own, or a setting given here, may be what is wrong, and its error says where.
            if kwargs or dlkit.EXPORTS.get(cls.__name__) != cls.__module__:
                raise
            raise ValueError(
                f"{checkpoint_path} lacks something that {cls.__name__} is built from, or holds it in another form ({error}): "
                f"restore it, or go back to the code that wrote it"
            ) from error
