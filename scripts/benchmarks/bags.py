"""Attention over bags: many bags in one batch against one bag after the other.

A turn is a pass of training over the same bags. Ours takes them in one batch. "bag by bag" is the same network, given one bag
at a time and stepped when the gradients of all are summed, which are the same gradients. "as the authors" is the loop of Ilse
et al. 2018 (arXiv:1802.04712), written anew: a network of the same layers in the order of their code, one bag and one step of
the default Adam at a time, and a second forward pass for the error, through PyTorch's DataLoader. Where ours is in bf16-mixed,
which the Trainer's `precision` asks for, theirs stays in float32, as their code is; in bfloat16 it takes 5 to 20 % less.

    vectors    64 bags of 5 instances with 166 features, as in MUSK1
    pictures   32 bags of 10 pictures of 28x28, as in MNIST-bags; nearly all of the time is the convolutions', of every picture
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import dlkit
from dlkit.batches import Sets
from dlkit.processes import keep_freed_memory

from .timing import Row, cpu, milliseconds, ratio, row
from .turns import alone, take_turns

STEPS = 5  # passes of a turn
TARGET = "at least 10x"
LEARNING_RATE, WEIGHT_DECAY = 5e-4, 1e-4


def rows(repeats: int, steps: int | None) -> Iterator[Row]:
    """All rows."""
    passes = steps or STEPS
    yield compare("vectors", bags(64, 5, (166,)), (64, 64), repeats, passes)
    pictures = bags(32, 10, (1, 28, 28))
    yield compare("pictures", pictures, (500, 128), repeats, passes)
    turns = {"ours": lambda: batched(method(pictures, 500, 128), pictures), "theirs": lambda: as_the_authors(pictures)}
    yield measured("pictures, 32 bags: one batch, as the authors", turns, pictures, repeats, passes)
    name, flag = "pictures, 32 bags: one batch in bf16-mixed, as the authors", "avx512_bf16"
    if flag in cpu()["flags"]:
        turns["ours"] = lambda: batched(method(pictures, 500, 128), pictures, bfloat16=True)
        yield measured(name, turns, pictures, repeats, passes)
    else:
        yield Row(name, None, None, "", "-", TARGET, f"this CPU has no {flag} and would emulate it")


def bags(number: int, instances: int, shape: tuple[int, ...]) -> Sets:
    """So many bags."""
    ptr = torch.arange(number + 1) * instances
    return Sets(torch.rand(number * instances, *shape), ptr, torch.arange(number) % 2)


def method(batch: Sets, embedding_dim: int, attention_dim: int) -> dlkit.AttentionMIL:
    """dlkit's, in a process like the command line's."""
    keep_freed_memory()
    return dlkit.AttentionMIL(
        tuple(batch.x.shape[1:]), "attention", embedding_dim, attention_dim, 0.0, LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )


def compare(what: str, batch: Sets, sizes: tuple[int, int], repeats: int, passes: int) -> Row:
    """One batch against bag by bag."""
    alone(lambda: check_equal(method(batch, *sizes), method(batch, *sizes), batch))
    turns = {"ours": lambda: batched(method(batch, *sizes), batch), "theirs": lambda: bag_by_bag(method(batch, *sizes), batch)}
    return measured(f"{what}, {len(batch.y)} bags: one batch, bag by bag", turns, batch, repeats, passes)


def check_equal(first: dlkit.AttentionMIL, second: dlkit.AttentionMIL, batch: Sets) -> None:
    """Both ways give the same gradients."""
    second.load_state_dict(first.state_dict())
    first.loss(batch)[0].backward()
    for bag in one_by_one(batch):
        (second.loss(bag)[0] / len(batch.y)).backward()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def measured(
    name: str,
    ways: dict[str, Callable[[], Callable[[], None]]],
    batch: Sets,
    repeats: int,
    passes: int,
) -> Row:
    """The row of two ways to pass over the same bags, in milliseconds a bag."""

    def turn(way: Callable[[], None]) -> Callable[[], float]:
        return lambda: milliseconds(way, passes) / len(batch.y)

    times = take_turns(repeats, {who: lambda make=make: turn(make()) for who, make in ways.items()})
    speeds = [1e3 / statistics.median(times[who]) for who in ("ours", "theirs")]
    note = "{:,.0f} and {:,.0f} bags/s".format(*speeds)
    return row(name, times, "ms", f"{ratio(times['theirs'], times['ours']):.1f}x", TARGET, note)


def one_by_one(batch: Sets) -> list[Sets]:
    """Each bag as a batch."""
    return [
        Sets(batch.x[start:stop], torch.tensor([0, stop - start]), batch.y[bag : bag + 1])
        for bag, (start, stop) in enumerate(pairwise(batch.ptr.tolist()))
    ]


def batched(ours: dlkit.AttentionMIL, batch: Sets, bfloat16: bool = False) -> Callable[[], None]:
    """All bags at once; with `bfloat16` as precision="bf16-mixed" does it."""
    optimizer = ours.configure_optimizers()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = ours.loss(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bag_by_bag(ours: dlkit.AttentionMIL, batch: Sets) -> Callable[[], None]:
    """One at a time, and then a step."""
    optimizer, alone = ours.configure_optimizers(), one_by_one(batch)

    def step() -> None:
        optimizer.zero_grad()
        for bag in alone:
            (ours.loss(bag)[0] / len(alone)).backward()
        optimizer.step()

    return step


class Authors(nn.Module):
    """The layers of the authors' network for MNIST-bags: one bag of pictures -> its probability, (1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.linear = nn.Sequential(nn.Flatten(), nn.Linear(800, 500), nn.ReLU())
        self.scores = nn.Sequential(nn.Linear(500, 128), nn.Tanh(), nn.Linear(128, 1))
        self.classifier = nn.Sequential(nn.Linear(500, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(self.convolutions(x))
        return self.classifier(F.softmax(self.scores(h).T, 1) @ h)


def as_the_authors(batch: Sets) -> Callable[[], None]:
    """Their loop."""
    network = Authors()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    data: list[tuple[Tensor, Tensor]] = [(bag.x, bag.y.float()) for bag in one_by_one(batch)]
    loader = DataLoader(data, batch_size=1, shuffle=True)  # pyright: ignore[reportArgumentType]

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            p = network(x.squeeze(0)).clamp(1e-5, 1 - 1e-5)
            loss = -(y * p.log() + (1 - y) * (1 - p).log())
            loss.item()
            ((network(x.squeeze(0)) >= 0.5).float() != y).float().item()
            loss.backward()
            optimizer.step()

    return epoch
