"""The judge of generated pictures: a classifier trained once on the real ones, and kept.

Its labels say which modes are covered and whether a conditional sample shows its class; its features take the place of
Inception's in Frechet and kernel distances. It is no Inception network, so those are not the figures of papers.
"""

from __future__ import annotations

import hashlib
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info

from dlkit.callbacks.random_state import isolated
from dlkit.checks import check_labels
from dlkit.classifiers.classifier import Classifier
from dlkit.processes import whole

VERSION = 2  # counted up when what follows changes, so that no judge of old is taken for a new one
STEPS = 1500
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WIDTH = 16


class Judge(NamedTuple):
    """A trained classifier, and the share of the test pictures that it gets right."""

    classifier: Classifier
    accuracy: float


def cache_folder() -> Path:
    """Where judges are kept: `judges` in the user's cache folder for dlkit."""
    import pooch

    return Path(pooch.os_cache("dlkit")) / "judges"


def judge_of(data: Any) -> Judge:
    """The judge of a datamodule of labelled pictures, trained if there is none yet for exactly this training part.

    A convolutional classifier, `STEPS` steps of Adam with a rising and falling step size, from a fixed seed: some ten
    seconds for scikit-learn's digits, a minute for MNIST, on one core.

    Args:
        data: a datamodule of dlkit with labels.

    Raises:
        ValueError: it has no labels.
    """
    data.setup()
    examples = data.splits["train"]
    check_labels(examples.y, data.num_classes, "The judge of generated pictures")
    content = hashlib.sha256(f"{VERSION} {STEPS} {LEARNING_RATE} {WIDTH} {data.data_shape} {torch.__version__}".encode())
    prepared = data.prepare(examples.map(lambda rows: rows[:100])).x  # as the datamodule's settings make them
    for part in (*examples, *data.splits["test"], prepared):
        content.update(part.numpy().data)
    path = cache_folder() / f"{type(data).__name__}-{content.hexdigest()[:16]}.pt"
    with isolated(), torch.inference_mode(False), torch.enable_grad():
        judge = read(path, data)
        if judge is None:
            rank_zero_info(f"training a judge for {type(data).__name__}, once; it is kept in {path.parent}")
            judge = train(data)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as temporary:
                torch.save({"state_dict": judge.classifier.state_dict(), "accuracy": judge.accuracy}, temporary)
    return judge


def build(data: Any) -> Classifier:
    """A judge that knows nothing yet."""
    return Classifier(data.data_shape, data.num_classes, "cnn", width=WIDTH, dropout=0.2)


def read(path: Path, data: Any) -> Judge | None:
    """The judge in a file, which cannot run code; None where there is no file, or a damaged one."""
    try:
        saved = torch.load(path, weights_only=True)
        classifier = build(data)
        classifier.load_state_dict(saved["state_dict"])
        return Judge(classifier.eval(), float(saved["accuracy"]))
    except Exception:  # torch's reader fails on damaged bytes in every way there is; a new judge mends them all
        return None


def train(data: Any) -> Judge:
    """Trains a judge, and measures it on the test part."""
    classifier = build(data)
    examples, test = data.splits["train"], data.splits["test"]
    optimizer = torch.optim.Adam(classifier.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    # Every process trains the same judge on all of the data, so the batches do not come from its loaders, which share.
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(STEPS):
        if len(order) < BATCH_SIZE:
            order = torch.randperm(len(examples.x))
        rows, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        loss, _ = classifier.loss(data.prepare(examples.map(itemgetter(rows))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.eval()
    parts = torch.arange(len(test.x)).split(1000)
    right = [classifier.predict(data.prepare(test.map(itemgetter(rows))).x) == test.y[rows] for rows in parts]
    return Judge(classifier, float(torch.cat(right).float().mean()))
