"""Beam search: the likeliest sequences of a model that gives the next token, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dlkit.text import BOS, EOS, PAD

# (state, tokens (n,)) -> the state after them, logits of the next token (n, vocab_size)
Step = Callable[[Any, Tensor], tuple[Any, Tensor]]


class Hypotheses(NamedTuple):
    """What a search has found, the best first.

    Attributes:
        tokens: (batch, beam_size, time), int64, without the beginning, with the end, padded with 0; where fewer than
            `beam_size` sequences have ended, the last ones have the score -inf and mean nothing.
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
    """Goes on with the `beam_size` best beginnings of each sequence by every token, and keeps as many that have ended.

    At each step the beginnings are ranked by log-probability. Those that end, if they are among the best `beam_size`, are kept
    apart, the best by log-probability over length penalty; the best `beam_size` of the others go on. A search is over when none
    of these, if it ended here for nothing, would be better than the worst that is kept. Padding and the beginning are never
    chosen; at its limit a sequence can only end. A beam of one is greedy decoding.

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
    kept = Hypotheses(tokens, torch.full_like(total, -torch.inf), torch.full_like(total, -torch.inf))
    for position in range(int(limits.max()) + 1):
        state, logits = step(state, chosen.flatten())
        size = logits.shape[1]
        continued = logits.float().log_softmax(1).view(batch, beam_size, size)
        continued[:, :, [PAD, BOS]] = -torch.inf
        if position < min_length:
            continued[:, :, EOS] = -torch.inf
        at_limit = (position >= limits).view(-1, 1, 1) & (torch.arange(size, device=device) != EOS)
        sums = (total.unsqueeze(2) + continued.masked_fill(at_limit, -torch.inf)).flatten(1)
        # Each beginning has one end, so that twice as many candidates hold enough that go on.
        best = sums.topk(min(2 * beam_size, sums.shape[1]))
        parents, following = best.indices // size, best.indices % size
        written = torch.cat([rows_of(tokens, parents), following.unsqueeze(2)], 2)
        ends = following == EOS

        penalty = length_penalty(torch.tensor(position + 1.0), alpha).item()
        ended = best.values.masked_fill(~ends, -torch.inf)[:, :beam_size]
        pool = torch.cat([kept.scores, ended / penalty], 1).topk(beam_size)
        kept = Hypotheses(
            rows_of(torch.cat([pad(kept.tokens, (0, 1)), written[:, :beam_size]], 1), pool.indices),
            torch.cat([kept.log_probabilities, ended], 1).gather(1, pool.indices),
            pool.values,
        )

        live = best.values.masked_fill(ends, -torch.inf).topk(beam_size)
        over = (live.values[:, :1] / penalty) <= kept.scores[:, -1:]
        total = live.values.masked_fill(over, -torch.inf)
        if not bool(total.isfinite().any()):
            break
        tokens, chosen = rows_of(written, live.indices), following.gather(1, live.indices)
        state = state.select((first_row + parents.gather(1, live.indices)).flatten())
    return kept


def rows_of(tokens: Tensor, rows: Tensor) -> Tensor:
    """Some sequences of each search: (batch, n, time), (batch, k) -> (batch, k, time)."""
    return tokens.gather(1, rows.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
