"""Joey NMT 2.3.0 (Kreutzer et al. 2019, arXiv:1907.12484), trained by its own trainer as its command line does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

# Of its requirements only what training a network imports: its bound on protobuf is older than TensorBoard's.
INSTALL = (
    "pip install --no-deps joeynmt==2.3.0 importlib_metadata zipp lazy_importer mock sacremoses sentencepiece subword-nmt "
    "pandas python-dateutil"
)


def joeynmt_fit(texts: Path, width: int, batch_size: int, clip: float, steps: int, count: Callable[[int], None]) -> int:
    """Trains for some steps, and tells `count` how many target tokens each of them had.

    Args:
        texts: the folder of `train.de`, `train.en`, `val.de` and so on, tokens with blanks between them.

    Returns:
        How many parameters its network has.
    """
    from joeynmt import training  # pyright: ignore[reportMissingImports]

    language = {"level": "word", "voc_min_freq": 1, "max_length": 100, "lowercase": False}
    layer = {"type": "recurrent", "rnn_type": "lstm", "hidden_size": width, "num_layers": 1, "dropout": 0.3}
    layer["embeddings"] = {"embedding_dim": width, "dropout": 0.3}
    settings = {
        "name": "benchmark",
        "joeynmt_version": "2.3.0",
        "model_dir": str(texts),
        "use_cuda": False,
        "data": {
            "train": str(texts / "train"), "dev": str(texts / "val"), "test": str(texts / "test"),
            "dataset_type": "plain", "src": {"lang": "de", **language}, "trg": {"lang": "en", **language},
        },
        "model": {
            "initializer": "xavier_uniform", "bias_initializer": "zeros", "embed_initializer": "normal",
            "tied_softmax": True,
            "encoder": {**layer, "bidirectional": True},
            "decoder": {**layer, "attention": "bahdanau", "init_hidden": "bridge", "input_feeding": True},
        },
        "training": {
            "optimizer": "adam", "scheduling": "exponential", "learning_rate": 0.002, "normalization": "tokens",
            "label_smoothing": 0.1, "clip_grad_norm": clip, "batch_size": batch_size, "batch_type": "sentence",
            "updates": steps, "epochs": 100, "logging_freq": 100, "validation_freq": 1_000_000,
        },
        "testing": {"beam_size": 1},
    }  # fmt: skip
    parameters = 0

    class Manager(training.TrainManager):
        """Joey NMT's, whose steps are timed; a step's optimizer is still to come, and falls into the next lap."""

        def _train_step(self, batch: Any) -> Any:
            found = super()._train_step(batch)
            count(int(batch.ntokens))
            return found

    def prepared(*args: Any, **more: Any) -> Any:
        nonlocal parameters
        found = prepare(*args, **more)
        parameters = sum(parameter.numel() for parameter in found[0].parameters())
        return found

    prepare, manager = training.prepare, training.TrainManager
    training.prepare, training.TrainManager = prepared, Manager
    try:
        training.train(0, 1, settings, skip_test=True)
    finally:
        training.prepare, training.TrainManager = prepare, manager
    return parameters
