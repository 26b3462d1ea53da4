"""AdversarialDiagnostics: the four failures of adversarial training, each made visible."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dlkit.callbacks import drawing
from dlkit.callbacks.first_examples import FirstExamples, in_training
from dlkit.callbacks.random_state import isolated
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import Discriminates, Pulls, Samples, SamplesByLabel

EXAMPLES = 512
KEPT = 64  # samples that are remembered until the next validation
WINDOW = 5  # validations over which oscillation is measured
SEED = 5
# The rows of the figure and the metrics in them; of the qualities the first that is measured.
QUALITIES = ("kl", "judge_fid", "fid")
ROWS = {
    "losses": ("critic_loss", "generator_loss"),
    "quality": QUALITIES,
    "modes": ("modes",),
    "movement": ("movement", "oscillation"),
    "pull": ("pull",),
}


class AdversarialDiagnostics(FirstExamples):
    """Shows after each validation, on held-out examples and samples of the same latents each time:

    - oscillation: `val/movement`, the mean distance between the samples of the same latents in this validation and in the
      last one, and `val/oscillation`, the standard deviation of the samples' mean over the last 5, both divided by the spread
      of the data (the root of its total variance). A converged generator has 0 of both; one that circles has not;
    - vanishing gradients: `val/pull`, the mean norm of the gradient that the generator's loss has at a sample, and its
      histogram `critic/pull`;
    - mode collapse: `val/modes`, where it is measured;
    - hard to judge: the logits `critic/real` and `critic/fake` as histograms, and in the figure `diagnostics` both losses over
      the quality of the samples (`val/kl`, else `val/judge_fid`, else `val/fid`), which they need not follow.

    Samples come from the generator's moving average where there is one. Nothing it does disturbs the random state of training,
    and its memory is in checkpoints.

    Raises:
        ValueError: a method that does not sample, or has no critic.
    """

    most = EXAMPLES

    def __init__(self) -> None:
        super().__init__()
        self.samples: Tensor | None = None
        self.means: list[Tensor] = []
        self.history: dict[str, list[float]] = {name: [] for name in ("step", *chain(*ROWS.values()))}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        check_players(pl_module, type(self).__name__)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        examples = self.take()
        if examples is None:
            return
        x = examples.x[:EXAMPLES]
        labels = examples.y[:EXAMPLES] if examples.y is not None and is_conditional(pl_module) else None
        with isolated(SEED):
            found = self.measure(trainer, pl_module, x, labels)
        for name, value in found.items():
            pl_module.log(f"val/{name}", value, sync_dist=trainer.world_size > 1)

    def measure(self, trainer: L.Trainer, method: Any, x: Tensor, labels: Tensor | None) -> dict[str, float]:
        """The scalars by name; the histograms go to TensorBoard."""
        generated = method.sample(len(x)) if labels is None else method.sample(len(x), labels)
        pulls = method.pull(generated, x, labels).flatten(1).float().norm(dim=1)
        histograms = {
            "critic/real": method.discriminate(x, labels),
            "critic/fake": method.discriminate(generated, labels),
            "critic/pull": pulls,
        }
        board = writer(trainer)
        if board is not None:
            for tag, values in histograms.items():
                board.add_histogram(tag, values.float(), steps_done(trainer))
        found = {"pull": float(pulls.mean())}
        x, generated = x.flatten(1).float().cpu(), generated.flatten(1).float().cpu()
        spread = float(x.var(0, correction=0).sum().sqrt())
        self.means = [*self.means, generated.mean(0)][-WINDOW:]
        if self.samples is not None and len(self.means) > 1 and spread > 0:
            moved = generated[:KEPT] - self.samples
            found["movement"] = float(moved.norm(dim=1).mean()) / spread
            found["oscillation"] = float(torch.stack(self.means).var(0, correction=0).sum().sqrt()) / spread
        self.samples = generated[:KEPT]
        return found

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not in_training(trainer) or self.samples is None:
            return
        for name, past in self.history.items():
            past.append(steps_done(trainer) if name == "step" else float(trainer.callback_metrics.get(f"val/{name}", math.nan)))
        board = writer(trainer)
        if board is not None:
            board.add_figure("diagnostics", self.figure(), steps_done(trainer))

    def figure(self) -> Any:
        """The curves of every row over the validations so far."""
        measured = {name: past for name, past in self.history.items() if not all(map(math.isnan, past))}
        rows = {row: {name: measured[name] for name in names if name in measured} for row, names in ROWS.items()}
        rows["quality"] = dict(list(rows["quality"].items())[:1])
        title = "what the losses say, and how good the samples are"
        return drawing.panels(self.history["step"], {row: curves for row, curves in rows.items() if curves}, title)

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "means": self.means, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples, self.means, self.history = state_dict["samples"], state_dict["means"], state_dict["history"]


def check_players(method: L.LightningModule, callback: str) -> None:
    """Refuses a method without a generator and a critic.

    Raises:
        ValueError: naming the method and the callback.
    """
    if not all(isinstance(method, ability) for ability in (Samples, Discriminates, Pulls)):
        raise ValueError(f"{type(method).__name__} has no generator and critic: leave dlkit.callbacks.{callback} out")


def is_conditional(method: Any) -> bool:
    """Whether samples are drawn, and judged, by label."""
    return isinstance(method, SamplesByLabel) and method.num_classes is not None
