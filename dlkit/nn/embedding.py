"""Vectors for tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlkit.text import PAD, UNK


class TokenEmbedding(nn.Module):
    """A learned vector for each token, zero for padding; the others start with a length of about 1.

    Args:
        vocab_size: how many tokens there are, padding included.
        size: width of a vector.
        dropout: probability of taking a token for an unknown one, in training.

    Raises:
        ValueError: a size below one, a dropout outside [0, 1); in use, a token outside the vocabulary.
    """

    def __init__(self, vocab_size: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        if vocab_size is None or vocab_size < 1 or size < 1:
            raise ValueError(f"vocab_size={vocab_size} and a vector of width {size}: give 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"token_dropout={dropout} is outside [0, 1)")
        self.table = nn.Embedding(vocab_size, size, padding_idx=PAD)
        nn.init.normal_(self.table.weight, std=size**-0.5)
        self.table.weight.data[PAD] = 0
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """(*), int64 -> (*, size)."""
        # Looked at on the CPU only: on an accelerator the look would make every step wait.
        if tokens.is_cpu and tokens.numel():
            low, high = tokens.aminmax()
            if low < 0 or high >= self.table.num_embeddings:
                wrong = int(low if low < 0 else high)
                raise ValueError(f"token {wrong} is outside 0..{self.table.num_embeddings - 1}: set vocab_size to the data's")
        if self.training and self.dropout:
            dropped = (torch.rand(tokens.shape, device=tokens.device) < self.dropout) & (tokens != PAD)
            tokens = tokens.masked_fill(dropped, UNK)
        return self.table(tokens)
