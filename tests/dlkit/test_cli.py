"""The command line as a user meets it, in a subprocess."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import FIT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlkit
from dlkit.cli import class_fields, headline, recipes

QUICK = ("--trainer.max_epochs", 2, "--trainer.check_val_every_n_epoch", 1, "--trainer.log_every_n_steps", 5)


def events(folder):
    board = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    board.Reload()
    return board


def test_without_arguments_it_lists_every_recipe_with_its_time(fit):
    listed = fit().stdout
    for name, path in recipes().items():
        what, time = headline(path)
        assert f"  {name} " in listed
        assert what in listed
        assert time.endswith(("seconds", "minutes")), path


@pytest.mark.parametrize("arguments", [(), ("--help",), ("vae-digits", "--help"), ("vae-digitz",)])
def test_listing_and_help_and_typos_are_answered_without_torch(fit, tmp_path, arguments):
    script = tmp_path / "without_torch.py"
    script.write_text(
        "import sys\n"
        "for name in ('torch', 'lightning', 'matplotlib', 'sklearn', 'torch_geometric'):\n"
        "    sys.modules[name] = None\n"
        "from dlkit.cli import main\n"
        "sys.exit(main())\n"
    )
    answer = fit(*arguments, script=script)
    assert answer.returncode == (2 if arguments == ("vae-digitz",) else 0), answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_help_of_a_recipe_names_every_field(fit):
    shown = fit("vae-digits", "--help").stdout
    for field in class_fields("dlkit.VAE"):
        assert f"--model.{field}:" in shown
    assert "--data.binarize:" in shown


def test_lightnings_profiler_can_be_asked_for(fit):
    done = fit("vae-digits", "--trainer.fast_dev_run", "true", "--trainer.profiler", "simple")
    assert done.returncode == 0, done.stderr
    assert "run_training_batch" in done.stdout + done.stderr


def test_a_run_leaves_curves_hparams_pictures_configuration_and_checkpoints(fit, tmp_path):
    done = fit("vae-digits", *QUICK, "--seed", 3, "--model.latent_dim", 3)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lightning_logs" / "vae-digits" / "version_0"
    assert "lightning_logs/vae-digits/version_0" in done.stdout
    board = events(folder)
    tags = board.Tags()
    for name in ("loss", "reconstruction", "kl"):
        assert {f"train/{name}", f"val/{name}"} <= set(tags["scalars"])
        assert len(board.Scalars(f"val/{name}")) == 2
    assert {"train/learning_rate", "train/examples_per_second", "val/active_units"} <= set(tags["scalars"])
    assert len(board.Scalars("train/loss")) == 2 * 18 // 5
    assert {"_hparams_/experiment", "custom_scalars__config__"} <= set(tags["tensors"]) | set(board.summary_metadata), tags[
        "tensors"
    ]
    assert {
        "reconstruction/input_above_output", "samples/from_fixed_latents", "interpolations/from_left_to_right",
        "traversals/one_dimension_a_row", "latent_space", "kl_per_dimension",
    } == set(tags["images"])  # fmt: skip
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["seed_everything"] == 3
    assert config["trainer"]["devices"] == 1  # however many there are
    assert config["model"]["init_args"]["latent_dim"] == 3
    record = json.loads((folder / "run.json").read_text())
    assert (record["recipe"], record["seed"], record["steps"], record["epochs"]) == ("vae-digits", 3, 36, 2)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    method = dlkit.load(folder / "checkpoints" / "best.ckpt")
    assert method.sample(4).shape == (4, 1, 8, 8)
    assert not method.training


def test_a_run_shorter_than_the_interval_of_validation_is_validated_at_its_end(fit, tmp_path):
    done = fit("vae-digits", "--trainer.max_epochs", 2)
    assert done.returncode == 0
    assert "epoch 2/2: 100%" in done.stderr.splitlines()[-1].rpartition("\r")[2]
    folder = tmp_path / "lightning_logs" / "vae-digits" / "version_0"
    assert len(events(folder).Scalars("val/loss")) == 1
    assert (folder / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("end", "steps"), [(("--trainer.max_epochs", 7), [90, 126]), (("--trainer.max_steps", 20), [20])], ids=["epochs", "steps"]
)
def test_the_end_of_a_run_is_validated_and_drawn_between_two_intervals(fit, tmp_path, end, steps):
    assert fit("vae-digits", *end).returncode == 0
    folder = tmp_path / "lightning_logs" / "vae-digits" / "version_0"
    found = events(folder)
    assert len(found.Scalars("val/loss")) == len(steps)
    assert [picture.step for picture in found.Images("samples/from_fixed_latents")][-1] == steps[-1] - 1  # counted from 0
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == steps[-1]


@pytest.mark.parametrize("interval", [5, 25])
def test_the_end_of_a_run_is_validated_where_validation_is_counted_in_steps(fit, tmp_path, interval):
    counted = ("--trainer.val_check_interval", interval, "--trainer.check_val_every_n_epoch", "null")
    assert fit("vae-digits", "--trainer.max_epochs", 1, *counted).returncode == 0
    steps = [scalar.step for scalar in events(tmp_path / "lightning_logs/vae-digits/version_0").Scalars("val/loss")]
    assert steps == [*range(interval - 1, 17, interval), 17]  # counted from 0


def test_runs_that_log_nothing_have_folders_of_their_own_and_are_resumed(fit, tmp_path):
    for _ in range(2):
        assert fit("vae-digits", "--trainer.max_epochs", 1, "--trainer.logger", "false").returncode == 0
    runs = tmp_path / "lightning_logs" / "vae-digits"
    files = ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "run.json"]
    for version in ("version_0", "version_1"):
        assert sorted(str(path.relative_to(runs / version)) for path in (runs / version).rglob("*.*")) == files
    assert fit("vae-digits", "--resume", "--trainer.max_epochs", 2).returncode == 0
    assert json.loads((runs / "version_1" / "run.json").read_text())["epochs"] == 2
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_has_lost_a_file_is_not_resumed_as_another_run(fit, tmp_path):
    assert fit("vae-digits", "--trainer.max_epochs", 1).returncode == 0
    run = tmp_path / "lightning_logs" / "vae-digits" / "version_0"
    lost = {"checkpoints/last.ckpt": "has no last.ckpt to go on from", "config.yaml": "has lost its config.yaml"}
    for file, sentence in lost.items():
        content = (run / file).read_bytes()
        (run / file).unlink()
        done = fit("vae-digits", "--resume", "--trainer.max_epochs", 2)
        assert done.returncode == 2 and sentence in done.stderr
        (run / file).write_bytes(content)
    assert fit("vae-digits", "--resume", "--trainer.max_epochs", 2).returncode == 0


def test_a_run_that_ended_by_epochs_before_its_steps_says_so_on_resuming(fit):
    limits = ("--trainer.max_epochs", 1, "--trainer.max_steps", 30)  # of eighteen an epoch
    assert fit("vae-digits", *limits).returncode == 0
    done = fit("vae-digits", "--resume", *limits)
    assert done.returncode == 0 and "finished already: give more --trainer.max_epochs" in done.stdout
    assert fit("vae-digits", "--resume", "--trainer.max_epochs", 2, "--trainer.max_steps", 30).returncode == 0


def test_a_run_that_ended_by_time_says_so_on_resuming(fit):
    assert fit("vae-digits", "--trainer.max_time", "00:00:00:01").returncode == 0
    assert "finished already: give more --trainer.max_time" in fit("vae-digits", "--resume").stdout


def test_a_run_that_stopped_early_says_so_on_resuming(fit):
    stopping = "{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 1, min_delta: 1.0e+6}}"
    done = fit("vae-digits", "--trainer.check_val_every_n_epoch", 1, "--trainer.callbacks", f"[{stopping}]")
    assert done.returncode == 0, done.stderr
    assert "epoch 2/" in done.stderr.splitlines()[-1].rpartition("\r")[2]
    again = fit("vae-digits", "--resume")
    assert again.returncode == 0 and "finished already: leave EarlyStopping out of trainer.callbacks" in again.stdout
    assert fit("vae-digits", "--resume", "--trainer.min_epochs", 3).returncode == 0  # it was not to stop so early
    done = fit("vae-digits", "--resume", "--trainer.callbacks", "null", "--trainer.max_epochs", 4)
    assert done.returncode == 0 and "finished:" in done.stdout, done.stderr


FALLING_AFTER_A_RISE = """
import os, signal
import lightning as L

class Own(L.Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/own", [10.0, 11.0, 9.0, 8.0, 7.0, 6.0][trainer.current_epoch])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == int(os.environ.get("KILLED", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_to_stop_early_after_so_many_epochs_does_so_though_it_was_killed(fit, tmp_path):
    (tmp_path / "mine.py").write_text(FALLING_AFTER_A_RISE)
    callbacks = "[mine.Own, {class_path: EarlyStopping, init_args: {monitor: val/own, patience: 1}}]"
    limits = ("--trainer.min_epochs", 4, "--trainer.max_epochs", 6, "--trainer.check_val_every_n_epoch", 1)
    settings = (*limits, "--checkpoint.every_n_seconds", 0, "--trainer.callbacks", callbacks)
    assert fit("vae-digits", *settings).returncode == 0
    assert (
        fit("vae-digits", *settings, KILLED="50").returncode == -9
    )  # in the third of four epochs, asked to stop in the second
    assert fit("vae-digits", "--resume").returncode == 0
    whole, resumed = (
        torch.load(tmp_path / f"lightning_logs/vae-digits/version_{version}/checkpoints/last.ckpt", weights_only=True)
        for version in (0, 1)
    )
    assert whole["global_step"] == resumed["global_step"] == 4 * 18
    assert all(torch.equal(value, resumed["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert "finished already: leave EarlyStopping out of trainer.callbacks" in fit("vae-digits", "--resume").stdout


def test_a_run_with_a_callback_of_lightning_s_that_takes_a_device_is_resumed(fit, tmp_path):
    averaging = {"class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging", "init_args": {"swa_lrs": 0.01}}
    recipe = yaml.safe_load(recipes()["vae-digits"].read_text())
    recipe["trainer"] |= {"callbacks": [averaging], "max_epochs": 2}
    (tmp_path / "averaged.yaml").write_text(yaml.safe_dump(recipe))
    assert fit("--config", "averaged.yaml").returncode == 0
    done = fit("--config", "averaged.yaml", "--resume", "--trainer.max_epochs", 3)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_is_tested_as_it_was_trained_from_wherever_it_is_named(fit, tmp_path):
    assert fit("vae-digits", "--data.binarize", "none", *QUICK).returncode == 0
    run = tmp_path / "lightning_logs/vae-digits/version_0"
    expected = fit("test", "vae-digits").stdout.splitlines()[1:]
    script = FIT.with_name("evaluate.py")
    for done in (
        fit("test", "vae-digits", "--ckpt_path", "best.ckpt", folder=run / "checkpoints"),
        fit("best.ckpt", script=script, folder=run / "checkpoints"),
    ):
        assert done.returncode == 0 and done.stdout.splitlines()[-len(expected) :] == expected, done.stderr
    assert json.loads((run / "test.json").read_text())["overrides"] == ["--ckpt_path=best.ckpt"]
    (tmp_path / "kept").mkdir()
    shutil.copy(run / "checkpoints/best.ckpt", tmp_path / "kept/best.ckpt")
    done = fit("test", "vae-digits", "--ckpt_path", "kept/best.ckpt")
    assert "kept/best.ckpt lies in no run's folder" in done.stdout and "taking those of vae-digits.yaml" in done.stdout
    assert (tmp_path / "kept/test.json").is_file() and not (tmp_path / "test.json").exists()


def test_a_compiled_run_says_so(fit, tmp_path):
    assert fit("vae-digits", "--compile", *QUICK, TORCH_COMPILE_DISABLE="1").returncode == 0
    record = json.loads((tmp_path / "lightning_logs/vae-digits/version_0/run.json").read_text())
    assert record["overrides"][-1] == "--compile"


def test_fields_may_stand_before_their_class(fit, tmp_path):
    fields = ("--model.latent_dim", 3, "--data.batch_size", 90)
    done = fit("vae-digits", *fields, "--model", "dlkit.Autoencoder", "--data=datamodules.Digits", *QUICK)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "lightning_logs/vae-digits/version_0/config.yaml").read_text())
    assert config["model"]["class_path"].endswith("Autoencoder") and config["model"]["init_args"]["latent_dim"] == 3
    assert config["data"]["init_args"]["batch_size"] == 90


def test_a_run_without_validation_has_its_hyperparameters_in_tensorboard(fit, tmp_path):
    done = fit("linear-autoencoder-digits", "--trainer.max_epochs", 1, "--data.val_size", 0)
    assert done.returncode == 0 and "no validation ran: there is no best.ckpt, and no pictures" in done.stdout
    found = events(tmp_path / "lightning_logs" / "linear-autoencoder-digits" / "version_0")
    assert "_hparams_/session_start_info" in found.summary_metadata


def test_a_finished_run_says_so_on_resuming_and_goes_on_when_it_is_given_more_epochs(fit, tmp_path):
    assert fit("vae-digits", "--trainer.max_epochs", 1).returncode == 0
    again = fit("vae-digits", "--resume")
    assert again.returncode == 0
    assert "finished already: give more --trainer.max_epochs" in again.stdout
    assert fit("vae-digits", "--resume", "--trainer.max_epochs", 2).returncode == 0
    record = json.loads((tmp_path / "lightning_logs/vae-digits/version_0/run.json").read_text())
    assert record["epochs"] == 2


def test_the_newest_checkpoint_is_tested_and_the_result_kept(fit, tmp_path):
    assert fit("denoising-digits", *QUICK).returncode == 0
    tested = fit("test", "denoising-digits")
    assert tested.returncode == 0, tested.stderr
    metrics = json.loads((tmp_path / "lightning_logs/denoising-digits/version_0/test.json").read_text())["metrics"]
    assert {"test/loss", "test/mse", "wiener_mse"} <= set(metrics)
    assert f"{metrics['test/mse']:.6g}" in tested.stdout
    assert fit("test", "denoising-digits", "--trainer.fast_dev_run").returncode == 0  # of a batch, and not kept
    kept = tmp_path / "lightning_logs/denoising-digits/version_0/test.json"
    assert json.loads(kept.read_text()) == {"split": "test", "overrides": [], "metrics": metrics}
    last = f"--ckpt_path={kept.parent / 'checkpoints/last.ckpt'}"
    assert fit("test", "denoising-digits", last).returncode == 0
    assert json.loads(kept.read_text())["overrides"] == [last]
    other = fit("test", "denoising-digits", "--model.latent_dim", 5)
    assert other.returncode == 1
    assert "holds another network than the one that was built: leave out --model.latent_dim" in other.stderr
    assert "Traceback" not in other.stderr
    assert not (tmp_path / "lightning_logs/denoising-digits/version_1").exists()


def test_a_recipe_is_copied_edited_and_run(fit, tmp_path):
    assert fit("cp", "classifier-digits", "my.yaml").returncode == 0
    text = (tmp_path / "my.yaml").read_text().replace("max_epochs: 100", "max_epochs: 1")
    (tmp_path / "my.yaml").write_text(text.replace("check_val_every_n_epoch: 5", "check_val_every_n_epoch: 1"))
    assert fit("--config", "my.yaml").returncode == 0
    assert (tmp_path / "lightning_logs/my/version_0/checkpoints/last.ckpt").is_file()
    assert json.loads((tmp_path / "lightning_logs/my/version_0/run.json").read_text())["overrides"] == ["--config=my.yaml"]
    again = fit("cp", "classifier-digits", "my.yaml")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("recipe", "line", "instead", "said"),
    [
        ("vae-digits", "dlkit.VAE\n", "dlkit.VAE\n  latent_dim: 2\n", "model.latent_dim stands beside class_path"),
        ("gan-ring", "dlkit.callbacks.GANLab", "dlkit.callbacks.GanLab", "the class dlkit.callbacks.GanLab cannot be imported"),
        ("gan-ring", "num_samples: ", "num_sample: ", "Quality has no setting num_sample\ndid you mean num_samples?"),
    ],
)
def test_a_mistake_in_a_file_is_named(fit, tmp_path, recipe, line, instead, said):
    text = recipes()[recipe].read_text()
    assert line in text
    (tmp_path / "my.yaml").write_text(text.replace(line, instead))
    done = fit("--config", "my.yaml")
    assert done.returncode == 2
    assert said in done.stderr


def test_callbacks_of_lightning_and_of_ones_own_are_left_to_the_parser(fit, tmp_path):
    (tmp_path / "own.py").write_text(
        "from lightning.pytorch.callbacks import EarlyStopping\n"
        "class Mine(EarlyStopping):\n"
        "    def __init__(self, extra: int = 1, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
    )
    entries = [
        {"class_path": "own.Mine", "init_args": {"monitor": "val/loss"}},
        {"class_path": "EarlyStopping", "init_args": {"monitor": "val/kl"}},
    ]
    config = yaml.safe_load(recipes()["vae-digits"].read_text())
    config["trainer"]["callbacks"] = entries
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    done = fit("--config", "my.yaml", *QUICK)
    assert done.returncode == 0, done.stderr


def test_a_method_of_the_users_own_is_trained_by_name(fit, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dlkit\n"
        "class MyVAE(dlkit.VAE):\n"
        "    def loss(self, batch):\n"
        "        loss, terms = super().loss(batch)\n"
        "        return 2 * loss, {**terms, 'doubled': 2 * loss}\n"
    )
    done = fit("vae-digits", "--model", "mine.MyVAE", "--model.latent_dim", 2, *QUICK)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lightning_logs" / "vae-digits" / "version_0"
    assert "val/doubled" in events(folder).Tags()["scalars"]
    with pytest.raises(ValueError, match=r"mine\.MyVAE.*MyVAE\.load_from_checkpoint"):
        dlkit.load(folder / "checkpoints" / "last.ckpt")


def test_the_network_is_compiled_on_request(fit, tmp_path):
    done = fit("vae-digits", "--compile", "--trainer.max_steps", 2, "--trainer.max_epochs", 1, TORCH_COMPILE_DISABLE="0")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt"
    assert not any("_orig_mod" in name for name in torch.load(path, weights_only=True)["state_dict"])
    assert dlkit.load(path).sample(2).shape == (2, 1, 8, 8)


MISTAKES = {
    "unknown recipe": (("vae-digts",), 2, "no recipe 'vae-digts'", "did you mean vae-digits?"),
    "unknown field": (("vae-digits", "--model.latnt_dim", "3"), 2, "--model.latnt_dim", "--model.latent_dim?"),
    "prefix of a field": (("vae-digits", "--trainer.max_epoch", "3"), 2, "--trainer.max_epoch", "--trainer.max_epochs?"),
    "unknown section": (("vae-digits", "--modle.latent_dim", "3"), 2, "--modle.latent_dim", "--model.latent_dim?"),
    "wrong kind of value": (("vae-digits", "--model.latent_dim", "x"), 2, "--model.latent_dim cannot be x", "int"),
    "wrong choice": (("vae-digits", "--model.network", "foo"), 2, "--model.network cannot be foo", "'conv'"),
    "wrong kind in a union": (("gaussian-vae-digits", "--model.sigma", "big"), 2, "--model.sigma cannot be big", "float"),
    "a linked field": (("vae-digits", "--model.data_shape", "[3]"), 2, "taken from the data", "--data"),
    "data of another kind": (("vae-digits", "--data", "datamodules.NoData"), 1, "which NoData does not", "other data"),
    "no such file": (("--config", "nope.yaml"), 2, "no file nope.yaml", "--config"),
    "no such class": (("vae-digits", "--model", "dlkit.VEA"), 2, "dlkit.VEA", "package.module.Class"),
    "a class of another kind": (("vae-digits", "--model", "datamodules.Digits"), 2, "datamodules.Digits", "Method"),
    "nothing to resume": (("vae-digits", "--resume"), 2, "no run of vae-digits", "train one first"),
    "a range that a method refuses": (("gaussian-vae-digits", "--model.sigma=-1"), 1, "sigma=-1", "positive"),
    "a class without its name": (("vae-digits", "--model"), 2, "--model needs a class", "dlkit.VAE"),
    "another model on resuming": (
        ("vae-digits", "--resume", "--model.latent_dim", "5"), 2, "--model.latent_dim cannot change", "--resume"
    ),
    "nothing to test": (("test", "vae-digits"), 2, "no run of vae-digits", "train one first"),
    "batches of another kind": (
        ("nbody-egnn", "--data", "datamodules.Digits"), 1, "InteractionNetwork learns from batches of Particles", "Examples"
    ),
    "an accelerator that is not there": (("vae-digits", "--trainer.accelerator", "tpu"), 1, "torch_xla", "pip install"),
    "a negative seed": (("vae-digits", "--seed", "-1"), 1, "--seed -1", "give 0 to 4294967295"),
    "a file without --config": (("my.yaml",), 2, "there is no recipe 'my.yaml'", "--config my.yaml"),
    "a checkpoint for a recipe": (("test", "a/best.ckpt"), 2, "there is no recipe", "--ckpt_path a/best.ckpt"),
    "a single class": (
        ("classifier-digits", "--data", "flat.One"), 1, "num_classes=1", "at least 2 classes"
    ),
    "nothing but training": (("vae-digits", "--trainer.barebones", "true"), 1, "--trainer.barebones true", "leave it out"),
    "no checkpoints": (("vae-digits", "--trainer.enable_checkpointing", "false"), 1, "enable_checkpointing", "leave it out"),
    "another folder": (("vae-digits", "--trainer.default_root_dir", "x"), 1, "default_root_dir", "lightning_logs/"),
    "a missing value of a field": (
        ("vae-digits", "--model.latent_dim", "--data.batch_size", "9"), 2, "--model.latent_dim needs a value", "after it"
    ),
    "a seed for a test": (("test", "vae-digits", "--seed", "1"), 2, "--seed says how to train", "leave it out"),
    "a test that is to be compiled": (("test", "vae-digits", "--compile"), 2, "--compile says how to train", "leave it out"),
    "a missing value": (("vae-digits", "--seed"), 2, "--seed_everything", "expected one argument"),
    "data that is too small": (("vae-digits", "--data.val_size", "5000"), 1, "val_size=5000", "lower it"),
    "missing data": (("classifier-mnist", "--data.root", "nowhere"), 1, "nowhere/mnist", "DLKIT_DATA"),
    "a network for other data": (("vae-digits", "--data", "flat.Flat", "--model.network", "conv"), 1, "conv", "mlp"),
    "options that exclude each other": (
        ("iwae-mnist", "--model.beta", "2", "--data", "datamodules.Digits"), 1, "beta", "importance_samples"
    ),
    "a class without its package": (("vae-digits", "--model", "VAE"), 2, "class VAE", "dlkit.VAE"),
    "more processes than cores": (
        ("vae-digits", "--trainer.accelerator", "cpu", "--trainer.devices", "999"), 1, "devices 999", "cores"
    ),
    "fewer processes than one": (
        ("vae-digits", "--trainer.accelerator", "cpu", "--trainer.devices", "-2"), 1, "devices -2", "give a number from 1 to"
    ),
    "data for a method that draws its own": (
        ("lattice-free", "--data", "datamodules.Digits"), 1, "was given a batch of Examples", "datamodules.NoData"
    ),
    "no step of an optimizer": (
        ("vae-digits", "--trainer.accumulate_grad_batches", "0"), 1, "accumulate_grad_batches 0", "give at least 1"
    ),
    "a metric that is not recorded": (
        ("vae-digits", *QUICK, "--checkpoint.monitor", "val/los"), 1, "val/los", "val/loss"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_clear_sentence_and_no_traceback(fit, tmp_path, name):
    arguments, code, *parts = MISTAKES[name]
    (tmp_path / "flat.py").write_text(
        "import torch, datamodules\nfrom dlkit.batches import Examples\n"
        "class One(datamodules.Digits):\n    num_classes = property(lambda self: 1, lambda self, value: None)\n"
        "class Flat(datamodules.Digits):\n    data_shape = (64,)\n"
        "    def load(self):\n        return {k: v._replace(x=v.x.flatten(1)) for k, v in super().load().items()}\n"
    )
    answer = fit(*arguments)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    message = answer.stderr[answer.stderr.index("error: ") :]
    assert len(message.strip().splitlines()) <= 2, message
    for part in parts:
        assert part in message


def test_an_unknown_field_in_a_file_is_named(fit, tmp_path):
    fit("cp", "vae-digits", "my.yaml")
    (tmp_path / "my.yaml").write_text((tmp_path / "my.yaml").read_text().replace("latent_dim", "latent_dims"))
    answer = fit("--config", "my.yaml")
    assert answer.returncode == 2
    assert "--model.latent_dims" in answer.stderr
    assert "did you mean --model.latent_dim?" in answer.stderr


@pytest.mark.parametrize("text", ["model: [", "- a\n- b\n", "model: !!python/object/apply:os.system ['touch ran']\n"])
def test_a_file_that_is_no_recipe_is_refused_and_runs_nothing(fit, tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    answer = fit("--config", "bad.yaml")
    assert answer.returncode == 2
    assert "bad.yaml" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "ran").exists()


CALL = {"class_path": "os.system", "init_args": {"command": "touch ran"}}


@pytest.mark.parametrize(
    "callback",
    [
        {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": CALL}},
        {"class_path": "LambdaCallback", "init_args": {"on_fit_start": json.dumps(CALL)}},
        {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.abort"}},
        {"class_path": "LambdaCallback", "init_args": {"on_fit_start": "os.abort"}},
        {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.1, "avg_fn": CALL}},
        "one.yaml",
        "several.yaml",
    ],
    ids=[
        "a call",
        "a call in a text",
        "a function",
        "a function of a short name",
        "a call of another class",
        "a file in a list",
        "a file",
    ],
)
def test_no_file_has_a_function_called(fit, tmp_path, callback):
    config = yaml.safe_load(recipes()["vae-digits"].read_text())
    entry = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": CALL}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(entry))
    (tmp_path / "several.yaml").write_text(yaml.safe_dump([entry]))
    config["trainer"]["callbacks"] = callback if callback == "several.yaml" else [callback]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    answer = fit("--config", "bad.yaml", *QUICK)
    assert answer.returncode == 2
    assert ("cannot be" if str(callback).endswith(".yaml") else "a file that is opened runs no code") in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "ran").exists()
    if isinstance(callback, dict):
        config["trainer"]["callbacks"] = callback
        (tmp_path / "alone.yaml").write_text(yaml.safe_dump(config))
        assert "a file that is opened runs no code" in fit("--config", "alone.yaml", *QUICK).stderr


def test_a_second_file_is_refused_since_nobody_has_looked_at_it(fit, tmp_path):
    (tmp_path / "more.yaml").write_text("trainer: {max_epochs: 1}\n")
    options = ("--config", "more.yaml"), ("--config=more.yaml",), ("-c", "more.yaml"), ("-c=more.yaml",), ("-cmore.yaml",)
    for option in options:
        for first in (("vae-digits",), ("--config", "more.yaml")):
            answer = fit(*first, *option)
            assert answer.returncode == 2 and "--config names a second file beside" in answer.stderr


def test_one_callback_needs_no_list(fit):
    averaging = "{class_path: dlkit.callbacks.ExponentialMovingAverage, init_args: {decay: 0.9}}"
    assert fit("vae-digits", *QUICK, "--trainer.callbacks", averaging).returncode == 0


def test_a_section_that_is_no_section_is_named(fit, tmp_path):
    for line, named in (
        ("checkpoint: 3", "checkpoint is 3"),
        ("pictures: [1]", "pictures is [1]"),
        ("trainer: 3", "trainer is 3"),
    ):
        (tmp_path / "bad.yaml").write_text(f"model: dlkit.VAE\ndata: datamodules.Digits\n{line}\n")
        answer = fit("--config", "bad.yaml")
        assert answer.returncode == 2 and f"{named}, no section" in answer.stderr


def test_a_run_that_trains_nothing_says_so_and_is_not_the_one_to_resume(fit):
    assert fit("vae-digits", *QUICK).returncode == 0
    for limit in ("--trainer.limit_train_batches", "--trainer.max_epochs", "--trainer.max_steps"):
        answer = fit("vae-digits", limit, 0)
        assert answer.returncode == 1 and "not one step was trained" in answer.stderr
    assert "version_0" in fit("vae-digits", "--resume", "--trainer.max_epochs", 3).stdout
    answer = fit("test", "vae-digits", "--trainer.limit_test_batches", 0)
    assert (
        answer.returncode == 1 and "no examples of the test split: give --trainer.limit_test_batches above 0" in answer.stderr
    )


def test_more_memory_than_there_is_is_a_sentence_and_not_the_run_to_resume(fit):
    assert fit("vae-digits", *QUICK).returncode == 0
    answer = fit("vae-digits", "--model.importance_samples", 10**10)
    assert answer.returncode == 1 and "there is not enough memory: ask for less at once" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "version_0" in fit("vae-digits", "--resume", "--trainer.max_epochs", 3).stdout
    checkpoint = "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt"
    answer = fit(checkpoint, "--number", 10**12, script=FIT.with_name("sample.py"))
    assert answer.returncode == 1 and "there is not enough memory: ask for less at once" in answer.stderr


ENDLESS = """
import torch
from torch.utils.data import DataLoader, IterableDataset
from dlkit.batches import Examples
import lightning as L

class Stream(IterableDataset):
    def __iter__(self):
        return iter([Examples(torch.rand(8, 1, 8, 8))] * 3)

class Streamed(L.LightningDataModule):
    data_shape = (1, 8, 8)

    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=None)
"""


PLAIN = """
import lightning as L, torch
from torch.utils.data import DataLoader, TensorDataset
import dlkit

class Plain(L.LightningDataModule):
    data_shape = (1, 8, 8)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(64, 1, 8, 8)), batch_size=16)

    val_dataloader = test_dataloader = train_dataloader

class Two(Plain):
    def val_dataloader(self):
        return [self.train_dataloader()] * 2

class Wrong(dlkit.VAE):
    def loss(self, batch):
        return self.nothing

class Scaled(dlkit.VAE):
    def __init__(self, scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
"""


def test_plain_data_of_one_s_own_are_trained_on_and_tested_and_what_fails_is_not_resumed(fit, tmp_path):
    (tmp_path / "mine.py").write_text(PLAIN)
    assert fit("vae-digits", "--data", "mine.Plain", "--trainer.max_epochs", 2).returncode == 0
    done = fit("test", "vae-digits")
    assert done.returncode == 0 and "test/nll" in done.stdout
    assert "AttributeError" in fit("vae-digits", "--model", "mine.Wrong", "--trainer.max_epochs", 2).stderr
    assert "version_0" in fit("vae-digits", "--resume", "--trainer.max_epochs", 3).stdout  # not the one that cannot start
    answer = fit("vae-digits", "--data", "mine.Two", "--trainer.max_epochs", 2)
    assert answer.returncode == 1 and "multiple `val_dataloader`" in answer.stderr and "Traceback" not in answer.stderr


def test_a_subclass_may_pass_its_parents_settings_on(fit, tmp_path):
    (tmp_path / "mine.py").write_text(PLAIN)
    scaled = ("vae-digits", "--model", "mine.Scaled", "--model.scale", 2, "--model.latent_dim", 3)
    done = fit(*scaled, *QUICK)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "lightning_logs/vae-digits/version_0/config.yaml").read_text())
    assert config["model"]["init_args"]["latent_dim"] == 3
    assert "did you mean --model.latent_dim" in fit(*scaled, "--model.latent_dims", 3).stderr


def test_data_without_a_length_are_trained_on(fit, tmp_path):
    (tmp_path / "mine.py").write_text(ENDLESS)
    streamed = ("vae-digits", "--data", "mine.Streamed", "--trainer.max_epochs", 2)
    done = fit(*streamed, "--model.schedule", "constant")
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stderr
    done = fit(*streamed)
    assert done.returncode == 1 and "set trainer.max_steps, or trainer.max_epochs for data that has a length" in done.stderr


def test_a_checkpoint_of_another_method_or_without_its_parts_is_refused(fit, tmp_path):
    assert fit("denoising-digits", *QUICK).returncode == 0
    path = tmp_path / "lightning_logs/denoising-digits/version_0/checkpoints/last.ckpt"
    other = fit("test", "vae-digits", "--ckpt_path", path, "--model", "dlkit.VAE")
    assert other.returncode == 1
    assert "is a checkpoint of DenoisingAutoencoder and the recipe builds VAE" in other.stderr
    whole = torch.load(path, weights_only=True)
    for changed, said in (
        ({name: value for name, value in whole.items() if name != "loops"}, "lacks loops"),
        ({**whole, "state_dict": []}, "its state_dict is a list"),
        ({**whole, "optimizer_states": []}, "lacks optimizer_states"),
        ({**whole, "callbacks": {}}, "lacks callbacks"),
        ({**whole, "callbacks": {**whole["callbacks"], "RandomState": None}}, "lacks RandomState"),
    ):
        torch.save(changed, path)
        answer = fit("denoising-digits", "--resume")
        assert answer.returncode == 1
        assert said in answer.stderr and "Traceback" not in answer.stderr


def test_a_test_loss_that_is_not_finite_is_no_result(fit, tmp_path):
    (tmp_path / "holes.py").write_text(
        "import datamodules\n"
        "class Holes(datamodules.Digits):\n"
        "    def load(self):\n"
        "        found = super().load()\n"
        "        x = found['test'].x.float() / 255\n"
        "        x[0] = float('nan')\n"
        "        return {**found, 'test': found['test']._replace(x=x)}\n"
    )
    assert fit("autoencoder-digits", "--data", "holes.Holes", *QUICK).returncode == 0
    answer = fit("test", "autoencoder-digits")
    assert answer.returncode == 1
    assert "test/loss is nan: look for values in the data that are not finite" in answer.stderr
    assert not (tmp_path / "lightning_logs/autoencoder-digits/version_0/test.json").exists()


def test_what_changed_a_run_is_still_known_after_it_was_resumed(fit, tmp_path):
    assert fit("vae-digits", *QUICK).returncode == 0
    record = tmp_path / "lightning_logs/vae-digits/version_0/run.json"
    first = json.loads(record.read_text())["overrides"]
    longer = ["--trainer.max_epochs=3"]
    assert fit("vae-digits", "--resume", *longer).returncode == 0
    assert json.loads(record.read_text())["overrides"] == [*first, *longer]


@pytest.mark.parametrize("logging", [(), ("--trainer.logger", "false")], ids=["logging", "without a logger"])
def test_a_start_that_failed_is_no_run_to_resume(fit, tmp_path, logging):
    assert fit("vae-digits", *QUICK, *logging).returncode == 0
    assert fit("vae-digits", "--data.batch_size", 0, *logging).returncode == 1
    answer = fit("vae-digits", "--resume", "--trainer.max_epochs", 3)
    assert answer.returncode == 0, answer.stderr
    assert "finished: lightning_logs/vae-digits/version_0" in answer.stdout


def test_an_empty_section_and_a_wrong_early_stopping_are_named(fit, tmp_path):
    for settings, said in (("", "is empty"), ("[1]", "is [1], no section")):
        content = f"model:\n  class_path: dlkit.VAE\n  init_args: {settings}\ndata: datamodules.Digits\n"
        (tmp_path / "bad.yaml").write_text(content)
        answer = fit("--config", "bad.yaml")
        assert answer.returncode == 2
        assert f"model.init_args {said}" in answer.stderr
    for option, said in (
        ("monitor: val/los", "val/los"),
        ("monitor: train/loss, check_on_train_epoch_end: true", "log_every_n"),
    ):
        stopping = f"{{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {{{option}}}}}"
        answer = fit("vae-digits", "--trainer.max_epochs", 2, "--trainer.callbacks", f"[{stopping}]")
        assert answer.returncode == 1 and said in answer.stderr and "Traceback" not in answer.stderr


def test_importing_dlkit_imports_nothing_heavy():
    heavy = "('torch', 'lightning', 'matplotlib', 'sklearn', 'torch_geometric', 'rdkit')"
    code = f"import sys, dlkit, datamodules; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0
