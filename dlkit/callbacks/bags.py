"""BagAttention: which instances of a bag a method looks at, in bags of pictures and over the patches of a large image."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dlkit.batches import Sets
from dlkit.callbacks.bag_drawing import Bag, attended_bags, heat_map
from dlkit.callbacks.drawing import is_image
from dlkit.callbacks.first_examples import FirstBatches
from dlkit.callbacks.summary import steps_done, writer
from dlkit.protocols import WeighsInstances

BAGS = 8
MOST_INSTANCES = 14  # of a bag, side by side
PATCHES = 12  # of the large image, in each direction
WITNESSES = 6  # among them
SEED = 8


class BagAttention(FirstBatches):
    """Draws after each validation what a method of bags of pictures pays attention to.

    `bags` shows the first validation bags with the weight of each instance, and which are witnesses where the data knows it.
    There `heat_map` too shows a large image, put together once and for all of 144 instances of validation bags, six of them
    witnesses, as one bag of patches, each times its rescaled weight (Ilse et al. 2018, arXiv:1802.04712, Figure 5). Nothing it
    does disturbs the random state of training.

    Raises:
        ValueError: a method without attention over bags, data that are no pictures.
    """

    most = 100
    kind = Sets

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, WeighsInstances):
            raise ValueError(f"{type(pl_module).__name__} weighs no instances of bags: leave dlkit.callbacks.BagAttention out")
        shape = tuple(pl_module.data_shape)
        if not is_image(shape):
            raise ValueError(f"BagAttention shows pictures, and instances have the shape {shape}: leave it out")
        # Refuses now what it would refuse after the first epoch: a pooling without weights.
        # Where its parameters are: on an accelerator `device` says already where they will be.
        empty = torch.zeros(0, *shape, device=next(pl_module.parameters()).device)
        pl_module.attention(empty, torch.zeros(1, dtype=torch.int64, device=empty.device))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board, batches, method = writer(trainer), self.take_batches(), pl_module
        if board is None or not batches or not isinstance(method, WeighsInstances):
            return
        bags = [bag for batch in batches for bag in attended(method, batch)][:BAGS]
        board.add_figure("bags", attended_bags(bags, MOST_INSTANCES), steps_done(trainer))
        made = mosaic(batches)
        if made is not None:
            image, batch = made
            board.add_figure("heat_map", heat_map(image, attended(method, batch)[0]), steps_done(trainer))


def attended(method: WeighsInstances, batch: Sets) -> list[Bag]:
    """The bags of a batch, on the CPU."""
    weights, rescaled = method.attention(batch.x, batch.ptr), method.rescaled_attention(batch.x, batch.ptr)
    sizes = batch.ptr.diff().tolist()
    columns: list[Any] = [part.float().cpu().split(sizes) for part in (batch.x, weights, rescaled)]
    columns.append([None] * len(sizes) if batch.member_y is None else (batch.member_y == 1).cpu().split(sizes))
    probabilities = method.classify(batch.x, batch.ptr)[:, 1].tolist()
    return [Bag(*parts) for parts in zip(*columns, (batch.y == 1).tolist(), probabilities, strict=True)]


def mosaic(batches: list[Sets]) -> tuple[Tensor, Sets] | None:
    """A large image, (channels, height, width), and the one bag of its patches; None where no witnesses are known."""
    known = [batch.member_y for batch in batches if batch.member_y is not None]
    if len(known) < len(batches):
        return None
    x, witness = torch.cat([batch.x for batch in batches]), torch.cat(known) == 1
    if witness.all() or not witness.any():
        return None
    generator = torch.Generator().manual_seed(SEED)
    total = PATCHES**2

    def some(where: Tensor, number: int) -> Tensor:
        found = where.nonzero().flatten()
        return found[torch.randint(len(found), (number,), generator=generator).to(found.device)]

    places = torch.randperm(total, generator=generator).to(x.device)
    chosen = torch.cat([some(witness, WITNESSES), some(~witness, total - WITNESSES)])[places]
    height, width = x.shape[2:]
    image = x[chosen].unflatten(0, (PATCHES, PATCHES)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    patches = image.unfold(1, height, height).unfold(2, width, width).flatten(1, 2).transpose(0, 1)
    ptr = torch.tensor([0, total], device=x.device)
    return image, Sets(patches, ptr, torch.ones(1, dtype=torch.int64, device=x.device), witness[chosen].long())
