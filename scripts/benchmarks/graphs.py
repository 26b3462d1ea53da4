"""The section `graphs`: message passing against torch_geometric's layers.

The rival has the shape of torch_geometric's examples/qm9_nn_conv.py: a linear layer, three rounds of NNConv (64 channels, an
edge network with a hidden layer of 128) and GRU, Set2Set with three steps, two linear layers. Its messages are added up as they
are, without the mean and the ReLU of the example, so that with the same weights both give the same outputs, which is asserted.
A step is the loss, its gradient and the step of Adam, of batches of 64 out of 2,000 generated molecules of QM9's size, 18 atoms
in the mean, which are made before the clock starts:

    complete graphs   an edge between every two atoms, 5 features: the kind of bond, of 4, and the distance
    bonds             edges between bonded atoms alone, about 2 an atom, with the same features
    kinds of bonds    the same without distances, so that features are those of 4 kinds

Peak memory is what a process that does one step has at its greatest, less what it had before. Then how a step grows with the
edges of one ring whose nodes have edges to the 16 nearest, up to a million: the slope of log time over log edges by least
squares. Last, bags of instances: see bags.py.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dlkit
from dlkit.adam import Adam
from dlkit.batches import Graphs
from dlkit.processes import keep_freed_memory

from . import bags
from .timing import Row, milliseconds, ratio, row
from .turns import alone, take_turns

MOLECULES, BATCH = 2000, 64
NODE_FEATURES, BONDS = 11, 4
HIDDEN, EDGE_HIDDEN, ROUNDS, READOUT_STEPS = 64, 128, 3, 3
STEPS = 1  # of a turn
EDGES = (10_000, 100_000, 1_000_000)
DEGREE = 16
STATUS = Path("/proc/self/status")
KINDS = {"complete graphs": ("at least 6x", "at most a quarter"), "bonds": ("at least 1.7x", ""), "kinds of bonds": ("", "")}


def rows(repeats: int, steps: int | None) -> Iterator[Row]:
    """All rows of the section."""
    for kind, (step_target, memory_target) in KINDS.items():
        yield against_nn_conv(kind, step_target, repeats, steps or STEPS)
        if memory_target:
            yield memory(kind, memory_target)
    yield growth(repeats)
    yield from bags.rows(repeats, steps)


# Molecules -----------------------------------------------------------------------------------------------------------


def molecules(kind: str, number: int = MOLECULES, seed: int = 0) -> list[Graphs]:
    """Batches of generated molecules: each a random tree of atoms closed to a ring, and each atom near the one it hangs on."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(0, number, BATCH):
        atoms, ends, attr, sizes, first = [], [], [], [], 0
        for _ in range(BATCH):
            size = int(np.clip(generator.normal(18, 3), 4, 29))
            parents = [int(generator.integers(max(0, atom - 3), atom)) for atom in range(1, size)]
            bonds = {(atom + 1, parent): int(generator.integers(BONDS)) for atom, parent in enumerate(parents)}
            bonds[size - 1, 0] = 0
            places = generator.normal(size=(size, 3))
            for atom, parent in enumerate(parents):
                places[atom + 1] = places[parent] + generator.normal(size=3)
            features = np.zeros((size, size, BONDS + 1), dtype=np.float32)
            for (one, other), bond in bonds.items():
                features[one, other, bond] = features[other, one, bond] = 1
            features[..., BONDS] = np.linalg.norm(places[:, None] - places[None], axis=2)
            joined = ~np.eye(size, dtype=bool) if kind == "complete graphs" else features[..., :BONDS].any(2)
            target, source = np.nonzero(joined)
            atoms.append(generator.normal(size=(size, NODE_FEATURES)).astype(np.float32))
            ends.append(np.stack([source, target]) + first)
            attr.append(features[target, source])
            sizes.append(size)
            first += size
        edge_attr = np.concatenate(attr)[:, : BONDS if kind == "kinds of bonds" else BONDS + 1]
        x, edge_index = np.concatenate(atoms), np.concatenate(ends, 1)
        columns = (x, edge_index, edge_attr, np.cumsum([0, *sizes]), generator.normal(size=(BATCH, 1)).astype(np.float32))
        found.append(Graphs(*map(torch.from_numpy, columns)))
    return found


# The two networks ----------------------------------------------------------------------------------------------------


class NNConvNet(nn.Module):
    """torch_geometric's layers in the shape of its example."""

    def __init__(self, edge_features: int) -> None:
        super().__init__()
        from torch_geometric.nn import NNConv
        from torch_geometric.nn.aggr import Set2Set

        self.first = nn.Linear(NODE_FEATURES, HIDDEN)
        self.matrices = nn.Linear(EDGE_HIDDEN, HIDDEN**2)
        self.edges = nn.Sequential(nn.Linear(edge_features, EDGE_HIDDEN), nn.ReLU(), self.matrices)
        self.convolution = NNConv(HIDDEN, HIDDEN, self.edges, aggr="add", root_weight=False, bias=False)
        self.update = nn.GRU(HIDDEN, HIDDEN)
        self.readout = Set2Set(HIDDEN, processing_steps=READOUT_STEPS)
        self.head = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, batch: Graphs) -> Tensor:
        h = self.first(batch.x).relu()
        for _ in range(ROUNDS):
            received = self.convolution(h, batch.edge_index, batch.edge_attr)
            h = self.update(received.unsqueeze(0), h.unsqueeze(0))[0].squeeze(0)
        return self.head(self.readout(h, batch.index, dim_size=len(batch.y)))


def ours(edge_features: int) -> dlkit.MPNN:
    """dlkit's."""
    return dlkit.MPNN(
        NODE_FEATURES, edge_features, 1, None, rounds=ROUNDS, hidden_size=HIDDEN, edge_hidden_size=EDGE_HIDDEN,
        readout="set2set", readout_steps=READOUT_STEPS,
    )  # fmt: skip


@torch.no_grad()
def give_weights(theirs: NNConvNet, method: dlkit.MPNN) -> None:
    """Gives the rival our weights."""
    network: Any = method.rounds.networks[0]
    assert method.readout is not None
    theirs.first.load_state_dict(method.embed.state_dict())
    theirs.edges[0].load_state_dict(network.hidden.state_dict())
    theirs.head.load_state_dict(method.head.state_dict())
    theirs.matrices.weight.copy_(network.weight[1:].flatten(1).T)
    theirs.matrices.bias.copy_(network.weight[0].flatten())
    for recurrent, cell in ((theirs.update, method.rounds.updates[0]), (theirs.readout.lstm, method.readout.cell)):
        recurrent.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})


# Steps ---------------------------------------------------------------------------------------------------------------


def stepping(network: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Graphs], steps: int) -> Callable[[], float]:
    """A turn of training: milliseconds a step."""
    turn = cycle(batches)

    def step() -> None:
        batch = next(turn)
        loss = nn.functional.mse_loss(network(batch), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda: milliseconds(step, steps)


def difference_of_outputs(edge_features: int, batch: Graphs) -> float:
    """The largest between both networks with the same weights."""
    method, theirs = ours(edge_features), NNConvNet(edge_features)
    give_weights(theirs, method)
    with torch.no_grad():
        return float((method(batch) - theirs(batch)).abs().max())


def against_nn_conv(kind: str, target: str, repeats: int, steps: int) -> Row:
    """A step of both."""
    batches = molecules(kind)
    features = batches[0].edge_attr.shape[1]
    difference = alone(lambda: difference_of_outputs(features, batches[0]))
    assert difference < 1e-5, f"outputs differ by {difference}"

    def our_turn() -> Callable[[], float]:
        keep_freed_memory()  # as the command line does
        method = ours(features)
        return stepping(method, method.configure_optimizers(), batches, steps)

    def their_turn() -> Callable[[], float]:
        network = NNConvNet(features)
        return stepping(network, torch.optim.Adam(network.parameters(), 1e-3), batches, steps)

    times = take_turns(repeats, {"ours": our_turn, "theirs": their_turn})
    edges = sum(batch.edge_index.shape[1] for batch in batches) / (len(batches) * BATCH)
    note = f"{edges:.0f} edges a molecule; outputs differ by {difference:.0e} at the most"
    name, value = f"{kind}, step of {BATCH}: dlkit, NNConv", f"{ratio(times['theirs'], times['ours']):.1f}x"
    return row(name, times, "ms", value, target, note)


# Memory --------------------------------------------------------------------------------------------------------------


def memory(kind: str, target: str) -> Row:
    """Peak memory of both."""
    line = f"{kind}, memory of a step: dlkit, NNConv"
    if not STATUS.is_file():
        return Row(line, None, None, "", "-", target, f"there is no {STATUS} here to tell a process's peak")
    found = {}
    for name in ("ours", "theirs"):
        command = [sys.executable, "-m", "benchmarks.graphs", kind, name]
        done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)
    value = f"{found['ours'] / found['theirs']:.2f}x"
    return Row(line, found["ours"], found["theirs"], "MB", value, target)


def peak(kind: str, name: str) -> float:
    """Megabytes that a step takes, freed memory given back as the C library does; to be called in a process of its own."""
    batches = molecules(kind, BATCH)
    features = batches[0].edge_attr.shape[1]
    network = ours(features) if name == "ours" else NNConvNet(features)
    turn = stepping(network, Adam(network.parameters(), 1e-3), batches, 1)
    before = peak_so_far()
    turn()
    return peak_so_far() - before


def peak_so_far() -> float:
    """The greatest memory of this process, in megabytes. getrusage would count that of the process that started it."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


# Growth --------------------------------------------------------------------------------------------------------------


def growth(repeats: int) -> Row:
    """How a step grows with the edges: the exponent."""

    def turn(edges: int) -> Callable[[], float]:
        keep_freed_memory()
        nodes = edges // DEGREE
        target = torch.arange(nodes).repeat_interleave(DEGREE)
        steps = torch.cat([torch.arange(-DEGREE // 2, 0), torch.arange(1, DEGREE // 2 + 1)])
        ends = torch.stack([(target + steps.repeat(nodes)) % nodes, target])
        ptr = torch.tensor([0, nodes])
        batch = Graphs(torch.randn(nodes, NODE_FEATURES), ends, torch.randn(edges, 5), ptr, torch.zeros(1, 1))
        method = dlkit.MPNN(NODE_FEATURES, 5, 1, None, rounds=2, hidden_size=16, edge_hidden_size=16, readout="sum")
        return stepping(method, method.configure_optimizers(), [batch], 1)

    times = take_turns(repeats, {f"{edges:,}": lambda edges=edges: turn(edges) for edges in EDGES})
    medians = [statistics.median(turn) for turn in times.values()]
    exponent = float(np.polyfit([math.log(edges) for edges in EDGES], np.log(medians), 1)[0])
    note = ", ".join(f"{time:.0f}" for time in medians) + f" ms at {', '.join(times)} edges"
    name = f"step of one graph: {EDGES[0]:,} edges, {EDGES[-1]:,}"
    return Row(name, medians[0], medians[-1], "ms", f"n^{exponent:.2f}", "at most n^1.1", note)


if __name__ == "__main__":
    print(json.dumps(peak(*sys.argv[1:])))
