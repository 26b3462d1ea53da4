"""AdversarialMethod: the mechanics of two players, so that a method's own file holds nothing but its two losses.

A batch is cut into `critic_steps` parts. The critic takes one step on each; then the generator takes one, on the last part:

    for x_1 .. x_k:   phi <- phi - optimizer(grad_phi critic_loss(x_i))
                      theta <- theta - optimizer(grad_theta generator_loss(x_k))

so with k critic steps on n examples each, the datamodule's batch holds k n.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from dlkit.ability import differentiable
from dlkit.adam import Adam
from dlkit.batches import Examples
from dlkit.errors import CollapseError
from dlkit.method import Method, Terms
from dlkit.protocols import Samples

# The Trainer's argument: the values that ask for nothing, and what to write instead of others.
AUTOMATIC_ONLY = {
    "gradient_clip_val": ((None, 0), "model.gradient_clip, which clips each player's gradient"),
    "accumulate_grad_batches": ((1,), "model.accumulation_steps, which cuts each step's examples"),
}


COLLAPSE_SAMPLES = 64
COLLAPSE_SHARE = 1e-3


class AdversarialMethod(Method):
    """The base of every method with a generator and a critic. A subclass builds `self.generator` and `self.critic`, calls
    `start_average()`, and gives `critic_loss(batch)` and `generator_loss(batch)`.

    `critic_loss` runs the generator without gradients. In the generator's step the critic's parameters are constants, and its
    gradient reaches its input alone. Lightning's `global_step` advances once a batch, so
    that `max_steps`, the logger and checkpoints count alternations. Lightning's hooks around `backward` are not called;
    `on_before_optimizer_step` is, for each player's step.

    Attributes:
        critic_steps: k, critic steps for each generator step.
        accumulation_steps: each step's gradient is the mean over so many pieces of its examples, one at a time.
        gradient_clip: the largest norm of a player's gradient, or None.
        learning_rate, critic_learning_rate: step sizes of Adam; the critic's is the generator's where it is None.
        betas, critic_betas: Adam's; the same rule.
        ema_decay: d of the generator's moving average, theta' <- d theta' + (1 - d) theta after each generator step, with
            d = min(ema_decay, (1 + t) / (10 + t)); buffers are copied. 0 keeps none. The average is `generator_average`, and
            `trained_generator` is what samples: the average where there is one.
    """

    critic_steps: int = 1
    accumulation_steps: int = 1
    gradient_clip: float | None = None
    learning_rate: float = 2e-4
    critic_learning_rate: float | None = None
    betas: tuple[float, float] = (0.5, 0.999)
    critic_betas: tuple[float, float] | None = None
    ema_decay: float = 0.0
    compiled_networks = ("generator", "critic")

    generator: nn.Module
    critic: nn.Module
    generator_average: nn.Module | None  # a value here would hide the module of that name

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator_average = None
        self.average_updates = 0
        self.real_spread = 0.0
        self.start_spread: float | None = None
        self.step_is_watched = True

    # What a method gives ---------------------------------------------------------------------------------------------

    def critic_loss(self, batch: Any) -> tuple[Tensor, Terms]:
        """What the critic minimises, and the scalars worth plotting. Pure, as `Method.loss` is."""
        raise NotImplementedError(f"{type(self).__name__} has to define critic_loss(batch) -> (loss, terms)")

    def generator_loss(self, batch: Any) -> tuple[Tensor, Terms]:
        """What the generator minimises, and the scalars worth plotting. Pure, as `Method.loss` is."""
        raise NotImplementedError(f"{type(self).__name__} has to define generator_loss(batch) -> (loss, terms)")

    def after_critic_step(self) -> None:
        """What follows each step of the critic, such as the clipping of its weights."""

    def loss(self, batch: Any) -> tuple[Tensor, Terms]:
        raise TypeError(
            f"{type(self).__name__} has two players and no single loss: call critic_loss(batch) or generator_loss(batch)"
        )

    def cut(self, batch: Any, parts: int) -> list[Any]:
        """The batch in equal parts; the few examples that are left over are dropped.

        Raises:
            ValueError: there are fewer examples than parts.
        """
        if parts == 1:
            return [batch]
        size = self.batch_size(batch) // parts
        if not size:
            raise ValueError(
                f"a batch of {self.batch_size(batch)} examples cannot be cut into {parts} parts (critic_steps times "
                f"accumulation_steps): raise --data.batch_size, which holds the examples of all the critic's steps"
            )
        return [Examples(*batch).map(lambda rows, i=i: rows[i * size : (i + 1) * size]) for i in range(parts)]

    # Mechanics -------------------------------------------------------------------------------------------------------

    def check_settings(self) -> None:
        """Refuses settings outside their range; a method calls it when it has set them.

        Raises:
            ValueError: naming the setting.
        """
        if self.critic_steps < 1 or self.critic_steps != int(self.critic_steps):
            raise ValueError(f"critic_steps={self.critic_steps}: the critic takes 1 or more steps for each of the generator's")
        if self.accumulation_steps < 1 or self.accumulation_steps != int(self.accumulation_steps):
            raise ValueError(f"accumulation_steps={self.accumulation_steps}: give 1 or more")
        for name, betas in (("betas", self.betas), ("critic_betas", self.critic_betas)):
            if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
                raise ValueError(f"{name}={tuple(betas)}: Adam takes two numbers in [0, 1)")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip={self.gradient_clip}: give a positive norm, or leave it out")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} of the generator's moving average is outside [0, 1)")

    def start_average(self) -> None:
        """Starts the generator's moving average at the generator as it is now."""
        self.generator_average = copy.deepcopy(self.generator).requires_grad_(False) if self.ema_decay else None

    @property
    def trained_generator(self) -> nn.Module:
        """The generator to sample from: the moving average where there is one."""
        return self.generator if self.generator_average is None else self.generator_average

    @torch.no_grad()
    def update_average(self) -> None:
        """One step of the moving average, if there is one."""
        if self.generator_average is None:
            return
        decay = min(self.ema_decay, (1 + self.average_updates) / (10 + self.average_updates))
        average: list[Tensor] = list(self.generator_average.parameters())
        raw: list[Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(average, raw, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for kept, new in zip(self.generator_average.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(new)
        self.average_updates += 1

    def configure_callbacks(self) -> list[Any]:
        # Lightning asks for callbacks before it looks at its own settings, and would refuse them without saying what to do.
        self.check_trainer()
        return []

    def check_trainer(self) -> None:
        """Refuses a Trainer that would train something else than it says.

        Raises:
            ValueError: naming the Trainer's argument and what to write instead.
        """
        trainer, name = self.trainer, type(self).__name__
        for argument, (harmless, instead) in AUTOMATIC_ONLY.items():
            if getattr(trainer, argument) not in harmless:
                raise ValueError(
                    f"trainer.{argument}={getattr(trainer, argument)} cannot act on the two optimizers of {name}: use {instead}"
                )
        if trainer.precision == "16-mixed":
            raise ValueError(f"trainer.precision=16-mixed cannot scale the two losses of {name}: use bf16-mixed or 32-true")
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ValueError(
                f"trainer.strategy=ddp expects a gradient for every parameter, and one player of {name} rests while the other "
                f"moves: use ddp_find_unused_parameters_true"
            )

    def configure_optimizers(self) -> Any:
        """Two fused Adams, the critic's and the generator's, each with the method's schedule, which steps once a batch."""
        optimizers = self.build_optimizers()
        return optimizers, [scheduler for optimizer in optimizers if (scheduler := self.build_scheduler(optimizer))]

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """The critic's optimizer and the generator's."""
        critic_rate = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        critic_betas = self.betas if self.critic_betas is None else self.critic_betas
        return [
            Adam(self.critic.parameters(), critic_rate, critic_betas),
            Adam(self.generator.parameters(), self.learning_rate, self.betas),
        ]

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        critic_optimizer, generator_optimizer = self.optimizers(use_pl_optimizer=False)  # pyright: ignore[reportGeneralTypeIssues]
        parts = self.cut(batch, self.critic_steps)
        terms: Terms = {}
        for part in parts:
            terms = self.step("critic", part, critic_optimizer)
            self.after_critic_step()
        with frozen(self.critic):
            terms |= self.step("generator", parts[-1], generator_optimizer)
        self.update_average()
        for scheduler in self.trainer.lr_scheduler_configs:
            scheduler.scheduler.step()  # pyright: ignore[reportCallIssue]
        # Lightning would count every optimizer's step; here one alternation is one step.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        self.record("train", terms, batch)
        return {"loss": terms["critic_loss"].detach()}

    def step(self, player: Literal["critic", "generator"], batch: Any, optimizer: torch.optim.Optimizer) -> Terms:
        """One step of one player on one part of the batch; its loss is `<player>_loss` among the terms, which are those of the
        last piece where the part is cut for accumulation."""
        loss_of = self.critic_loss if player == "critic" else self.generator_loss
        optimizer.zero_grad()
        pieces = self.cut(batch, self.accumulation_steps)
        terms: Terms = {}
        for piece in pieces:
            loss, terms = loss_of(piece)
            terms = {f"{player}_loss": loss, **terms}
            self.guard(loss, terms)
            share = loss if len(pieces) == 1 else loss / len(pieces)
            # Lightning's manual_backward adds its hooks, 0.15 ms; what processes and precisions need of it is this line.
            self.trainer.strategy.pre_backward(share)
            share.backward()
        if self.gradient_clip or self.writes_now:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            terms[f"{player}_gradient_norm"] = nn.utils.clip_grad_norm_(parameters, self.gradient_clip or math.inf)
        if self.step_is_watched:
            self.trainer.strategy.optimizer_step(optimizer, do_nothing)  # Lightning's own wrapper would count this step
        else:
            optimizer.step(do_nothing)
        return terms

    def evaluation_step(self, stage: str, batch: Any) -> None:
        """Records both players' losses on held-out examples, penalties included: what differs from `train/` is overfitted."""
        with differentiable():  # penalties are gradients
            batch = Examples(*batch).map(torch.clone)
            terms = self.held_out_terms(batch)
        self.record(stage, terms, batch)
        if not self.real_spread:
            self.real_spread = float(batch.x.float().std(0, correction=0).mean())

    def held_out_terms(self, batch: Any) -> Terms:
        """What is recorded of a held-out batch."""
        critic_loss, terms = self.critic_loss(batch)
        generator_loss, more = self.generator_loss(batch)
        return {"critic_loss": critic_loss, "generator_loss": generator_loss, **terms, **more}

    def sample_spread(self) -> float:
        """The mean standard deviation of some samples; infinite for a method that does not sample."""
        if not isinstance(self, Samples):
            return math.inf
        return float(self.sample(COLLAPSE_SAMPLES).float().std(0, correction=0).mean())

    def on_train_start(self) -> None:
        # Lightning asks everybody before each step, which costs half as much as the step of a small network's optimizer.
        trainer, hook = self.trainer, "on_before_optimizer_step"
        heard = [getattr(getattr(listener, hook), "__func__", None) for listener in (self, *trainer.callbacks)]  # pyright: ignore[reportAttributeAccessIssue]
        nobody = all(function in (getattr(L.LightningModule, hook), getattr(L.Callback, hook)) for function in heard)
        plain = type(trainer.strategy) is SingleDeviceStrategy and type(trainer.precision_plugin) is Precision
        self.step_is_watched = not (nobody and plain)

    def on_fit_start(self) -> None:
        if self.start_spread is None:
            # Training then draws the same numbers as a loop by hand.
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self.start_spread = self.sample_spread()

    def on_validation_epoch_end(self) -> None:
        """Stops a run whose samples have become all alike.

        Raises:
            CollapseError: their mean standard deviation is below a thousandth of the data's, and below half of what it was
                when training began (a generator of small weights starts with samples that are hardly apart).
        """
        if self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        assert self.start_spread is not None
        spread = self.sample_spread()
        collapsed = spread < min(COLLAPSE_SHARE * self.real_spread, self.start_spread / 2)
        # Decided by the first process for all, since each draws samples of its own.
        if self.trainer.strategy.broadcast(collapsed):
            raise CollapseError(
                f"all samples are alike at step {self.global_step} (their spread is {spread:.2g}, the data's "
                f"{self.real_spread:.2g}); what was saved before is kept: use another objective, a penalty, or lower "
                f"the learning rates"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["adversarial"] = {"average_updates": self.average_updates, "start_spread": self.start_spread}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average_updates = checkpoint["adversarial"]["average_updates"]
        self.start_spread = checkpoint["adversarial"]["start_spread"]


def do_nothing() -> Any:
    """The closure of a step whose gradients are there already."""


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Runs its body with the network's parameters as constants; gradients still pass through to the network's input."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
