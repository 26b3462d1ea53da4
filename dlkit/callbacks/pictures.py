"""Pictures: what a method's protocols allow to be seen, from the same inputs and latents all through a run."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dlkit.batches import Examples
from dlkit.callbacks import adversarial_drawing, drawing, flow_drawing
from dlkit.callbacks.first_examples import FirstExamples, in_training
from dlkit.callbacks.random_state import isolated
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import (
    Classifies,
    Decodes,
    Denoises,
    Encodes,
    FitsLatentDensity,
    Generates,
    HasCriticCurves,
    HasLatentUsage,
    Interpolates,
    MeasuresByLength,
    Reconstructs,
    Samples,
    SamplesByLabel,
    SamplesLattice,
)

COLUMNS = 12
STEPS = 11
NUM_TOKENS = 500
MOST_DIMENSIONS = 10
FEWEST_FOR_A_DENSITY = 100
CHAIN, REFERENCE_CHAINS, FIELDS = 10_000, 100, 6  # of a lattice: steps, chains, configurations shown
SEED = 1


class Pictures(FirstExamples):
    """Draws pictures into TensorBoard after validation, from the first validation examples and from fixed latents.

    By protocol: input over reconstruction; corrupted, denoised and clean; samples; interpolations; latent traversals; the
    latent space in two dimensions, and at the end in TensorBoard's projector; KL of each latent dimension; confusion
    matrix and reliability; critics of known densities; text that a model goes on with; accuracy against length;
    configurations, correlations and Markov chain of a lattice. Nothing it does disturbs the random state of training.

    Args:
        every_n_epochs: how often, counted in epochs; the last epoch of `max_epochs` or `max_steps` is always drawn.
        class_names: a name for each class, for legends.
    """

    most = 2000

    def __init__(self, every_n_epochs: int = 1, class_names: tuple[str, ...] = ()) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs}: draw every 1 or more epochs")
        super().__init__()
        self.every_n_epochs = every_n_epochs
        self.class_names = class_names

    def wanted(self, trainer: L.Trainer) -> bool:
        if not in_training(trainer) or writer(trainer) is None:
            return False
        return self.last_epoch(trainer) or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def last_epoch(self, trainer: L.Trainer) -> bool:
        return trainer.current_epoch + 1 == trainer.max_epochs or 0 < trainer.max_steps <= trainer.global_step

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board, examples = writer(trainer), self.take()
        # In every process, because it adds up what they have seen.
        lengths = pl_module.by_length() if in_training(trainer) and isinstance(pl_module, MeasuresByLength) else None
        if board is not None and self.wanted(trainer):
            if lengths is not None:
                found = {name: values.cpu().numpy() for name, values in lengths.items()}
                board.add_figure("accuracy_by_length", drawing.by_length(**found), steps_done(trainer))
            with isolated(SEED):
                self.write(board, steps_done(trainer), pl_module)
        if board is None or examples is None:
            return
        with isolated(SEED):
            step = steps_done(trainer)
            self.draw(board, step, pl_module, examples)
            if self.last_epoch(trainer) and isinstance(pl_module, Encodes):
                self.project(board, step, pl_module, examples)

    def names(self, labels: Tensor | None) -> list[str]:
        """A name for each class."""
        if labels is None:
            return []
        largest = int(labels.max())
        known = largest < len(self.class_names)  # a method that does not read labels takes data with any
        return list(self.class_names) if known else [str(number) for number in range(largest + 1)]

    @torch.no_grad()
    def draw(self, board: SummaryWriter, step: int, method: L.LightningModule, examples: Examples) -> None:
        """Draws what the method's protocols allow.

        Args:
            board: TensorBoard's writer.
            step: where on the time axis.
            method: in evaluation mode.
            examples: the first validation examples.
        """
        x, labels = examples
        if drawing.is_image(x.shape[1:]):
            few, few_labels = x[: 4 * COLUMNS], None if labels is None else labels[: 4 * COLUMNS]
            if isinstance(method, Denoises):
                corrupted = method.corrupt(few)
                rows = [few, corrupted, method.denoise(corrupted)]
                board.add_image("denoising/clean_corrupted_denoised", drawing.aligned(rows, COLUMNS), step)
            elif isinstance(method, Reconstructs):
                rows = [few, method.reconstruct(few, few_labels)]
                board.add_image("reconstruction/input_above_output", drawing.aligned(rows, COLUMNS), step)
            if isinstance(method, FitsLatentDensity):
                for kind in ("gaussian", "mixture") if len(x) > FEWEST_FOR_A_DENSITY else ():
                    # A shallow copy shares the networks and keeps the density, which is only for this picture, to itself.
                    fitted = copy.copy(method)
                    fitted.fit_latent_density([examples], kind)
                    if isinstance(fitted, Samples):
                        self.add_grid(board, f"samples/{kind}_fitted_to_latents", fitted.sample(6 * COLUMNS), step)
            elif isinstance(method, Samples):
                count = len(self.names(labels)) if labels is not None and len(self.names(labels)) <= COLUMNS else COLUMNS
                drawn = drawing.square(self.samples(method, 8 * count, count, x.device), count)
                board.add_image("samples/from_fixed_latents", drawing.grid(drawn), step)
            if isinstance(method, Interpolates) and len(x) > 2 * 6:
                between = method.interpolate(x[:6], x[6:12], STEPS, None if labels is None else labels[:6])
                board.add_image("interpolations/from_left_to_right", drawing.grid(between), step)
            if isinstance(method, Encodes) and isinstance(method, Decodes):
                walk = self.traversal(method, x, labels)
                board.add_image("traversals/one_dimension_a_row", drawing.grid(walk), step)
        if isinstance(method, Encodes):
            shown = None if labels is None else labels.cpu().numpy()
            codes = method.encode(x, labels).float().cpu().numpy()
            board.add_figure("latent_space", drawing.latent_scatter(codes, shown, self.names(labels)), step)
        if isinstance(method, HasLatentUsage):
            kl = method.kl_per_dimension(x, labels).float().mean(0).cpu().numpy()
            board.add_figure("kl_per_dimension", drawing.bars(kl, "KL of each latent dimension", "nats"), step)
        if isinstance(method, HasCriticCurves):
            lines, means = (
                {name: values.numpy() for name, values in curves.items()}
                for curves in (method.along_the_lines(), method.by_separation())
            )
            board.add_figure("optimal_critics", adversarial_drawing.critics(lines, means, len(means["separation"]) // 2), step)
        if isinstance(method, Classifies) and labels is not None:
            probabilities, truth = method.classify(x).float().cpu().numpy(), labels.cpu().numpy()
            names = self.names(torch.arange(probabilities.shape[1]))
            board.add_figure("confusion", drawing.confusion_matrix(probabilities, truth, names), step)
            board.add_figure("reliability", drawing.reliability(probabilities, truth), step)

    def write(self, board: SummaryWriter, step: int, method: L.LightningModule) -> None:
        """Shows what needs no examples: text that a model goes on with, configurations of a lattice."""
        if isinstance(method, Generates) and method.codec is not None:
            lines = method.generate(num_tokens=NUM_TOKENS).splitlines()
            board.add_text("generated", "\n".join(f"    {line}" for line in lines), step)
        if isinstance(method, SamplesLattice):
            self.lattice(board, step, method)

    def lattice(self, board: SummaryWriter, step: int, method: SamplesLattice) -> None:
        """A theory's configurations, correlations and Markov chain, beside Hamiltonian Monte Carlo's."""
        chain, accepted = method.chain(CHAIN)
        other, _ = method.reference(REFERENCE_CHAINS)
        fields, label, angles = method.shown(torch.cat([chain[-FIELDS:], other[:FIELDS, -1].to(chain)]))
        pictures = fields.float().cpu().numpy()
        board.add_figure(
            "configurations", flow_drawing.configurations(pictures[:FIELDS], pictures[FIELDS:], label, angles), step
        )
        values, name = method.followed(chain)
        series = flow_drawing.markov_chain(values.float().cpu().numpy(), accepted.float().cpu().numpy(), name)
        board.add_figure("metropolis", series, step)
        curves, name = {}, ""
        for kind, configurations in (("flow, after Metropolis", chain.unsqueeze(0)), ("Hamiltonian Monte Carlo", other)):
            *numbers, name = method.correlations(configurations)
            curves[kind] = tuple(part.cpu().numpy() for part in numbers)
        board.add_figure("correlations", flow_drawing.correlations(curves, name), step)

    def samples(self, method: Samples, number: int, columns: int, device: torch.device) -> Tensor:
        """So many samples; of a conditional method with as many classes as columns, a class in each column."""
        if isinstance(method, SamplesByLabel) and method.num_classes == columns:
            return method.sample(number, labels=torch.arange(number, device=device) % columns)
        return method.sample(number)

    def add_grid(self, board: SummaryWriter, tag: str, pictures: Tensor, step: int) -> None:
        """One table of pictures."""
        board.add_image(tag, drawing.grid(drawing.square(pictures, COLUMNS)), step)

    def traversal(self, method: Any, x: Tensor, labels: Tensor | None) -> Tensor:
        """Decodes the mean code with one dimension moved from -3 to 3 standard deviations: (dimensions, STEPS, *data_shape).

        The dimensions that vary most come first.
        """
        codes = method.encode(x, labels).float()
        mean, deviation = codes.mean(0), codes.std(0, correction=0)
        order = deviation.argsort(descending=True)[:MOST_DIMENSIONS]
        z = mean.repeat(len(order), STEPS, 1)
        for row, dimension in enumerate(order.tolist()):
            z[row, :, dimension] += deviation[dimension] * torch.linspace(-3, 3, STEPS, device=z.device)
        label = None if labels is None else labels[:1].repeat(len(order) * STEPS)
        return method.decode(z.flatten(0, 1), label).unflatten(0, (len(order), STEPS))

    @torch.no_grad()
    def project(self, board: SummaryWriter, step: int, method: Encodes, examples: Examples) -> None:
        """Puts the codes into TensorBoard's projector, with their labels and pictures."""
        x, labels = examples
        names = self.names(labels)
        board.add_embedding(
            method.encode(x, labels).float(),
            metadata=None if labels is None else [names[number] for number in labels.tolist()],
            label_img=x.expand(-1, 3, -1, -1).clamp(0, 1) if drawing.is_image(x.shape[1:]) else None,
            global_step=step,
            tag="codes",
        )
