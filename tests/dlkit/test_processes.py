"""Two processes, and processes that are killed."""

from __future__ import annotations

import errno
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import FIT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from dlkit.processes import accelerator, whole

EQUAL = """
import contextlib, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[3])
import lightning as L, torch
import dlkit
from datamodules import Digits
from dlkit.callbacks import RandomState
from dlkit.nn.deep_sets import MemberNorm
from training import two_processes

class QuietVAE(dlkit.VAE):
    def reparameterize(self, mean, log_sigma):
        return mean  # each process draws noise of its own, so equality is to be had without noise only

class QuietDenoising(dlkit.DenoisingAutoencoder):
    def corrupt(self, x):
        return 0.5 * x

class QuietGAN(dlkit.GAN):
    def draw(self, n, labels):
        # As the loader deals out examples: every one has the latent that it has in a single process.
        z = torch.randn(400, self.latent_dim, generator=torch.Generator().manual_seed(6))
        return self.generator(z[self.trainer.global_rank :: self.trainer.world_size][:n], labels)

def batch_norm_gan():
    gan = QuietGAN((1, 8, 8), 4, network="dcgan", width=4, generator_norm="batch", critic_norm="batch")
    for layer in (gan.generator.trunk[4], gan.critic.trunk[2]):
        layer.register_parameter("bias", None)  # which the normalisation takes out: Adam would follow rounding errors
    return gan

shape = (1, 8, 8)
METHODS = {
    "classifier": lambda: dlkit.Classifier(shape, 10, hidden_dims=(16,)),
    "cnn": lambda: dlkit.Classifier(shape, 10, "cnn", width=4),
    "autoencoder": lambda: dlkit.Autoencoder(shape, 4, "conv", hidden_dims=(16,), width=4),
    "denoising": lambda: QuietDenoising(shape, 4, hidden_dims=(16,)),
    "vae": lambda: QuietVAE(shape, 4, hidden_dims=(16,)),
    "iwae": lambda: QuietVAE(shape, 4, hidden_dims=(16,), importance_samples=2),
    "gaussian": lambda: QuietVAE(shape, 4, hidden_dims=(16,), likelihood="gaussian"),
    "conditional": lambda: QuietVAE(shape, 4, hidden_dims=(16,), num_classes=10),
    "noisy": lambda: dlkit.VAE(shape, 4, hidden_dims=(16,)),
    "gan": lambda: QuietGAN(shape, 4, "non-saturating", "r1+r2", critic_steps=2, hidden_dims=(16,), ema_decay=0.9),
    "gan-batch-norm": batch_norm_gan,
    "wgan-gp": lambda: dlkit.WGAN(shape, 4, critic_steps=2, hidden_dims=(16,)),
}

def members(rank, processes):
    # Of five members of sets, all are in the first process, and then three.
    norm, steps = MemberNorm(3), []
    for first, batch in zip((5, 3), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(7)) + 100):
        share = (batch if processes == 1 else batch[:first] if rank == 0 else batch[first:]).requires_grad_()
        normalized = norm(share)
        normalized.pow(3).sum().backward()
        steps.append({"normalized": normalized.detach(), "derivative": share.grad})
    return steps, norm.state_dict()

def main(processes, target):
    found = {}
    for name, build in METHODS.items():
        L.seed_everything(2, verbose=False)
        method = build()
        ddp = "ddp_find_unused_parameters_true" if isinstance(method, dlkit.AdversarialMethod) else "ddp"
        trainer = L.Trainer(
            accelerator="cpu", devices=processes, strategy=ddp if processes > 1 else "auto", max_epochs=2, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            callbacks=[RandomState()],
        )
        trainer.fit(method, datamodule=Digits(batch_size=200 // processes, val_size=237))
        noise = torch.rand(4)
        measured = {name: float(value) for name, value in trainer.callback_metrics.items() if "val/" in name}
        found[name] = method.state_dict(), measured, noise
    found["members"] = members(trainer.global_rank, processes)
    torch.save(found, f"{target}.{trainer.global_rank}")

with two_processes() if sys.argv[1] == "2" else contextlib.nullcontext():
    main(int(sys.argv[1]), sys.argv[2])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory, start):
    """(parameters, validation metrics, a random draw) by method: of one process, and of each of two with half the batch."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "equal.py").write_text(EQUAL)
    for processes in (1, 2):
        done = start(folder / "equal.py", folder, processes, processes, Path(__file__).parent)
        assert done.returncode == 0, done.stderr
    return [torch.load(folder / name, weights_only=True) for name in ("1.0", "2.0", "2.1")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["classifier", "cnn", "autoencoder", "denoising", "vae", "iwae", "gaussian", "conditional", "gan", "gan-batch-norm"],
)
def test_two_processes_end_with_the_parameters_of_one_with_twice_the_batch(results, name):
    one, first, second = (result[name] for result in results)
    for key, expected in one[0].items():
        torch.testing.assert_close(first[0][key], expected, atol=2e-5, rtol=2e-4, msg=lambda text, key=key: f"{key}: {text}")
        assert torch.equal(first[0][key], second[0][key])
    assert first[1] == pytest.approx(one[1], rel=1e-4)


@pytest.mark.slow
def test_members_are_normalised_by_those_of_both_processes_however_they_are_dealt_out(results):
    (one, remembered), *two = (result["members"] for result in results)
    assert [len(step["normalized"]) for step in two[1][0]] == [0, 2]
    for number, step in enumerate(one):
        for name, expected in step.items():
            together = torch.cat([steps[number][name] for steps, _ in two])
            torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)
    for _, found in two:
        torch.testing.assert_close(found, remembered)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy", "wgan-gp"])
def test_two_processes_draw_noise_of_their_own_and_keep_equal_parameters(results, name):
    _, first, second = (result[name] for result in results)
    assert not torch.equal(first[2], second[2])
    for key, value in first[0].items():
        assert torch.equal(value, second[0][key])


@pytest.mark.parametrize(("cuda", "apple", "taken"), [(True, False, "auto"), (False, True, "cpu"), (False, False, "auto")])
def test_a_run_takes_a_gpu_but_not_apple_s_which_has_no_float64(monkeypatch, cuda, apple, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert accelerator() == taken


@pytest.mark.slow
def test_the_command_line_trains_on_two_processes(fit, tmp_path):
    done = fit(
        "vae-digits", "--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu",
        "--trainer.max_epochs", 2, "--checkpoint.every_n_seconds", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "lightning_logs/vae-digits").iterdir()] == ["version_0"]
    assert dlkit.load(tmp_path / "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt").sample(1).shape == (1, 1, 8, 8)
    tested = fit("test", "vae-digits", "--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count("test/loss") == 1
    assert (tmp_path / "lightning_logs/vae-digits/version_0/test.json").is_file()


BROKEN = """
import os
import dlkit

class Broken(dlkit.Autoencoder):
    # One process meets a NaN.
    def loss(self, batch):
        loss, terms = super().loss(batch)
        return loss * (float("nan") if os.environ.get("LOCAL_RANK") == "1" and self.global_step == 3 else 1), terms
"""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both_with_a_sentence(fit, tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN)
    done = fit(
        "autoencoder-digits", "--model", "mine.Broken", "--trainer.devices", 2, "--trainer.strategy", "ddp",
        "--trainer.accelerator", "cpu", "--trainer.max_epochs", 2,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the term 'mse' of the loss is not finite at step 3" in done.stderr or "'loss'" in done.stderr
    assert "another process of this run has failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_killed_at_random_moments_and_resumed_is_the_uninterrupted_one_bit_for_bit(fit, tmp_path):
    arguments = [
        "vae-digits", "--trainer.max_epochs", "12", "--checkpoint.every_n_seconds", "0", "--data.batch_size", "100",
        "--seed", "4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoint = "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt"
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    done = fit(*arguments, folder=whole)
    assert done.returncode == 0, done.stderr
    moments, killed_at = random.Random(time.time_ns()), []
    for attempt in range(2):
        command = [sys.executable, str(FIT), *(["vae-digits", "--resume"] if attempt else arguments)]
        process = subprocess.Popen(command, cwd=stopped, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = (stopped / checkpoint).stat().st_mtime_ns if (stopped / checkpoint).exists() else 0
        while process.poll() is None:
            if (stopped / checkpoint).exists() and (stopped / checkpoint).stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(torch.load(stopped / checkpoint, weights_only=True)["global_step"])
    done = fit("vae-digits", "--resume", folder=stopped)
    assert done.returncode == 0, done.stderr
    assert killed_at[0] < 12 * 12, "the first kill came too late to mean anything"
    expected = torch.load(whole / checkpoint, weights_only=True)
    found = torch.load(stopped / checkpoint, weights_only=True)
    assert found["global_step"] == expected["global_step"]
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), f"{key}, killed at steps {killed_at}"
    for state, other in zip(expected["optimizer_states"], found["optimizer_states"], strict=True):
        for index, slots in state["state"].items():
            for slot, value in slots.items():
                assert torch.equal(value, other["state"][index][slot]), (index, slot)
    assert not list((stopped / checkpoint).parent.glob("*.tmp"))


def test_a_file_that_cannot_be_written_to_the_end_is_as_it_was_before(tmp_path):
    path = tmp_path / "a.txt"
    with whole(path) as temporary:
        temporary.write_text("before")
        assert not path.exists()
    with pytest.raises(OSError, match=r"full: '.*/a\.txt'"), whole(path) as temporary:
        temporary.write_text("aft")
        raise OSError(errno.ENOSPC, "the disk is full")
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_disk_stops_the_run_with_a_sentence_and_keeps_the_previous_checkpoint(fit, tmp_path):
    assert fit("vae-digits", "--trainer.max_epochs", 2, "--model.hidden_dims", "[8]").returncode == 0
    checkpoint = tmp_path / "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt"
    content = checkpoint.read_bytes()
    limit = len(content) // 2
    done = subprocess.run(
        [sys.executable, str(FIT), "vae-digits", "--resume", "--trainer.max_epochs", "4", "--trainer.limit_val_batches", "0"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "last.ckpt could not be written" in done.stderr
    assert "the previous one is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.read_bytes() == content
    assert not list(checkpoint.parent.glob("*.tmp"))


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_beginning(fit, tmp_path):
    assert fit("vae-digits", "--trainer.max_epochs", 1).returncode == 0
    folder = tmp_path / "lightning_logs/vae-digits/version_0"
    expected = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    done = fit("vae-digits", "--resume")
    assert done.returncode == 0, done.stderr
    assert "starts from the beginning" in done.stdout
    # Which of its settings the first command had changed is not known, so it is not taken for the recipe as it is.
    assert json.loads((folder / "run.json").read_text())["overrides"] == [
        f"--config={folder.relative_to(tmp_path)}/config.yaml"
    ]
    board = EventAccumulator(str(folder))
    board.Reload()
    losses = board.Scalars("val/loss")
    assert len({loss.step for loss in losses}) == len(losses), "what was logged before is there twice"
    found = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_a_run_killed_after_its_best_checkpoint_and_before_one_to_go_on_from_starts_from_the_beginning(fit, tmp_path):
    assert fit("vae-digits", "--trainer.max_epochs", 1).returncode == 0
    folder = tmp_path / "lightning_logs/vae-digits/version_0"
    expected = (folder / "checkpoints/last.ckpt").read_bytes()
    for file in ("checkpoints/last.ckpt", "run.json"):
        (folder / file).unlink()
    done = fit("vae-digits", "--resume")
    assert done.returncode == 0 and "starts from the beginning" in done.stdout
    (tmp_path / "expected.ckpt").write_bytes(expected)
    expected, found = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (tmp_path / "expected.ckpt", folder / "checkpoints/last.ckpt")
    )
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_resuming_takes_the_newest_run_though_an_older_one_got_further(fit, tmp_path):
    for seed in (0, 1):
        assert fit("vae-digits", "--trainer.max_epochs", 1, "--seed", seed).returncode == 0
    folder = tmp_path / "lightning_logs/vae-digits/version_1"
    expected = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    assert "version_1 has no checkpoint: taking" in fit("test", "vae-digits").stdout  # what is measured is what can be
    done = fit("vae-digits", "--resume")
    assert done.returncode == 0, done.stderr
    assert "version_1 was stopped before its first checkpoint" in done.stdout
    found = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


FAULTS = """
import ctypes, resource, sys
from dlkit.processes import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use(size):
    block = ctypes.create_string_buffer(size)  # cleared, hence written to
    ctypes.memset(block, 1, size)

if sys.argv[1] == "kept":
    keep_freed_memory()
    keep_freed_memory()
for size in (1 << 20, 12 << 20, 10 << 20):
    use(size)
    before = faults()
    for _ in range(4):
        use(size)
    print((faults() - before) * resource.getpagesize() / (4 * size))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep what is freed")
def test_freed_memory_is_used_again_without_faults_once_the_process_keeps_it():
    def shares(word: str, **environment: str) -> list[float]:
        ours = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES" and "MALLOC_" not in name}
        command = [sys.executable, "-c", FAULTS, word]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**ours, **environment})
        return [float(share) for share in done.stdout.split()]

    assert max(shares("given back")) > 0.1 or huge_pages(), "nothing is to be gained here"
    assert max(shares("kept")) < 0.05
    # somebody who has set glibc's limits meant it
    assert max(shares("kept", MALLOC_MMAP_THRESHOLD_="65536")) > 0.1 or huge_pages()


def huge_pages() -> bool:
    """Whether the system hands out memory in pages so large that faults hardly count."""
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return file.is_file() and "[always]" in file.read_text()
