"""SequenceTagger: a tag for each word of a sentence, from the word, its letters, and both sides of it.

    e_t = [embedding(w_t), BiLSTM(letters of w_t)],   h_1 .. h_T = BiLSTM(e_1 .. e_T),   p(y_t | w) = softmax(A h_t + b)

Plank et al. 2016 (arXiv:1604.05529). Deviations: Adam, dropout and unknown words in training instead of Gaussian noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from dlkit.ability import ability
from dlkit.batches import TaggedWords
from dlkit.method import Method, Schedule, Terms
from dlkit.nn.embedding import TokenEmbedding
from dlkit.nn.recurrent import Cell, RecurrentEncoder, real_steps
from dlkit.text import UNK

IGNORED = -1  # the tag of padding


class SequenceTagger(Method):
    """A bidirectional recurrent tagger.

    Records the cross entropy in nats a word, and in evaluation the accuracy over all words, `accuracy`, and over words that
    are not in the vocabulary, `unknown_accuracy`.

    Args:
        vocab_size: how many words there are, padding included.
        num_tags: how many tags.
        char_vocab_size: how many letters; 0 takes no notice of letters.
        embedding_dim: width of a word's vector.
        char_embedding_dim: width of a letter's vector.
        char_hidden_size: width of the state that reads a word's letters, in each direction.
        cell: "rnn", "gru" or "lstm".
        hidden_size: width of the state that reads the sentence, in each direction.
        num_layers: layers that read the sentence.
        dropout: probability of zeroing a feature of the words' vectors, between layers, and of the states.
        token_dropout: probability of taking a word for an unknown one, in training; its letters stay.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a setting outside its range; words, letters or tags outside their vocabularies.
    """

    reads = TaggedWords

    def __init__(
        self,
        vocab_size: int,
        num_tags: int,
        char_vocab_size: int = 0,
        embedding_dim: int = 100,
        char_embedding_dim: int = 50,
        char_hidden_size: int = 50,
        cell: Cell = "lstm",
        hidden_size: int = 128,
        num_layers: int = 1,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_tags < 1:
            raise ValueError(f"num_tags={num_tags}: give 1 or more")
        if char_vocab_size < 0:
            raise ValueError(f"char_vocab_size={char_vocab_size}: give a number of letters, or 0 to take no notice of them")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is outside [0, 1)")
        self.num_tags = num_tags
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.words = TokenEmbedding(vocab_size, embedding_dim, token_dropout)
        self.letters = TokenEmbedding(char_vocab_size, char_embedding_dim) if char_vocab_size else None
        width = embedding_dim
        if char_vocab_size:
            self.speller = RecurrentEncoder(char_embedding_dim, char_hidden_size, cell, bidirectional=True)
            width += self.speller.output_size
        self.encoder = RecurrentEncoder(width, hidden_size, cell, num_layers, bidirectional=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.output_size, num_tags)
        self.accuracies = nn.ModuleDict({name: MeanMetric() for name in ("accuracy", "unknown_accuracy")})

    def forward(self, batch: TaggedWords) -> Tensor:
        """Logits: the words' (batch, time, num_tags)."""
        words = self.words(batch.x)
        if self.letters is not None:
            spelled = self.speller(self.letters(batch.letters), batch.letter_lengths).final_state.top
            words = torch.cat([words, spelled[batch.forms]], 2)
        return self.head(self.dropout(self.encoder(self.dropout(words), batch.lengths).outputs))

    def loss(self, batch: TaggedWords) -> tuple[Tensor, Terms]:
        tags = self.checked(batch.y)
        loss, right = self.compare(self(batch), tags)
        real = tags != IGNORED
        return loss, {"accuracy": (right & real).sum() / real.sum()}

    def compare(self, logits: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropy, and which tags are right: (batch, time), bool."""
        loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=IGNORED)
        return loss, logits.argmax(2) == tags

    def batch_size(self, batch: TaggedWords) -> int:
        """How many words a batch holds, for the loss is a mean over words."""
        return int(batch.lengths.sum())

    def checked(self, tags: Tensor | None) -> Tensor:
        """The tags, if they are some: of every word, and -1 at the padding.

        Raises:
            ValueError: there are none, they are no whole numbers, or one is out of range.
        """
        if tags is None:
            raise ValueError("SequenceTagger learns from tags and the data has none: use a datamodule with tags")
        if tags.dtype != torch.int64:
            raise ValueError(f"SequenceTagger was given tags of {tags.dtype}: give int64 indices")
        if tags.is_cpu:
            wrong = tags[(tags < IGNORED) | (tags >= self.num_tags)]
            if len(wrong):
                raise ValueError(f"tag {int(wrong[0])} is outside 0..{self.num_tags - 1}: set num_tags to the data's")
        return tags

    def evaluation_step(self, stage: str, batch: TaggedWords) -> None:
        tags = self.checked(batch.y)
        loss, right = self.compare(self(batch), tags)
        self.record(stage, {"loss": loss}, batch)
        real = tags != IGNORED
        for name, counted in (("accuracy", real), ("unknown_accuracy", real & (batch.x == UNK))):
            metric: Any = self.accuracies[name]
            metric.update(right.float(), counted.float())  # not a number where no word is counted
            self.log(f"{stage}/{name}", metric, on_epoch=True, on_step=False)

    @ability
    def tag(self, batch: TaggedWords) -> Tensor:
        """The most probable tag of each word, -1 at the padding: (batch, time), int64. The batch needs no tags."""
        real = real_steps(batch.lengths.to(batch.x.device), batch.x.shape[1])
        return self(batch).argmax(2).masked_fill(~real, IGNORED)
