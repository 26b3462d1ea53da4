"""Every recipe parses, says what it must, and trains, tests and draws for a step."""

from __future__ import annotations

import os
import re

import pytest

from datamodules import MNIST, ParallelText, parallel_text
from dlkit import load
from dlkit.callbacks import Quality
from dlkit.cli import dispatch, headline, recipe_classes, recipes

every_recipe = pytest.mark.parametrize("name", recipes())


def test_the_recipes_are_there():
    assert set(recipes()) == {
        "classifier-digits", "classifier-mnist", "autoencoder-digits", "linear-autoencoder-digits", "autoencoder-mnist",
        "denoising-digits", "denoising-mnist", "vae-digits", "vae-mnist", "vae-mnist-long", "conditional-vae-mnist",
        "iwae-mnist", "gaussian-vae-digits", "gan-ring", "rpgan-grid", "wgan-grid", "wgan-gp-grid", "collapse-grid",
        "optimal-critics", "gan-digits", "wgan-gp-digits", "dcgan-mnist", "wgan-gp-mnist", "conditional-gan-mnist",
        "stacked-digits-gan", "stacked-digits-rpgan", "stacked-mnist-rpgan", "sngan-cifar10", "palindromes-rnn",
        "palindromes-gru", "palindromes-lstm", "trec-lstm", "ud-english-tagger", "shakespeare-lstm", "dates-translator",
        "multi30k-de-en", "multi30k-de-en-no-attention", "flow-moons", "conditional-flow-moons", "flow-checkerboard",
        "spline-checkerboard", "realnvp-digits", "maf-digits", "glow-mnist", "glow-mnist-long", "lattice-free", "lattice-phi4",
        "lattice-u1", "digit-bags-attention", "digit-bags-attention-50", "digit-bags-instance-max", "digit-sum",
        "digit-sum-lstm", "digit-sum-mnist", "digit-sum-mnist-likelihood", "mpnn-esol", "mpnn-freesolv", "mpnn-qm9",
        "mpnn-rings", "musk1-attention", "nbody-egnn", "nbody-mpnn", "set-outliers",
    }  # fmt: skip


@every_recipe
def test_a_recipe_says_what_it_reproduces_how_long_it_takes_and_against_what(name):
    text = recipes()[name].read_text()
    what, time = headline(recipes()[name])
    assert what
    assert re.fullmatch(r"\d+ (seconds|minutes)", time)
    assert re.search(r"^# Published: .+", text, re.MULTILINE)
    assert re.search(r"^# Metric: [\w/]+, [\w ]+, [\w ]+$", text, re.MULTILINE)


def few(part, examples):
    """The first of a part: to train on, enough for a validation part of 5,000."""
    return examples.map(lambda column: column[: 6000 if part == "train" else 1000])


def make_quality_cheap(monkeypatch, tmp_path):
    """A judge that is hardly trained, few samples, and no Inception, whose weights would have to be downloaded."""
    measure = Quality.measure
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dlkit.callbacks.judge.STEPS", 2)
    monkeypatch.setattr("dlkit.callbacks.quality.on_inception", lambda *pictures: {"fid": 0.0, "kid": 0.0})
    monkeypatch.setattr(Quality, "measure", lambda self, method, data, stage, number: measure(self, method, data, stage, 64))


@pytest.mark.filterwarnings("ignore")  # the command line silences by name what a user can do nothing about
@every_recipe
def test_a_recipe_trains_and_is_tested_for_a_step(name, tmp_path, monkeypatch, capsys):
    embedded = (
        "datamodules.Digits",
        "datamodules.Gaussians",
        "datamodules.Palindromes",
        "datamodules.Density2D",
        "datamodules.NoData",
        "datamodules.Rings",
        "datamodules.ChargedParticles",
    )
    generated = ("stacked-digits", "sngan", "dates", "digit-sum", "set-outliers")
    own = recipe_classes(recipes()[name])["data"] in embedded or name.startswith(generated)
    if (not own or "mnist" in name) and "DLKIT_DATA" not in os.environ:
        pytest.skip("DLKIT_DATA is unset: it names a folder with the recipe's files, such as mnist/*.gz")
    monkeypatch.chdir(tmp_path)
    make_quality_cheap(monkeypatch, tmp_path)
    quick = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    quick += ["--trainer.check_val_every_n_epoch", "1", "--trainer.limit_test_batches", "1"]
    # A part of the real pictures, and few Markov chains: it is a step that is tested.
    load_mnist = MNIST.load
    monkeypatch.setattr(MNIST, "load", lambda self: {part: few(part, found) for part, found in load_mnist(self).items()})
    monkeypatch.setattr("dlkit.flows.lattice.HMC", {"num_steps": 4, "step_size": 0.1, "num_leapfrog": 2, "warmup": 2})
    monkeypatch.setattr("dlkit.callbacks.pictures.CHAIN", 500)
    monkeypatch.setattr("dlkit.callbacks.densities.CELLS", 40)
    monkeypatch.setattr("dlkit.callbacks.densities.BETWEEN", 1)
    monkeypatch.setattr("datamodules.digit_sum.TEST_SETS", 50)
    read = parallel_text.read_pair
    monkeypatch.setattr(parallel_text, "read_pair", lambda *names: tuple(lines[:500] for lines in read(*names)))
    monkeypatch.setattr(ParallelText, "pairs", lambda self, split: tuple(texts[:20] for texts in self.texts[split]))
    if "vae" in name:
        quick += ["--model.test_samples", "2"]
    if name.startswith("glow"):
        quick += ["--model.num_layers", "2"]
    if name.startswith("digit-sum"):
        quick += ["--trainer.limit_test_batches", "1.0"]  # sets of all sizes
    if name.startswith("nbody"):
        monkeypatch.setattr("dlkit.callbacks.trajectories.FRAMES", 2)
        quick += ["--data.num_train", "100", "--data.num_val", "20", "--data.num_test", "20", "--data.start", "3"]
        quick += ["--data.steps", "5"]
    if name == "mpnn-qm9":
        quick += ["--data.source", "generated"]  # tests/datamodules/test_quantum.py says that the files are read
    if name == "sngan-cifar10":
        # Its data is not in the folder of test data; that it reads such files is tests/datamodules/test_cifar.py's matter.
        quick += ["--model.width", "8", "--trainer.max_steps", "-1", "--data", "datamodules.Digits"]
    assert dispatch([name, *quick], "fit.py") == 0, capsys.readouterr().err
    assert dispatch(["test", name], "fit.py") == 0, capsys.readouterr().err
    if name == "ud-english-tagger":
        assert load(tmp_path / "lightning_logs" / name / "version_0" / "checkpoints" / "last.ckpt").letters is not None
    metric = re.search(r"^# Metric: ([\w/]+),", recipes()[name].read_text(), re.MULTILINE)
    assert metric is not None
    assert metric.group(1) in (tmp_path / "lightning_logs" / name / "version_0" / "test.json").read_text()
