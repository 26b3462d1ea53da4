"""LanguageModel: the next token from all before it.

    h_t = network(w_t, h_{t-1}),   p(w_{t+1} | w_1 .. w_t) = softmax(E h_t + b),   L = -(1/T) sum_t log p(w_{t+1} | w_1 .. w_t)

A text is read in windows, and what the network knows at the end of one it knows at the beginning of the next; gradients do
not reach across (truncated back-propagation through time). E is the table of the tokens' own vectors (Press and Wolf 2017,
arXiv:1608.05859; Inan et al. 2017, arXiv:1611.01462), and dropout keeps its masks for a whole window (Gal and Ghahramani 2016,
arXiv:1512.05287).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.ability import ability
from dlkit.batches import TextWindows
from dlkit.method import Method, Schedule, Terms
from dlkit.nn.embedding import TokenEmbedding
from dlkit.nn.recurrent import Cell, RecurrentEncoder, RecurrentState, SequenceDropout
from dlkit.processes import of_all, world
from dlkit.text import SPECIAL, UNK, codec_of


class LanguageModel(Method):
    """A recurrent language model.

    Records the loss in nats a token, and in evaluation `perplexity` e^L and `bits_per_token` L / log 2, both of the whole
    part's mean; for a model of characters these are bits per character.

    Args:
        vocab_size: how many tokens there are, the four special ones included.
        vocabulary: the text's codec, as a string (`dlkit.text.Codec.to_json`), with which `generate` reads and writes text.
        embedding_dim: width of a token's vector.
        cell: "rnn", "gru" or "lstm".
        hidden_size: width of the state.
        num_layers: recurrent layers, one upon the other.
        dropout: probability of zeroing a feature of the vectors, between layers and of the outputs; one mask a window.
        tied: predicts with the table of vectors; from states of another width through one more linear map.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a setting outside its range, or tokens outside the vocabulary.
    """

    reads = TextWindows

    def __init__(
        self,
        vocab_size: int,
        vocabulary: str = "",
        embedding_dim: int = 128,
        cell: Cell = "lstm",
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
        tied: bool = True,
        learning_rate: float = 2e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.codec = codec_of(vocabulary, vocab_size)
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.embedding = TokenEmbedding(vocab_size, embedding_dim)
        self.encoder = RecurrentEncoder(embedding_dim, hidden_size, cell, num_layers, dropout=dropout)
        self.dropout = SequenceDropout(dropout)
        width = embedding_dim if tied else hidden_size
        self.bridge = nn.Linear(hidden_size, width) if width != hidden_size else nn.Identity()
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.bias)
        if tied:
            self.head.weight = self.embedding.table.weight
        self.states: dict[str, RecurrentState] = {}

    def forward(self, x: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        """Logits of the next token at every step, and the state after the last.

        Args:
            x: (batch, time), int64.
            state: what is known of the text before; nothing if None.

        Returns:
            (batch, time, vocab_size), and the state.
        """
        outputs, after = self.encoder(self.dropout(self.embedding(x)), state=state)
        return self.head(self.bridge(self.dropout(outputs))), after

    def unroll(self, batch: TextWindows, state: RecurrentState | None) -> tuple[Tensor, RecurrentState]:
        """The loss of one window after the text before it, and the state at its end."""
        logits, after = self(batch.x, state)
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.y.flatten()), after

    def loss(self, batch: TextWindows) -> tuple[Tensor, Terms]:
        """The loss of a window as if nothing were known of the text before it; training and evaluation carry the state."""
        return self.unroll(batch, None)[0], {}

    def batch_size(self, batch: TextWindows) -> int:
        """How many tokens a batch holds, for the loss is a mean over tokens."""
        return batch.y.numel()

    def carry(self, stage: str, batch: TextWindows) -> Tensor:
        """The loss of a window, going on from the last one of the same pass."""
        before = self.states.get(stage)
        if before is not None:
            before = before.map(lambda part: part.to(batch.x.device))  # after a resume it is where the checkpoint was read
        if before is not None and before.hidden.shape[2] != len(batch.x):
            before = None  # other data than the last time
        elif before is not None:
            before = before.map(lambda part: part.masked_fill(batch.first, 0))
        loss, after = self.unroll(batch, before)
        self.states[stage] = after.detach()
        return loss

    def training_step(self, batch: TextWindows, batch_idx: int) -> Tensor:
        loss = self.carry("train", batch)
        self.guard(loss, {})
        self.record("train", {"loss": loss}, batch)
        return loss

    def evaluation_step(self, stage: str, batch: TextWindows) -> None:
        self.record(stage, {"loss": self.carry(stage, batch)}, batch)

    def on_validation_epoch_end(self) -> None:
        self.summarise("val")

    def on_test_epoch_end(self) -> None:
        self.summarise("test")

    def summarise(self, stage: str) -> None:
        """Records the perplexity and the bits of the whole part."""
        self.states.pop(stage, None)
        loss = self.trainer.callback_metrics.get(f"{stage}/loss")
        if loss is not None:
            self.log(f"{stage}/perplexity", loss.exp())
            self.log(f"{stage}/bits_per_token", loss / math.log(2))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        own = self.states.get("train")
        checkpoint["states"] = of_all(None if own is None else tuple(own.map(Tensor.cpu)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        states, (rank, number) = checkpoint.get("states", ()), world()
        # Of another number of processes each would read other rows of the text: they begin from nothing.
        if len(states) == number and states[rank] is not None:
            self.states["train"] = RecurrentState(*states[rank])

    @ability
    def generate(self, prompt: str = "", num_tokens: int = 200, temperature: float = 1.0, top_k: int = 0) -> str:
        """Goes on with a text, token by token.

        Args:
            prompt: what comes first; a new line where it is empty, or an unknown word. What is not in the vocabulary is
                read as unknown.
            num_tokens: how many tokens to add.
            temperature: divides the logits; below 1 likely tokens become likelier. 0 always takes the likeliest.
            top_k: draws among so many of the likeliest tokens; 0 among all.

        Returns:
            The prompt and what follows it.

        Raises:
            ValueError: the model was trained without a vocabulary, a prompt without tokens, or a setting outside its range.
        """
        if self.codec is None:
            raise ValueError("this LanguageModel has no vocabulary to read and write text with: train it with `vocabulary`")
        if num_tokens < 1 or temperature < 0 or top_k < 0:
            raise ValueError(
                f"num_tokens={num_tokens}, temperature={temperature} and top_k={top_k}: give 1 or more tokens, and the others "
                f"0 or more"
            )
        tokens = self.codec.encode(prompt) if prompt else self.codec.encode("\n") or [UNK]
        if not tokens:
            raise ValueError(f"the prompt {prompt!r} has no tokens to go on from: give one that has")
        x, state, made = torch.tensor([tokens], device=self.device), None, list[int]()
        for _ in range(num_tokens):
            logits, state = self(x, state)
            logits = logits[0, -1].float()
            logits[: len(SPECIAL)] = -torch.inf
            if top_k:
                logits[logits < logits.topk(min(top_k, len(logits) - len(SPECIAL))).values[-1]] = -torch.inf
            choice = logits.argmax() if temperature == 0 else (logits / temperature).softmax(0).multinomial(1)[0]
            made.append(int(choice))
            x = choice.view(1, 1)
        return prompt + (" " if prompt and self.codec.units == "words" else "") + self.codec.decode(made)
