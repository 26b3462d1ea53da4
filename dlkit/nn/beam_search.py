"""Beam search: the likeliest sequences of a model that gives the next token, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlkit.text import BOS, EOS, PAD

# (state, tokens (n,)) -> the state after them, logits of the next token (n, vocab_size)
Step = Callable[[Any, Tensor], tuple[Any, Tensor]]


class Hypotheses(NamedTuple):
    """What a search has found, the best first.

    Attributes:
        tokens: (batch, beam_size, time), int64, without the beginning, with the end, padded with 0.
        log_probabilities: (batch, beam_size), of the whole sequences, their ends included.
        scores: (batch, beam_size), by which they are in order: the log-probabilities over the length penalty.
    """

    tokens: Tensor
    log_probabilities: Tensor
    scores: Tensor


def length_penalty(lengths: Tensor, alpha: float) -> Tensor:
    """((5 + length) / 6)^alpha of Wu et al. 2016 (arXiv:1609.08144, equation 14): 1 for alpha = 0."""
    return ((5 + lengths) / 6) ** alpha


@torch.no_grad()
def beam_search(
    step: Step, state: Any, limits: Tensor, beam_size: int = 5, alpha: float = 1.0, min_length: int = 0
) -> Hypotheses:
    """Keeps the `beam_size` best beginnings of each sequence, and goes on with each by every token.

    A sequence that has ended keeps its score, and is held against those that go on by log-probability over length penalty.
    Padding and the beginning are never chosen; at its limit a sequence can only end. A beam of one is greedy decoding.

    Args:
        step: the model.
        state: before the first token, for each sequence of the batch; has `select(rows)`.
        limits: (batch,), int64, how many tokens each sequence may have, its end not counted.
        beam_size: K.
        alpha: strength of the length penalty.
        min_length: tokens that a sequence has at least, its end not counted.

    Raises:
        ValueError: a beam of none, or limits below the minimum.
    """
    if beam_size < 1:
        raise ValueError(f"beam_size={beam_size}: give 1 or more")
    if min_length < 0 or int(limits.min()) < min_length:
        raise ValueError(f"min_length={min_length} and a limit of {int(limits.min())} tokens: give a minimum within the limit")
    batch, device = len(limits), limits.device
    state = state.select(torch.arange(batch, device=device).repeat_interleave(beam_size))
    first_row = beam_size * torch.arange(batch, device=device).unsqueeze(1)
    chosen = torch.full((batch, beam_size), BOS, device=device)
    tokens = torch.zeros(batch, beam_size, 0, dtype=torch.int64, device=device)
    # All beams begin alike: only the first may be gone on with.
    total = torch.full((batch, beam_size), -torch.inf, device=device)
    total[:, 0] = 0
    scores = total
    ended = torch.zeros(batch, beam_size, dtype=torch.bool, device=device)
    lengths = torch.zeros(batch, beam_size, dtype=torch.int64, device=device)
    for position in range(int(limits.max()) + 1):
        state, logits = step(state, chosen.flatten())
        continued = logits.float().log_softmax(1).view(batch, beam_size, -1)
        continued[:, :, [PAD, BOS]] = -torch.inf
        if position < min_length:
            continued[:, :, EOS] = -torch.inf
        at_limit = (position >= limits).view(-1, 1, 1) & (torch.arange(logits.shape[1], device=device) != EOS)
        continued = continued.masked_fill(at_limit, -torch.inf)
        # What has ended goes on by padding alone, for nothing.
        continued = continued.masked_fill(ended.unsqueeze(2), -torch.inf)
        continued[:, :, PAD] = torch.where(ended, 0.0, continued[:, :, PAD])
        sums = total.unsqueeze(2) + continued
        lengths = lengths + ~ended
        ranked = (sums / length_penalty(lengths, alpha).unsqueeze(2)).flatten(1).topk(beam_size)
        parents, chosen = ranked.indices // logits.shape[1], ranked.indices % logits.shape[1]
        scores, total = ranked.values, sums.flatten(1).gather(1, ranked.indices)
        lengths, ended = lengths.gather(1, parents), ended.gather(1, parents) | (chosen == EOS)
        tokens = torch.cat([tokens.gather(1, parents.unsqueeze(2).expand_as(tokens)), chosen.unsqueeze(2)], 2)
        if bool(ended.all()):
            break
        state = state.select((first_row + parents).flatten())
    return Hypotheses(tokens, total, scores)
