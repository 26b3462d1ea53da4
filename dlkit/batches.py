"""What a batch is, for each kind of data: the contract between datamodules and methods.

A batch is a named tuple of tensors. Datamodules produce it, `Method.loss` consumes it, and nothing else of
dlkit is known to a datamodule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """Independent sequences of different lengths, padded to the longest of them, with a class label each.

    Attributes:
        x: (batch, time), int64 tokens, 0 at the padding; or (batch, time, features), float32.
        lengths: (batch,), int64, how many steps of each are real, from the first.
        y: (batch,), int64 class indices.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor


class TaggedWords(NamedTuple):
    """Sentences of different lengths, padded to the longest of them, with a tag for each word.

    Attributes:
        x: (batch, time), int64, the words' tokens, 0 at the padding.
        lengths: (batch,), int64, how many words each sentence has.
        y: (batch, time), int64 tags, -1 at the padding.
        forms: (batch, time), int64, which row of `letters` spells each word; any at the padding.
        letters: (distinct words, letters), int64, padded with 0.
        letter_lengths: (distinct words,), int64.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor
    forms: Tensor
    letters: Tensor
    letter_lengths: Tensor


class TextWindows(NamedTuple):
    """The next window of several streams of text, read side by side.

    Attributes:
        x: (batch, time), int64 tokens.
        y: (batch, time), int64, the token that follows each.
        first: (), bool, whether the streams begin here; otherwise they go on from the batch before.
    """

    x: Tensor
    y: Tensor
    first: Tensor


class SentencePairs(NamedTuple):
    """Sentences and their translations, padded to the longest of each.

    Attributes:
        source: (batch, source words), int64 tokens, 0 at the padding.
        source_lengths: (batch,), int64, how many words each sentence has.
        target: (batch, target words), int64: the beginning, the translation's tokens and the end, then 0.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor


class Sets(NamedTuple):
    """Sets of different sizes, the members of all of them one behind the other.

    Attributes:
        x: (members, *shape), float32; or int64 tokens.
        ptr: (sets + 1,), int64; the members of set s are `ptr[s]` to `ptr[s + 1]`.
        y: (sets,), int64 class indices; or (sets, targets), float32, NaN where a target is missing.
        member_y: (members,), int64, what is known of each member, for evaluation; None where nothing is.
    """

    x: Tensor
    ptr: Tensor
    y: Tensor
    member_y: Tensor | None = None

    @property
    def index(self) -> Tensor:
        """(members,), int64, the set of each member."""
        return owners(self.ptr, len(self.x))


class Graphs(NamedTuple):
    """Graphs of different sizes, the nodes of all of them one behind the other: one graph in many pieces.

    Attributes:
        x: (nodes, node_features), float32.
        edge_index: (2, edges), int64: an edge leads from node `edge_index[0]` to `edge_index[1]`, counted through all graphs.
            Edges are sorted by the node that they lead to.
        edge_attr: (edges, edge_features), float32; no columns where edges have no features.
        ptr: (graphs + 1,), int64; the nodes of graph g are `ptr[g]` to `ptr[g + 1]`.
        y: int64 class indices, (graphs,), or (nodes,) where nodes are told apart; or float32 targets, (graphs, targets) or
            (nodes, targets), NaN where a target is missing.
        u: (graphs, graph_features), float32, features of whole graphs; None without.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    ptr: Tensor
    y: Tensor
    u: Tensor | None = None

    @property
    def index(self) -> Tensor:
        """(nodes,), int64, the graph of each node."""
        return owners(self.ptr, len(self.x))


def owners(ptr: Tensor, total: int) -> Tensor:
    """To which group each member belongs: bounds (groups + 1,) -> (total,), int64."""
    return torch.repeat_interleave(ptr.diff(), output_size=total)


def padded(values: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Groups side by side, filled up with zeros to the largest of them.

    Args:
        values: (total, *shape), the members of all groups one behind the other.
        ptr: (groups + 1,), int64, their bounds.

    Returns:
        (groups, width, *shape), and which members are real, (groups, width), bool.
    """
    sizes = ptr.diff()
    places = torch.arange(int(sizes.max()) if len(sizes) else 0, device=values.device)
    real = places < sizes.unsqueeze(1)
    side_by_side = values.new_zeros(*real.shape, *values.shape[1:])
    side_by_side[real] = values
    return side_by_side, real


def flat(values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse: (groups, width, *shape) and (groups, width), which may leave gaps -> (total, *shape), (groups + 1,).

    Raises:
        ValueError: a mask of another shape or type.
    """
    if real.dtype != torch.bool or real.shape != values.shape[:2]:
        raise ValueError(
            f"the mask is {tuple(real.shape)}, {real.dtype}, of members {tuple(values.shape)}: give "
            f"{tuple(values.shape[:2])}, bool, True at members"
        )
    return values[real], torch.nn.functional.pad(real.sum(1).cumsum(0), (1, 0))


def check_edge_index(edge_index: Tensor) -> None:
    """Refuses what holds no edges.

    Raises:
        ValueError: naming its shape and type.
    """
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(f"edge_index is {tuple(edge_index.shape)}, {edge_index.dtype}: give (2, edges), int64")


def check_bounds(ptr: Tensor, total: int, groups: str, members: str) -> None:
    """Refuses bounds that do not fit their members; on the CPU only, because on an accelerator the look would make a step wait.

    Args:
        ptr: (groups + 1,).
        total: how many members there are.
        groups, members: what they are called.

    Raises:
        ValueError: naming the bounds.
    """
    if not ptr.is_cpu:
        return
    right = ptr.dim() == 1 and len(ptr) > 0 and ptr.dtype == torch.int64
    if not right or int(ptr[0]) != 0 or int(ptr[-1]) != total or bool((ptr.diff() < 0).any()):
        values = ptr.flatten().tolist()
        shown = str(values) if len(values) < 8 else f"[{values[0]}, {values[1]}, ..., {values[-1]}]"
        raise ValueError(
            f"the bounds of the {groups} are {shown} and there are {total} {members}: give ptr from 0 to the number of "
            f"{members}, int64, rising, one more than there are {groups}"
        )


class Particles(NamedTuple):
    """Systems of as many particles each, at two times.

    Attributes:
        positions: (batch, particles, dimensions), float32.
        velocities: (batch, particles, dimensions).
        charges: (batch, particles).
        y: (batch, particles, dimensions), the positions later.
    """

    positions: Tensor
    velocities: Tensor
    charges: Tensor
    y: Tensor


class Draws(NamedTuple):
    """No data: so many examples are to be drawn by the method itself.

    Attributes:
        number: (batch,), int64, one for each example.
    """

    number: Tensor


class Examples(NamedTuple):
    """Independent examples of one fixed shape, with a class label each when the data has labels.

    Attributes:
        x: (batch, *data_shape), float32; pixels lie in [0, 1].
        y: (batch,), int64 class indices, or None for unlabelled data.
    """

    x: Tensor
    y: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        """The same examples with `function` applied to x, and to y where there is one."""
        return Examples(function(self.x), None if self.y is None else function(self.y))
