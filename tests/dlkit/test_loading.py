"""Checkpoints that are another method's, damaged, or would run code."""

from __future__ import annotations

import pytest
import torch
from training import trainer

import dlkit
from datamodules import Digits
from dlkit.loading import parameters


def save(method, path):
    """Trains for a step, and saves a checkpoint."""
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(method, datamodule=Digits())
    run.save_checkpoint(path, weights_only=False)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    """The path of one, of a linear Autoencoder."""
    return save(dlkit.Autoencoder((1, 8, 8), 2, "linear"), tmp_path / "a.ckpt")


def test_a_checkpoint_of_another_method_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"checkpoint of dlkit\.autoencoders.*Autoencoder, not of VAE: .*dlkit\.load"):
        dlkit.VAE.load_from_checkpoint(checkpoint)


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"a\.ckpt holds another network than Autoencoder builds: leave out latent_dim"):
        dlkit.Autoencoder.load_from_checkpoint(checkpoint, latent_dim=3)
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"] = {f"old.{name}": value for name, value in saved["state_dict"].items()}
    torch.save(saved, checkpoint)
    with pytest.raises(ValueError, match=r"holds another network than Autoencoder builds: go back to the code that wrote it"):
        dlkit.load(checkpoint)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_tries_to_run_code_is_refused(tmp_path):
    torch.save({"dlkit": {"method": "dlkit.autoencoders.vae.VAE"}, "evil": RunsCode(tmp_path / "ran")}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="could run code"):
        dlkit.load(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="could run code"):
        dlkit.VAE.load_from_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


def test_damaged_foreign_and_missing_checkpoints_are_refused(checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    (tmp_path / "short.ckpt").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for name in ("short", "text", "foreign"):
        with pytest.raises(ValueError, match=rf"{name}\.ckpt"):
            dlkit.load(tmp_path / f"{name}.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.ckpt"):
        dlkit.load(tmp_path / "none.ckpt")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("hyper_parameters", "data_shape", None),
        ("hyper_parameters", "latent_dim", "8"),
        (None, "latent_density", "dense"),
        (None, "pytorch-lightning_version", None),
    ],
)
def test_a_checkpoint_that_was_edited_is_refused_with_what_is_wrong(checkpoint, part, name, value):
    saved = torch.load(checkpoint, weights_only=True)
    edited = saved[part] if part else saved
    edited.pop(name)
    if value is not None:
        edited[name] = value
    torch.save(saved, checkpoint)
    with pytest.raises(ValueError, match=r"a\.ckpt lacks something that Autoencoder is built from, .*: restore it"):
        dlkit.load(checkpoint)


class Mistaken(dlkit.Autoencoder):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = self.nothing


class Mixed:
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)


class MixedIn(Mixed, dlkit.Autoencoder):
    pass


def test_the_parameters_of_a_class_are_those_that_it_can_be_built_with():
    own = set(parameters(dlkit.Autoencoder))
    assert "latent_dim" in own and not {"self", "kwargs"} & own
    assert set(parameters(MixedIn)) == own | {"scale"} == set(parameters(Scaled))
    assert set(parameters(Mixed)) == {"scale", "kwargs"}  # of which nobody knows where they go
    assert set(parameters(lambda a, *, b=1: None)) == {"a", "b"}
    assert not parameters(type("Empty", (), {}))


class Scaled(dlkit.Autoencoder):
    def __init__(self, *args, scale=1.0, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_subclass_that_passes_its_settings_on_is_loaded_with_another(tmp_path):
    path = save(Scaled(data_shape=(1, 8, 8), latent_dim=2), tmp_path / "b.ckpt")
    loaded = Scaled.load_from_checkpoint(path, learning_rate=0.5, scale=2.0)
    assert (loaded.learning_rate, loaded.latent_dim) == (0.5, 2)
    with pytest.raises(ValueError, match="Scaled has no hyperparameter 'rate'"):
        Scaled.load_from_checkpoint(path, rate=0.5)


def test_a_mistake_in_a_class_of_one_s_own_is_not_the_file_s(checkpoint):
    with pytest.raises(AttributeError, match="'Mistaken' object has no attribute 'nothing'"):
        Mistaken.load_from_checkpoint(checkpoint)


def test_a_checkpoint_names_no_module_to_import(tmp_path):
    mark = {"version": "0", "method": "os.path.VAE"}
    torch.save({"dlkit": mark, "state_dict": {}, "hyper_parameters": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"os\.path\.VAE, not one of dlkit's"):
        dlkit.load(tmp_path / "a.ckpt")
