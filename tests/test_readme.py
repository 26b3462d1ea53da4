"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dlkit.cli import recipes

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.+?)```", README, re.DOTALL)


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) < 250


def test_every_recipe_that_the_readme_names_exists():
    named = set(re.findall(r"fit\.py (?:test |cp )?([a-z]+-[a-z-]+)", README))
    assert "vae-digits" in named
    assert named <= set(recipes())


@pytest.mark.filterwarnings("ignore:.*weights_only.*")
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use, loop, _ = BLOCKS
    names: dict = {}
    last = use.splitlines()[-1]
    assert last.startswith("trained = dlkit.load(")
    use = use.replace("max_epochs=50", "max_epochs=1, logger=False").replace(last, "")
    exec(use, names)
    exec(loop.replace("range(50)", "range(1)"), names)
    assert names["vae"].log_prob(names["x"], num_samples=5).shape == (len(names["x"]),)


def test_the_subclass_of_the_readme_trains_from_the_command_line(fit, tmp_path):
    (tmp_path / "mine.py").write_text(BLOCKS[2])
    command = re.search(r"fit\.py (vae-digits --model mine\.DeepVAE .+)$", BLOCKS[2], re.MULTILINE)
    assert command is not None
    done = fit(*command.group(1).split(), "--trainer.max_epochs", 1)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "lightning_logs/vae-digits/version_0/checkpoints/last.ckpt", weights_only=True)
    assert state["hyper_parameters"]["latent_dim"] == 8
    assert state["dlkit"]["method"] == "mine.DeepVAE"
    assert [len(value) for name, value in state["state_dict"].items() if re.match(r"encoder\..*weight", name)] == [
        256,
        256,
        256,
        16,
    ]


def test_a_folder_of_pictures_trains_as_the_readme_says(fit, tmp_path):
    from PIL import Image

    for number in range(12):
        pixels = torch.randint(0, 255, (80, 70, 3), dtype=torch.uint8).numpy()
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    command = re.search(r"fit\.py (vae-digits --data datamodules\.Images .+)$", README, re.MULTILINE)
    assert command is not None
    arguments = command.group(1).replace("~/pictures", "pictures").split()
    done = fit(*arguments, "--trainer.max_epochs", 1)
    assert done.returncode == 0, done.stderr
    tested = fit("test", "vae-digits")
    assert tested.returncode == 0, tested.stderr
    assert "baselines are left out: examples of 12288 elements" in tested.stdout
    few = [argument if argument != "64" else "16" for argument in arguments]  # small, and fewer than latent dimensions
    done = fit(*few, "--model.latent_dim", 16, "--trainer.max_epochs", 1)
    assert done.returncode == 0, done.stderr
    tested = fit("test", "vae-digits")
    assert tested.returncode == 0 and "test/nll" in tested.stdout and "pca" not in tested.stdout, tested.stderr
