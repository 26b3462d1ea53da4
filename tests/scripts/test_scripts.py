"""sample.py, evaluate.py, benchmark.py and results.py as a user meets them."""

from __future__ import annotations

import importlib
import io
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dlkit
from datamodules import Digits
from dlkit.evaluation import baselines, measures_of

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
QUICK = ("--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1)


def test_samples_are_written_as_a_picture_and_as_numbers(fit, tmp_path):
    assert fit("vae-digits", *QUICK).returncode == 0
    checkpoint = "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt"
    done = fit(checkpoint, "--number", 9, "--out", "out/a", "--seed", 1, script=SCRIPTS / "sample.py")
    assert done.returncode == 0, done.stderr
    x = np.load(tmp_path / "out" / "a.npz", allow_pickle=False)["x"]
    assert x.shape == (9, 1, 8, 8)
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.size == (3 * 44, 3 * 44)
    fit(checkpoint, "--number", 10, "--out", "out/c", script=SCRIPTS / "sample.py")
    with Image.open(tmp_path / "out" / "c.png") as picture:
        assert picture.size == (3 * 44, 4 * 44)  # the tenth is there
    fit(checkpoint, "--number", 9, "--out", "out/b", "--seed", 1, script=SCRIPTS / "sample.py")
    assert np.array_equal(x, np.load(tmp_path / "out" / "b.npz")["x"])
    refused = fit(checkpoint, "--labels", 3, script=SCRIPTS / "sample.py")
    assert refused.returncode == 1
    assert "unconditional" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_class_that_a_method_does_not_know_is_named(fit):
    assert (
        fit("conditional-flow-moons", *QUICK, "--trainer.limit_train_batches", 1, "--trainer.callbacks", "[]").returncode == 0
    )
    checkpoint = "lightning_logs/conditional-flow-moons/version_0/checkpoints/last.ckpt"
    refused = fit(checkpoint, "--labels", 0, 2, script=SCRIPTS / "sample.py")
    assert refused.returncode == 1
    assert f"--labels 2: {checkpoint} knows the classes 0 to 1, choose among them" in refused.stderr
    done = fit(checkpoint, "--labels", 0, 1, "--number", 4, script=SCRIPTS / "sample.py")
    assert done.returncode == 0, done.stderr


def test_an_autoencoder_is_given_a_density_to_sample_from(fit, tmp_path):
    assert fit("autoencoder-digits", *QUICK).returncode == 0
    checkpoint = "lightning_logs/autoencoder-digits/version_0/checkpoints/last.ckpt"
    for latents in ("gaussian", "mixture"):
        done = fit(checkpoint, "--latents", latents, "--number", 4, "--out", latents, script=SCRIPTS / "sample.py")
        assert done.returncode == 0, done.stderr
        assert np.load(tmp_path / f"{latents}.npz")["x"].shape == (4, 1, 8, 8)
    method = dlkit.load(tmp_path / checkpoint)
    method.latent_density = {"weights": torch.ones(1), "means": torch.ones(1, method.latent_dim)}
    method.latent_density["scales"] = torch.zeros(1, method.latent_dim, method.latent_dim)
    saver = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    saver.strategy.connect(method)
    saver.save_checkpoint(tmp_path / "kept.ckpt")
    done = fit("kept.ckpt", "--number", 4, "--out", "kept", script=SCRIPTS / "sample.py")
    assert done.returncode == 0, done.stderr
    expected = method.decode(torch.ones(4, method.latent_dim)).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "kept.npz")["x"], expected, rtol=1e-5)


def test_a_checkpoint_is_measured_beside_its_baseline(fit, tmp_path):
    assert fit("linear-autoencoder-digits", "--trainer.max_epochs", 3).returncode == 0
    checkpoint = "lightning_logs/linear-autoencoder-digits/version_0/checkpoints/last.ckpt"
    done = fit(checkpoint, "--json", "m.json", script=SCRIPTS / "evaluate.py")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert metrics["pca_mse"] == pytest.approx(0.0253, abs=1e-4)
    assert metrics["train_mse_relative_to_pca"] > 1
    assert "pca_mse" in done.stdout
    answer = fit(checkpoint, "--json", ".", script=SCRIPTS / "evaluate.py")
    assert answer.returncode == 1 and "--json .: that is a folder" in answer.stderr


def test_baselines_are_fitted_to_what_the_method_learns_from():
    """Binarised anew for each batch or once: the same distribution, and not that of the grey digits."""
    method = dlkit.DenoisingAutoencoder((1, 8, 8), 8)
    grey, once, anew = (baselines(method, Digits(binarize=kind))["wiener_mse"] for kind in ("none", "static", "dynamic"))
    assert anew == pytest.approx(once, rel=0.02)
    assert anew == baselines(method, Digits(binarize="dynamic"))["wiener_mse"]
    assert grey < 0.8 * anew


def test_what_a_run_measured_by_callbacks_is_measured_again(tmp_path):
    entries = [
        {"class_path": "dlkit.callbacks.Translations", "init_args": {"beam_size": 2}},
        {"class_path": "dlkit.callbacks.quality.Quality"},
        {"class_path": "dlkit.callbacks.SetPictures"},
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": entries}}))
    found = measures_of(tmp_path / "checkpoints" / "best.ckpt")
    assert [type(measure).__name__ for measure in found] == ["Translations", "Quality"]
    assert found[0].beam_size == 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": entries[1]}}))  # alone, in no list
    assert [type(measure).__name__ for measure in measures_of(tmp_path / "checkpoints" / "best.ckpt")] == ["Quality"]


@pytest.mark.parametrize("script", ["sample.py", "evaluate.py"])
def test_a_file_that_is_no_checkpoint_gets_one_sentence(fit, tmp_path, script):
    (tmp_path / "a.ckpt").write_text("hello")
    for path, reason in (("a.ckpt", "damaged or no checkpoint"), ("none.ckpt", "there is no checkpoint")):
        done = fit(path, script=SCRIPTS / script)
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def quick_benchmark(folder, section, sizes):
    """A script that is scripts/benchmark.py with a section's rivals smaller; its path."""
    script = folder / "benchmark.py"
    script.write_text(
        f"import runpy, sys\nsys.path[0] = {str(SCRIPTS)!r}\nfrom benchmarks import {section}\n{sizes}\n"
        f"runpy.run_path({str(SCRIPTS / 'benchmark.py')!r}, run_name='__main__')\n"
    )
    return script


def test_the_benchmark_measures_each_rival_in_turn_and_names_those_that_are_absent(fit, tmp_path):
    quick = ("--repeats", 2, "--steps", 1, "--threads", 1)
    script = quick_benchmark(tmp_path, "adversarial", "adversarial.BATCH_SIZE, adversarial.WIDTH = 4, 2")
    done = fit("adversarial", *quick, "--json", "rows.json", script=script)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    lines = done.stdout.splitlines()[2:]
    assert len(rows) == len(lines) == 9
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(row["name"])
        if row["ours"] is None:
            assert "torchgan is not installed: pip install --no-deps" in line
        else:
            assert row["ours"] > 0
            assert row["theirs"] > 0
            assert line.count(" a second (") == 2
    assert [row["unit"] for row in rows if "torchgan" not in row["name"]] == ["ms"] * 7


@pytest.mark.parametrize(("option", "value"), [("--threads", 0), ("--repeats", 1), ("--steps", 0)])
def test_the_benchmark_refuses_numbers_that_are_too_small(fit, option, value):
    done = fit("latent", option, value, script=SCRIPTS / "benchmark.py")
    assert done.returncode == 2
    assert f"{option} {value}: a " in done.stderr


def test_both_graph_networks_of_the_benchmark_give_the_same(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from benchmarks import graphs

    for kind in ("complete graphs", "bonds", "kinds of bonds"):
        batch = graphs.molecules(kind, 3)[0]
        assert graphs.difference_of_outputs(batch.edge_attr.shape[1], batch) < 1e-5


def test_flows_are_measured_against_each_library_and_those_that_are_absent_or_cannot_compile_are_named(fit, tmp_path):
    quick = ("--repeats", 2, "--steps", 1, "--threads", 1)
    written = ("--json", "rows.json", "--table", "a/speed.md")
    sizes = "flows.AFFINE = flows.SPLINE = flows.MAF = flows.Sizes(16, 2, 16)\nflows.DEPTHS, flows.WIDTHS = (2, 4), (16, 32)"
    script = quick_benchmark(tmp_path, "flows", sizes)
    done = fit("flows", *quick, *written, script=script, TORCH_COMPILE_DISABLE="1")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    table = (tmp_path / "a" / "speed.md").read_text().splitlines()
    assert ", threads not bound to cores: 1, medians of 2 turns." in table[2]
    assert [line.split(" | ")[0] for line in table[10:]] == [f"| {row['name']}" for row in rows]
    assert {line.count("|") for line in table[8:]} == {7}
    lines = done.stdout.splitlines()[2:]
    assert len(rows) == len(lines) == 2 * (3 + 1) + 2 * (4 + 1) + 2 * 2 + 1 + 2
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(row["name"])
        rival = row["name"].split()[-1]
        if rival == "compiled":
            assert "TORCH_COMPILE_DISABLE is 1" in line
        elif row["ours"] is None:
            assert "is not installed: pip install dlkit[bench]" in line
        else:
            assert row["ours"] > 0
            assert row["theirs"] > 0
    assert [row["value"].startswith("n^") for row in rows[-3:]] == [False, True, True]


def test_the_table_is_written_from_runs_and_an_untested_recipe_says_so(fit, tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "results.py", tmp_path / "scripts")
    (tmp_path / "README.md").write_text(
        "before\n<!-- results: written by scripts/results.py -->\na stale row\n<!-- end of results -->\nafter\n"
    )
    assert fit("denoising-digits", *QUICK, "--seed", 7).returncode == 0
    record = tmp_path / "lightning_logs/denoising-digits/version_0/run.json"
    assert "--trainer.max_epochs" in json.loads(record.read_text())["overrides"]
    script_of_a_changed_run = fit(script=tmp_path / "scripts" / "results.py")
    assert script_of_a_changed_run.returncode == 0
    assert "| `denoising-digits` | DenoisingAutoencoder | not run |" in (tmp_path / "README.md").read_text()
    record.write_text(json.dumps({**json.loads(record.read_text()), "overrides": []}))
    script = tmp_path / "scripts" / "results.py"
    assert fit("test", "denoising-digits", "--data.batch_size", 50).returncode == 0
    assert fit(script=script).returncode == 0  # of a changed test
    assert "| `denoising-digits` | DenoisingAutoencoder | not run |" in (tmp_path / "README.md").read_text()
    assert fit("test", "denoising-digits").returncode == 0
    assert fit(script=script).returncode == 0
    text = (tmp_path / "README.md").read_text()
    metrics = json.loads((tmp_path / "lightning_logs/denoising-digits/version_0/test.json").read_text())["metrics"]
    assert f"mse {metrics['test/mse']:.4g}" in text
    assert "| `vae-mnist` | VAE | not run |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "a stale row" not in text
    assert fit("--check", script=script).returncode == 0
    record = tmp_path / "scripts" / "results.json"
    kept = record.read_text()
    record.write_text(kept.replace('"seed": 7', '"seed": 6'))
    answer = fit(script=script)
    assert answer.returncode == 0 and "no finished and tested run here has its seed 6" in answer.stderr
    assert '"seed": 6' in record.read_text()
    record.write_text(kept)
    tested = tmp_path / "lightning_logs/denoising-digits/version_0/test.json"
    whole = tested.read_text()
    for content, said, code in (
        (whole.replace("test/mse", "test/mse_"), "the test of seed 7 lacks test/mse", 0),
        (whole[:99], "damaged", 1),
    ):
        tested.write_text(content)
        answer = fit(script=script)
        assert answer.returncode == code and said in answer.stderr
        assert (record.read_text(), (tmp_path / "README.md").read_text()) == (kept, text)
    tested.write_text(whole)
    (tmp_path / "README.md").write_text(text.replace("<!-- end of results -->", ""))
    answer = fit(script=script)
    assert answer.returncode == 1 and "put them back" in answer.stderr
    (tmp_path / "README.md").write_text(text.replace("not run", "89.0"))
    assert fit("--check", script=script).returncode == 1


def test_lines_are_translated_by_a_checkpoint_alone(fit, tmp_path, monkeypatch, capsys):
    assert fit("dates-translator", *QUICK, "--data.batch_size", 512).returncode == 0
    checkpoint = tmp_path / "lightning_logs/dates-translator/version_0/checkpoints/last.ckpt"
    moved = tmp_path / "a.ckpt"
    checkpoint.rename(moved)
    command = [sys.executable, str(SCRIPTS / "translate.py"), str(moved)]
    done = subprocess.run(command, input=b"7 may 1985\n\n8 may 1985\n", capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    first, empty, second = done.stdout.decode().splitlines()
    assert first and second and not empty

    def translate(text, *arguments):
        """The same in this process, which need not start again: exit code, output, errors."""
        monkeypatch.setattr(sys, "argv", [*command[1:], *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(command[1], run_name="__main__")
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = translate(b"7 may 1985\n", "--n-best", "3")
    best = out.splitlines()
    scores = [float(line.split("\t")[1]) for line in best]
    assert code == 0 and len(best) == 3 and scores == sorted(scores, reverse=True)
    assert best[0].split("\t")[::2] == ["1", first]
    for (code, _, errors), reason in (
        (translate(b"\xff\n"), "standard input is not UTF-8"),
        (translate(b"x\n", "--n-best", "9"), "--n-best 9: give 1 or more, and no more than --beam-size 5"),
        (translate(b"x\n", "--beam-size", "0", "--n-best", "1"), "no more than --beam-size 0"),
    ):
        assert code == 1
        assert reason in errors and "Traceback" not in errors


def test_palindromes_are_compared_from_tested_runs(fit, tmp_path, monkeypatch, capsys):
    done = fit(script=SCRIPTS / "palindromes.py")
    assert done.returncode == 1
    assert "there is no tested run of palindromes-rnn" in done.stderr

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPTS)
    palindromes = importlib.import_module("palindromes")
    monkeypatch.setattr(palindromes, "TARGET", tmp_path / "compared.png")
    for place, cell in enumerate(palindromes.CELLS):
        for seed in range(2):
            folder = tmp_path / "lightning_logs" / f"palindromes-{cell}" / f"version_{seed}"
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(json.dumps({"seed": seed, "seconds": 1, "epochs": 1, "overrides": []}))
            metrics = {f"test/accuracy_at_length_{length}": 0.7 + place / 10 + seed / 100 for length in range(1, 11)}
            (folder / "test.json").write_text(json.dumps({"metrics": metrics}))
    palindromes.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("rnn   2 runs  1: 0.705") and printed[2].startswith("lstm  2 runs  1: 0.905")
    assert (tmp_path / "compared.png").stat().st_size > 10_000
    assert list((tmp_path / "lightning_logs" / "palindromes-compared").glob("events*"))


def test_a_recipe_over_splits_is_recorded_and_what_is_recorded_is_not_run_again(fit, tmp_path):
    over = ("linear-autoencoder-digits", "seed=1..2", "trainer.max_epochs=1", "--table", "splits.md")
    half = fit(*over, "--share", "1/2", script=SCRIPTS / "splits.py")
    assert half.returncode == 0, half.stderr
    record = json.loads((tmp_path / "splits.json").read_text())
    assert list(record["linear-autoencoder-digits"]["runs"]) == ["seed=2 trainer.max_epochs=1"]
    runs = record["linear-autoencoder-digits"]["runs"]
    runs["seed=1 trainer.max_epochs=1"] = {
        "metrics": dict.fromkeys(runs["seed=2 trainer.max_epochs=1"]["metrics"], 0),
        "seconds": 3,
    }
    (tmp_path / "splits.json").write_text(json.dumps(record))
    whole = fit(*over, script=SCRIPTS / "splits.py")
    assert whole.returncode == 0, whole.stderr
    assert len(list(tmp_path.glob("splits/*/*/*"))) == 1
    assert "| seed 2, 1; trainer.max_epochs 1 | 2 |" in (tmp_path / "splits.md").read_text()
    other = fit(*over[:1], "seed=1", "trainer.max_epochs=2", *over[3:], script=SCRIPTS / "splits.py")
    assert other.returncode == 0, other.stderr
    # Other settings are another experiment, and its figures stand in a row of their own.
    assert "| seed 1, 2; trainer.max_epochs 1 | 2 |" in (tmp_path / "splits.md").read_text()
    assert "| seed 1; trainer.max_epochs 2 | 1 |" in (tmp_path / "splits.md").read_text()
    for field, reason in (("seed", "'seed' is no field with its values"), ("seed=3..1", "'3..1' is neither a range")):
        refused = fit("linear-autoencoder-digits", field, "--table", "splits.md", script=SCRIPTS / "splits.py")
        assert refused.returncode == 2 and reason in refused.stderr
