"""SequenceClassifier: a class for a whole sequence.

h_1 .. h_T = network(x_1 .. x_T),   p(y | x) = softmax(A pool(h_1 .. h_T) + b),   L = -(1/N) sum_n log p(y_n | x_n)
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from dlkit.ability import ability
from dlkit.batches import Sequences
from dlkit.checks import check_labels
from dlkit.method import Method, Schedule, Terms
from dlkit.metrics.by_length import AccuracyByLength
from dlkit.nn.embedding import TokenEmbedding
from dlkit.nn.pooling import Pooling, PoolingKind
from dlkit.nn.recurrent import Cell, RecurrentEncoder

MOST_LENGTHS = 16


class SequenceClassifier(Method):
    """A recurrent classifier of sequences of tokens, or of real vectors.

    Records the cross entropy in nats and the accuracy; in the test the accuracy at each length too, where there are few.

    Args:
        vocab_size: how many tokens there are, padding included; None for sequences of real vectors.
        num_classes: how many classes.
        num_features: of a step, for sequences of real vectors.
        embedding_dim: width of a token's vector.
        cell: "rnn", "gru" or "lstm".
        hidden_size: width of the state in each direction.
        num_layers: recurrent layers, one upon the other.
        bidirectional: whether each layer also reads backwards.
        pooling: "last", "mean", "max" or "attention": see `dlkit.nn.pooling.Pooling`.
        dropout: probability of zeroing a feature of the embedding, between layers, and of the pooled vector.
        token_dropout: probability of taking a token for an unknown one, in training.
        learning_rate: Adam's step size.
        schedule: "constant", or "linear" or "cosine" to zero.

    Raises:
        ValueError: a setting outside its range, tokens outside the vocabulary, labels missing or out of range.
    """

    reads = Sequences

    def __init__(
        self,
        vocab_size: int | None,
        num_classes: int,
        num_features: int = 0,
        embedding_dim: int = 64,
        cell: Cell = "lstm",
        hidden_size: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        pooling: PoolingKind = "last",
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        learning_rate: float = 1e-3,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_classes is None or num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: a classifier needs data with labels, or the number of classes")
        if (vocab_size is None) == (num_features == 0):
            raise ValueError(
                f"vocab_size={vocab_size} and num_features={num_features}: give the one for tokens, the other for real vectors"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is outside [0, 1)")
        self.num_classes = num_classes
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.embedding = None if vocab_size is None else TokenEmbedding(vocab_size, embedding_dim, token_dropout)
        width = num_features if vocab_size is None else embedding_dim
        self.encoder = RecurrentEncoder(width, hidden_size, cell, num_layers, bidirectional, dropout)
        self.pooling = Pooling(pooling, self.encoder.output_size)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.output_size, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.lengths = AccuracyByLength(num_classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Logits: (batch, time) or (batch, time, num_features), and lengths (batch,) -> (batch, num_classes)."""
        steps = x if self.embedding is None else self.embedding(x)
        encoded = self.encoder(self.dropout(steps), lengths)
        return self.head(self.dropout(self.pooling(encoded, lengths)))

    def loss(self, batch: Sequences) -> tuple[Tensor, Terms]:
        y = check_labels(batch.y, self.num_classes, "SequenceClassifier")
        logits = self(batch.x, batch.lengths)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}

    def evaluation_step(self, stage: str, batch: Sequences) -> None:
        y = check_labels(batch.y, self.num_classes, "SequenceClassifier")
        logits = self(batch.x, batch.lengths)
        self.record(stage, {"loss": F.cross_entropy(logits, y)}, batch)
        self.accuracy.update(logits, y)
        self.lengths.update(logits.argmax(1), y, batch.lengths)
        self.log(f"{stage}/accuracy", self.accuracy, on_epoch=True, on_step=False)

    def on_validation_epoch_start(self) -> None:
        self.lengths.reset()

    def on_test_epoch_start(self) -> None:
        self.lengths.reset()

    def on_test_epoch_end(self) -> None:
        found = self.by_length()
        if len(found["length"]) <= MOST_LENGTHS:
            for length, accuracy in zip(found["length"].tolist(), found["accuracy"], strict=True):
                self.log(f"test/accuracy_at_length_{length}", accuracy)

    def by_length(self) -> dict[str, Tensor]:
        """How the last pass of evaluation went at each length: see `dlkit.metrics.by_length.AccuracyByLength`."""
        # torchmetrics takes the only entry of a vector for a scalar.
        return {name: values.reshape(-1) for name, values in self.lengths.compute().items()}

    @ability
    def classify(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Class probabilities: as `forward`."""
        return self(x, lengths).softmax(1)
