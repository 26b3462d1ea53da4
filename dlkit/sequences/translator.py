"""Translator: a sequence from another, by an encoder, a decoder, and attention between them.

    m_1 .. m_S = BiRNN(x_1 .. x_S)
    s_t = RNN(y_{t-1}, s_{t-1}),   c_t = sum_j alpha_tj m_j,   alpha_t = softmax_j(score(s_t, m_j))
    p(y_t | y_<t, x) = softmax(E tanh(W [c_t, s_t]) + b)

Sutskever et al. 2014 (arXiv:1409.3215) without attention; Bahdanau et al. 2015 (arXiv:1409.0473); in this form, where attention
comes after the state, so that a whole target is decoded at once in training, Luong et al. 2015 (arXiv:1508.04025, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlkit.ability import ability
from dlkit.batches import SentencePairs
from dlkit.method import Method, Schedule, Terms
from dlkit.nn.attention import Attention
from dlkit.nn.beam_search import Hypotheses, beam_search
from dlkit.nn.embedding import TokenEmbedding
from dlkit.nn.recurrent import Cell, RecurrentEncoder, RecurrentState, SequenceDropout, real_steps
from dlkit.text import BOS, EOS, PAD, Codec, codec_of

AT_ONCE = 64  # sentences that `translate` decodes side by side


class DecoderState(NamedTuple):
    """What the decoder knows.

    Attributes:
        recurrent: of the words written so far.
        memory: m, (batch, source words, features).
        projected: what attention needs of the memory, computed once.
        mask: (batch, source words), True at real words.
        attention: alpha of the last word, (batch, source words), or None before the first.
    """

    recurrent: RecurrentState
    memory: Tensor
    projected: Tensor
    mask: Tensor
    attention: Tensor | None = None

    def select(self, rows: Tensor) -> DecoderState:
        """The states of some sequences of the batch: (n,), int64."""
        memory, projected, mask = (part.index_select(0, rows) for part in (self.memory, self.projected, self.mask))
        attention = None if self.attention is None else self.attention.index_select(0, rows)
        return DecoderState(self.recurrent.select(rows), memory, projected, mask, attention)


class Translation(NamedTuple):
    """One translation of a sentence.

    Attributes:
        text: what it reads.
        log_probability: of the whole sequence, its end included.
        score: by which translations are in order.
    """

    text: str
    log_probability: float
    score: float


class Translator(Method):
    """A recurrent encoder and decoder, with or without attention.

    Records in training the loss, with label smoothing, in nats a target token; in evaluation without it, and `perplexity` of
    the whole part, with the true words given (teacher forcing). How well it translates by itself is the matter of
    `dlkit.callbacks.Translations`.

    Args:
        source_vocab_size: tokens of the source language, the four special ones included.
        target_vocab_size: of the target language.
        source_vocabulary: the source texts' codec, as a string (`dlkit.text.Codec.to_json`), with which `translate` reads.
        target_vocabulary: the target texts', with which it writes.
        attention: "additive", "general", or "none"; not "dot", for the memory is wider than the decoder's state.
        cell: "rnn", "gru" or "lstm", of both.
        embedding_dim: width of a token's vector.
        hidden_size: width of the encoder's state in each direction, and of the decoder's.
        num_layers: recurrent layers of each.
        dropout: probability of zeroing a feature of the vectors, between layers, and before the prediction.
        label_smoothing: share of the target spread over all tokens but padding and beginning (Szegedy et al. 2016,
            arXiv:1512.00567).
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a setting outside its range, or tokens outside the vocabularies.
    """

    reads = SentencePairs

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        source_vocabulary: str = "",
        target_vocabulary: str = "",
        attention: Literal["additive", "general", "none"] = "additive",
        cell: Cell = "lstm",
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is outside [0, 1)")
        self.source_codec = codec_of(source_vocabulary, source_vocab_size, "source_vocab_size")
        self.target_codec = codec_of(target_vocabulary, target_vocab_size, "target_vocab_size")
        self.label_smoothing = label_smoothing
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.source_embedding = TokenEmbedding(source_vocab_size, embedding_dim)
        self.target_embedding = TokenEmbedding(target_vocab_size, embedding_dim)
        self.encoder = RecurrentEncoder(embedding_dim, hidden_size, cell, num_layers, bidirectional=True, dropout=dropout)
        self.decoder = RecurrentEncoder(embedding_dim, hidden_size, cell, num_layers, dropout=dropout)
        memory_size = self.encoder.output_size
        parts = {"hidden": nn.Linear(memory_size, hidden_size), "memory": nn.Linear(memory_size, hidden_size)}
        self.bridge = nn.ModuleDict(parts if cell == "lstm" else {"hidden": parts["hidden"]})
        self.attention = None if attention == "none" else Attention(hidden_size, memory_size, attention)
        self.combine = nn.Linear(hidden_size + (memory_size if self.attention else 0), embedding_dim)
        self.head = nn.Linear(embedding_dim, target_vocab_size)
        self.dropout = SequenceDropout(dropout)
        self.head.weight = self.target_embedding.table.weight  # tied: Press and Wolf 2017 (arXiv:1608.05859)

    # The network -----------------------------------------------------------------------------------------------------

    def encode(self, source: Tensor, lengths: Tensor) -> DecoderState:
        """Reads the source: (batch, source words), (batch,) -> what the decoder starts from."""
        memory, final = self.encoder(self.dropout(self.source_embedding(source)), lengths)
        joined = final.map(lambda part: part.transpose(1, 2).flatten(2).unsqueeze(1))  # both directions side by side
        start = RecurrentState(
            torch.tanh(self.bridge["hidden"](joined.hidden)),
            None if joined.memory is None else self.bridge["memory"](joined.memory),
        )
        mask = real_steps(lengths.to(source.device), source.shape[1])
        return DecoderState(start, memory, self.attention.project(memory) if self.attention else memory[:, :, :0], mask)

    def advance(self, state: DecoderState, tokens: Tensor) -> tuple[DecoderState, Tensor, Tensor | None]:
        """Goes on with known target words: all of them in training, one at a time in search.

        Args:
            state: before the first of them.
            tokens: (batch, time), int64.

        Returns:
            The state after them; what the word after each is predicted from, (batch, time, embedding_dim); and the attention
            to the source from each, (batch, time, source words), or None.
        """
        outputs, recurrent = self.decoder(self.dropout(self.target_embedding(tokens)), state=state.recurrent)
        weights = None
        if self.attention is not None:
            context, weights = self.attention(outputs, state.projected, state.memory, state.mask)
            outputs = torch.cat([context, outputs], 2)
        written = self.dropout(torch.tanh(self.combine(outputs)))
        return state._replace(recurrent=recurrent, attention=None if weights is None else weights[:, -1]), written, weights

    def decode(self, state: DecoderState, tokens: Tensor) -> tuple[DecoderState, Tensor, Tensor | None]:
        """As `advance`, with the logits of the word that follows each: (batch, time, target_vocab_size)."""
        state, written, weights = self.advance(state, tokens)
        return state, self.head(written), weights

    # Training --------------------------------------------------------------------------------------------------------

    def loss(self, batch: SentencePairs) -> tuple[Tensor, Terms]:
        state = self.encode(batch.source, batch.source_lengths)
        following = batch.target[:, 1:]
        real = following != PAD
        _, written, _ = self.advance(state, batch.target[:, :-1])
        # The prediction is most of the work, so it is made for real words alone.
        written, following = written[real], following[real]
        nll = F.cross_entropy(self.head(written).float(), following)
        if not (self.training and self.label_smoothing):
            return nll, {}
        return nll + self.label_smoothing * self.excess(written, following), {"nll": nll}

    def excess(self, written: Tensor, following: Tensor) -> Tensor:
        """How far the logit of the right word is above the mean of all that can follow, which padding and the beginning cannot.

        With the share eps of the target spread over the K words that can follow, the cross entropy is

            logsumexp(l) - (1 - eps) l_y - eps/K sum_k l_k = nll + eps (l_y - mean_k l_k),

        whose second term is linear, so that it is had from the weights, without another pass over all logits.
        """
        weight, bias = self.head.weight, self.head.bias
        right = (written * F.embedding(following, weight)).sum(1) + bias[following]
        even = written @ weight[EOS:].mean(0) + bias[EOS:].mean()
        return (right - even).float().mean()

    def batch_size(self, batch: SentencePairs) -> int:
        """How many target words a batch predicts, for the loss is a mean over them."""
        return int((batch.target[:, 1:] != PAD).sum())

    def on_validation_epoch_end(self) -> None:
        self.record_perplexity("val")

    def on_test_epoch_end(self) -> None:
        self.record_perplexity("test")

    def record_perplexity(self, stage: str) -> None:
        """e^loss of the whole part."""
        loss = self.trainer.callback_metrics.get(f"{stage}/loss")
        if loss is not None:
            self.log(f"{stage}/perplexity", loss.exp())

    # Abilities -------------------------------------------------------------------------------------------------------

    @ability
    def search(
        self, source: Tensor, lengths: Tensor, beam_size: int = 5, alpha: float = 1.0, min_length: int = 0, max_length: int = 0
    ) -> Hypotheses:
        """The likeliest translations of a batch: see `dlkit.nn.beam_search.beam_search`.

        Args:
            source: (batch, source words), int64, padded with 0.
            lengths: (batch,), int64.
            beam_size, alpha, min_length: of the search.
            max_length: tokens of a translation, its end not counted; twice the source's and ten more if 0.

        Raises:
            ValueError: a beam of none, or bounds that contradict each other.
        """
        if max_length < 0 or 0 < max_length < min_length:
            raise ValueError(f"min_length={min_length} and max_length={max_length}: give a minimum within the limit")
        limits = torch.full_like(lengths, max_length) if max_length else (2 * lengths + 10).clamp(min=min_length)
        limits = limits.to(source.device)

        def step(state: DecoderState, tokens: Tensor) -> tuple[DecoderState, Tensor]:
            state, logits, _ = self.decode(state, tokens.unsqueeze(1))
            return state, logits[:, 0]

        return beam_search(step, self.encode(source, lengths), limits, beam_size, alpha, min_length)

    @ability
    def translate(
        self, sentences: Sequence[str], beam_size: int = 5, alpha: float = 1.0, min_length: int = 0, max_length: int = 0
    ) -> list[str]:
        """The best translation of each sentence, in the order given; "" of a sentence without tokens. See `search`."""
        return [found[0].text for found in self.translations(sentences, beam_size, alpha, min_length, max_length)]

    @ability
    def translations(
        self, sentences: Sequence[str], beam_size: int = 5, alpha: float = 1.0, min_length: int = 0, max_length: int = 0
    ) -> list[list[Translation]]:
        """The `beam_size` best translations of each sentence, or as many as there are, the best first. See `search`."""
        source_codec, target_codec = self.codecs()
        found = [[Translation("", 0.0, 0.0)] for _ in sentences]
        for rows, source, lengths in batched(sentences, source_codec, self.device):
            best = self.search(source, lengths, beam_size, alpha, min_length, max_length)
            for row, *parts in zip(rows, *(part.tolist() for part in best), strict=True):
                found[row] = [
                    Translation(target_codec.decode(tokens), log_probability, score)
                    for tokens, log_probability, score in zip(*parts, strict=True)
                    if score > -math.inf
                ]
        return found

    @ability
    def attend(self, sentence: str, translation: str) -> tuple[list[str], list[str], Tensor]:
        """Where each word of a translation looks in a sentence.

        Returns:
            The tokens of the sentence; those of the translation and its end; and alpha, (of the one, of the other).

        Raises:
            ValueError: the model has no attention, or the sentence no tokens.
        """
        if self.attention is None:
            raise ValueError("this Translator has no attention: train one with attention='additive'")
        source_codec, target_codec = self.codecs()
        source, target = source_codec.encode(sentence), target_codec.encode(translation)
        if not source:
            raise ValueError(f"the sentence {sentence!r} has no tokens to look at: give one that has")
        state = self.encode(torch.tensor([source], device=self.device), torch.tensor([len(source)]))
        _, _, weights = self.decode(state, torch.tensor([[BOS, *target]], device=self.device))
        assert weights is not None
        written = [target_codec.tokens[token] for token in (*target, EOS)]
        return [source_codec.tokens[token] for token in source], written, weights[0]

    def codecs(self) -> tuple[Codec, Codec]:
        """The codecs of both languages.

        Raises:
            ValueError: the model was trained without them.
        """
        if self.source_codec is None or self.target_codec is None:
            raise ValueError("this Translator has no vocabularies to read and write text with: train it with both")
        return self.source_codec, self.target_codec


def batched(sentences: Sequence[str], codec: Codec, device: torch.device) -> Iterable[tuple[list[int], Tensor, Tensor]]:
    """Sentences with tokens, those of like length together: which they are, their tokens, and how many each has."""
    encoded = [codec.encode(sentence) for sentence in sentences]
    order = sorted((row for row, tokens in enumerate(encoded) if tokens), key=lambda row: len(encoded[row]))
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        lengths = torch.tensor([len(encoded[row]) for row in rows])
        source = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for place, row in enumerate(rows):
            source[place, : len(encoded[row])] = torch.tensor(encoded[row])
        yield rows, source.to(device), lengths
