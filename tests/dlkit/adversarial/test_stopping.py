"""Runs that go wrong: samples all alike, and losses that are not finite."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

import dlkit
from datamodules import Gaussians
from dlkit.callbacks import Checkpoints

from .players import METHODS, fit, trainer


def kept(root, name):
    return torch.load(next(root.rglob(f"{name}.ckpt")), weights_only=True)


def test_a_run_whose_samples_are_all_alike_stops_with_the_last_good_checkpoint_kept(tmp_path):
    class Collapsed(dlkit.GAN):
        def on_validation_start(self):
            if self.current_epoch == 1:
                for parameter in self.generator.trunk[-1].parameters():
                    parameter.data.zero_()

    method = Collapsed((2,), 2, hidden_dims=(16,))
    with pytest.raises(dlkit.CollapseError, match=r"all samples are alike at step 12 .*saved before is kept: use"):
        fit(
            method, 300, max_epochs=3, limit_val_batches=1.0, logger=CSVLogger(tmp_path), enable_checkpointing=True,
            callbacks=[Checkpoints(monitor=None)],
        )  # fmt: skip
    saved = kept(tmp_path, "best")
    assert saved["global_step"] == 6
    method.load_state_dict(saved["state_dict"])
    assert method.sample(64).std(0).mean() > 1e-2


def test_samples_of_the_average_alone_are_judged():
    class Collapsed(dlkit.GAN):
        def on_validation_start(self):
            for parameter in self.generator.parameters():
                parameter.data.zero_()

    fit(Collapsed((2,), 2, hidden_dims=(16,), ema_decay=0.99), limit_val_batches=1.0, limit_train_batches=2)
    with pytest.raises(dlkit.CollapseError):
        fit(Collapsed((2,), 2, hidden_dims=(16,)), limit_val_batches=1.0, limit_train_batches=2)


def test_a_last_batch_of_one_example_does_not_hide_a_collapse():
    class Collapsed(dlkit.GAN):
        def on_validation_start(self):
            for parameter in self.generator.parameters():
                parameter.data.zero_()

    data = Gaussians(num_examples=2000, val_size=129, batch_size=128)
    with pytest.raises(dlkit.CollapseError):
        trainer(max_epochs=1, limit_val_batches=1.0).fit(Collapsed((2,), 2, hidden_dims=(8,)), datamodule=data)


def test_a_run_resumed_from_samples_that_are_hardly_apart_knows_how_far_they_were(tmp_path):
    method = dlkit.GAN((2,), 2, hidden_dims=(8,))
    fit(method, default_root_dir=tmp_path, enable_checkpointing=True, callbacks=[Checkpoints(every_n_seconds=0)])
    path = next(tmp_path.rglob("last.ckpt"))
    assert dlkit.GAN.load_from_checkpoint(path).start_spread == method.start_spread > 0


class Broken(dlkit.GAN):
    """Its term `odd` turns NaN at a given step, in one player's loss."""

    def __init__(self, player, at):
        super().__init__((2,), 2, hidden_dims=(16,), critic_steps=2)
        self.player, self.at = player, at

    def odd(self, player, loss, terms):
        odd = loss * float("nan") if self.player == player and self.global_step == self.at else loss
        return loss + odd, {**terms, "odd": odd}

    def critic_loss(self, batch):
        return self.odd("critic", *super().critic_loss(batch))

    def generator_loss(self, batch):
        return self.odd("generator", *super().generator_loss(batch))


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_a_non_finite_loss_of_either_player_names_step_and_term_and_keeps_the_last_good_checkpoint(tmp_path, player):
    with pytest.raises(dlkit.NonFiniteError, match=r"term 'odd' .* at step 3: .*saved before is kept"):
        fit(
            Broken(player, 3), 300, logger=CSVLogger(tmp_path), enable_checkpointing=True,
            callbacks=[Checkpoints(monitor=None, every_n_seconds=0)],
        )  # fmt: skip
    saved = kept(tmp_path, "last")
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_an_infinite_step_size_stops_at_the_term_that_it_breaks():
    with pytest.raises(dlkit.NonFiniteError, match=r"term 'fake' of the loss is not finite at step 1"):
        fit(METHODS["gan"](learning_rate=float("inf"), critic_learning_rate=1e-4))
    with pytest.raises(dlkit.NonFiniteError, match=r"term '\w*loss' of the loss is not finite at step 0"):
        fit(METHODS["gan"](learning_rate=1e-4, critic_learning_rate=float("inf")))
