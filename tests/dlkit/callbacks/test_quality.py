"""The measures of samples, held against real data in their place, and against samplers that are wrong in a known way."""

from __future__ import annotations

import io
import json

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from datamodules import Digits, Gaussians, StackedDigits
from dlkit.callbacks import Quality, RandomState, judge
from dlkit.callbacks.judge import judge_of
from dlkit.callbacks.quality import check_kind
from dlkit.evaluation import evaluate


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for judges."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dlkit" / "judges"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a judge of digits, trained once for the tests that need a good one."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        judge_of(Digits())
    return folder


class Copies(dlkit.GAN):
    """Its samples are real examples, or some of them."""

    def __init__(self, shape, pool, labels=None):
        super().__init__(shape, 2, hidden_dims=(8,), num_classes=None if labels is None else int(labels.max()) + 1)
        self.pool, self.labels = pool, labels

    def sample(self, n, labels=None):
        if labels is None:
            return self.pool[torch.randint(len(self.pool), (n,))]
        rows = torch.stack([(self.labels == label).nonzero().flatten()[0] for label in labels])
        return self.pool[rows]


def measured(method, data, number=2000, stage="test"):
    data.setup()
    return {name: float(value) for name, value in Quality().measure(method, data, stage, number).items()}


def examples(data, split="train"):
    batches = list(data.batches(split))
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


def test_samples_of_the_true_mixture_score_as_real_ones_and_half_of_it_misses_modes():
    data = Gaussians("grid", num_examples=20_000, val_size=1000)
    x, y = examples(data)
    found = measured(Copies((2,), x), data)
    assert found["modes"] == found["real_modes"] == 25
    assert found["high_quality"] == pytest.approx(found["real_high_quality"], abs=0.02)
    assert found["wasserstein"] < 2 * found["real_wasserstein"]
    half = measured(Copies((2,), x[y < 12]), data)
    assert half["modes"] == 12
    assert half["kl"] == pytest.approx(torch.tensor(25 / 12).log().item(), abs=0.02)
    assert half["wasserstein"] > 5 * half["real_wasserstein"]


def test_validation_measures_samples_and_no_references():
    found = measured(Copies((2,), torch.zeros(1, 2)), Gaussians("ring", num_examples=5000, val_size=500), stage="val")
    assert set(found) == {"modes", "high_quality", "kl"}
    assert found["high_quality"] == 0


@pytest.mark.slow
def test_a_judge_of_digits_is_good_and_sees_the_modes_of_stacked_ones(trained, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained))
    assert judge_of(Digits()).accuracy > 0.97
    data = StackedDigits(num_examples=20_000, val_size=1000)
    x, y = examples(data)
    found = measured(Copies((3, 8, 8), x[y < 100]), data, 5000)
    assert 95 <= found["modes"] <= 250  # the judge errs on some channels
    assert found["real_modes"] > 980
    assert found["real_kl"] == pytest.approx(found["uniform_kl"], abs=0.05)  # both mostly the noise of 5000 draws
    assert found["kl"] > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [Gaussians("ring", num_examples=5000, val_size=500), StackedDigits(num_examples=2000, val_size=200), Digits()],
    ids=["mixture", "stacks", "pictures"],
)
def test_each_process_measures_by_itself_because_all_have_the_same_samples(data, trained, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained))
    x, _ = examples(data)
    alone = measured(Copies(data.data_shape, x), data, 200)
    # As if there were processes: whoever asks for the others' numbers meets an error.
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    assert measured(Copies(data.data_shape, x), data, 200).keys() == alone.keys()


@pytest.mark.slow
def test_real_digits_score_as_well_as_the_references_and_noise_does_not(trained, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained))
    data = Digits()
    x, y = examples(data)
    copies = measured(Copies((1, 8, 8), x, y), data)
    assert copies["conditional_accuracy"] > 0.95
    found = measured(Copies((1, 8, 8), x), data)
    assert found["judge_fid"] < 3 * found["real_judge_fid"] + 0.5
    assert found["coverage"] > 0.8
    assert found["nearest_training_example"] == 0
    assert "conditional_accuracy" not in found
    noise = measured(Copies((1, 8, 8), torch.rand(500, 1, 8, 8)), data)
    assert noise["judge_fid"] > 5 * noise["real_judge_fid"]
    assert noise["coverage"] < 0.2
    assert noise["two_sample_accuracy"] > 0.95 > noise["real_two_sample_accuracy"]
    assert noise["nearest_training_example"] > 1


def test_a_judge_is_trained_once_for_the_same_data_and_anew_for_other(cache, monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 2)
    state = torch.get_rng_state()
    first = judge_of(Digits())
    assert torch.equal(state, torch.get_rng_state())
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    again = judge_of(Digits())
    assert path.stat().st_mtime_ns == written
    for key, value in first.classifier.state_dict().items():
        assert torch.equal(value, again.classifier.state_dict()[key])
    assert again.accuracy == first.accuracy
    assert not again.classifier.training
    for other in (Digits(split_seed=1), Digits(binarize="static")):
        count = len(list(cache.iterdir()))
        judge_of(other)
        assert len(list(cache.iterdir())) == count + 1


def test_a_judge_that_is_damaged_or_holds_code_is_replaced_and_runs_nothing(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(judge, "STEPS", 2)
    first = judge_of(Digits())
    (path,) = cache.iterdir()

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for damage in (lambda: torch.save({"state_dict": Attack()}, path), lambda: path.write_bytes(path.read_bytes()[:1000])):
        damage()
        assert judge_of(Digits()).accuracy == first.accuracy
        assert set(torch.load(path, weights_only=True)) == {"state_dict", "accuracy"}
    assert not (tmp_path / "ran").exists()


def test_the_command_and_the_script_measure_the_same(fit, tmp_path):
    small = [
        "--data.num_examples",
        2000,
        "--data.val_size",
        500,
        "--trainer.max_epochs",
        1,
        "--trainer.check_val_every_n_epoch",
        1,
    ]
    done = fit("gan-ring", *small)
    assert done.returncode == 0, done.stderr
    assert "val/modes" in done.stdout
    assert fit("test", "gan-ring").returncode == 0
    folder = tmp_path / "lightning_logs/gan-ring/version_0"
    metrics = json.loads((folder / "test.json").read_text())["metrics"]
    found = evaluate(folder / "checkpoints/best.ckpt")
    assert found["test/high_quality"] == pytest.approx(metrics["test/high_quality"])
    assert found["test/real_modes"] == 8


def test_the_samples_measured_do_not_disturb_training():
    def weights(callbacks):
        L.seed_everything(3, verbose=False)
        method = dlkit.GAN((2,), 2, hidden_dims=(8,))
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, callbacks=[RandomState(), *callbacks],
        )  # fmt: skip
        trainer.fit(method, datamodule=Gaussians("ring", num_examples=2000, val_size=500))
        return method.state_dict()

    for key, value in weights([]).items():
        assert torch.equal(value, weights([Quality(val_samples=100)])[key])


def test_the_samples_closest_to_training_examples_are_shown_above_them(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained))
    copied = examples(Digits(), "train")[0][:4]
    # Copies among noise: they come first, each above itself; what follows are two different pictures.
    method = Copies((1, 8, 8), torch.cat([copied, torch.rand(300, 1, 8, 8)]))
    L.Trainer(
        accelerator="cpu", max_epochs=1, logger=TensorBoardLogger(tmp_path, name="", version=""), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_train_batches=1,
        log_every_n_steps=1, callbacks=[Quality(val_samples=100)],
    ).fit(method, datamodule=Digits(batch_size=100))  # fmt: skip
    board = EventAccumulator(str(tmp_path)).Reload()
    (image,) = board.Images("samples/closest_above_training_example")
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    cell = pixels.shape[0] // 4
    assert pixels.shape == (4 * cell, 12 * cell, 3)
    assert np.array_equal(pixels[:cell, :cell], pixels[cell : 2 * cell, :cell])
    assert not np.array_equal(pixels[:cell, -cell:], pixels[cell : 2 * cell, -cell:])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"num_samples=1 .*give 2 or more"):
        Quality(num_samples=1)
    with pytest.raises(ValueError, match="Classifier does not sample: leave"):
        Quality().setup(L.Trainer(logger=False, accelerator="cpu"), dlkit.Classifier((2,), 2), "fit")

    class Unlabelled(Digits):
        num_classes = None

    with pytest.raises(ValueError, match="neither a known mixture nor labelled pictures"):
        check_kind(Unlabelled())
