"""Methods of other data than examples, repeated by hand, resumed, saved, in half precision and in two processes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from training import Losses, trainer

import dlkit
from datamodules import Bags, ChargedParticles, CharText, CoNLLU, DigitSum, NoData, Palindromes, ParallelText, Rings
from datamodules.parallel_text import generate
from dlkit.callbacks import Checkpoints, RandomState

STEPS = 3


class FewPairs(ParallelText):
    """The first of the generated pairs of sentences."""

    @cached_property
    def texts(self):
        return {part: generate(1000, part) for part in ("train", "val", "test")}


DATA = {
    "classifier": lambda: Palindromes(num_examples=1000, val_size=100, batch_size=64),
    "tagger": lambda: CoNLLU(batch_size=64),
    "language-model": lambda: CharText(window=20, batch_size=16),
    "translator": lambda: FewPairs(batch_size=64),
    "bags": lambda: Bags(batch_size=16, validate=True),
    "sets": lambda: DigitSum(num_examples=1000, val_size=60, batch_size=64),
    "counts": lambda: DigitSum(num_examples=1000, val_size=60, batch_size=64),
    "graphs": lambda: Rings(rounds=3, num_examples=500, val_size=100, batch_size=64),
    "particles": lambda: ChargedParticles(num_train=200, num_val=20, num_test=20, start=3, steps=5, batch_size=20),
    "lattice": lambda: NoData(steps=6, batch_size=32, val_size=32),
}
METHODS = {
    "classifier": lambda data, **more: dlkit.SequenceClassifier(
        data.vocab_size, 2, embedding_dim=8, hidden_size=8, pooling="attention", bidirectional=True, **more
    ),
    "tagger": lambda data, **more: dlkit.SequenceTagger(
        data.vocab_size, data.num_tags, data.char_vocab_size, 8, 8, 8, hidden_size=8, **more
    ),
    "language-model": lambda data, **more: dlkit.LanguageModel(data.vocab_size, data.vocabulary, 8, hidden_size=8, **more),
    "translator": lambda data, **more: dlkit.Translator(
        data.source_vocab_size, data.target_vocab_size, data.source_vocabulary, data.target_vocabulary, embedding_dim=8,
        hidden_size=8, **more,
    ),
    "bags": lambda data, **more: dlkit.AttentionMIL(data.data_shape, embedding_dim=8, attention_dim=4, **more),
    "sets": lambda data, **more: dlkit.DeepSets((), data.vocab_size, 1, hidden_dims=(8, 8)),
    "counts": lambda data, **more: dlkit.AggregateSum((), data.num_values, data.vocab_size, hidden_dims=(8,)),
    "graphs": lambda data, **more: dlkit.MPNN(
        1, 0, num_classes=4, task="classification", rounds=3, hidden_size=8, virtual_node=True, **more
    ),
    "particles": lambda data, **more: dlkit.InteractionNetwork(hidden_size=8, num_layers=2),
    "lattice": lambda data, **more: dlkit.LatticeFlow((4, 4), num_layers=2, channels=(4,), schedule="constant"),
}  # fmt: skip
every_method = pytest.mark.parametrize("name", METHODS)
OF_SEQUENCES = [name for name in METHODS if name != "lattice"]


class Stop(L.Callback):
    """Raises after a given step, as a kill would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.step:
            raise KeyError("stopped")


def short_trainer(**more):
    return trainer(**{"limit_val_batches": 0, "max_steps": STEPS, **more})


@every_method
def test_a_raw_loop_and_the_trainer_give_the_same_losses(name):
    data, seen = DATA[name](), Losses()
    L.seed_everything(1, verbose=False)
    short_trainer(callbacks=[seen]).fit(METHODS[name](data, dropout=0.3), datamodule=data)

    L.seed_everything(1, verbose=False)
    method, raw = METHODS[name](data, dropout=0.3), []
    optimizer = method.configure_optimizers()
    for batch in data.loader("train", shuffle=True):
        batch = data.on_after_batch_transfer(batch, 0)
        loss = method.carry("train", batch) if name == "language-model" else method.loss(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        raw.append(loss.item())
        if len(raw) == STEPS:
            break
    assert raw == seen.values


@pytest.mark.parametrize("name", OF_SEQUENCES)
def test_one_batch_is_overfitted_and_every_parameter_gets_a_gradient(name):
    L.seed_everything(1, verbose=False)
    data = DATA[name]()
    data.batch_size = 8
    method = METHODS[name](data)
    batch = next(iter(data.batches("train")))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    first = method.loss(batch)[0].item()
    for _ in range(250):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first
    method = METHODS[name](data)
    method.loss(batch)[0].backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@every_method
def test_a_checkpoint_is_self_contained_and_holds_plain_data(name, tmp_path):
    data = DATA[name]()
    method = METHODS[name](data)
    run = short_trainer()
    run.fit(method, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    found = dlkit.load(tmp_path / "a.ckpt")
    assert type(found) is type(method) and not found.training
    assert dict(found.hparams) == dict(method.hparams)
    for (key, value), other in zip(method.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    for value in method.hparams.values():
        assert isinstance(value, (bool, int, float, str, tuple, list, type(None)))


@every_method
def test_bf16_mixed_trains_with_finite_losses(name):
    data, seen = DATA[name](), Losses()
    method = METHODS[name](data)
    short_trainer(precision="bf16-mixed", callbacks=[seen], max_steps=20, limit_val_batches=1).fit(method, datamodule=data)
    assert torch.tensor(seen.values).isfinite().all()
    assert all(parameter.isfinite().all() and parameter.dtype == torch.float32 for parameter in method.parameters())


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "counts"])  # which says that sums would be rounded
def test_a_method_trains_wholly_in_another_precision(name, precision):
    data, seen = DATA[name](), Losses()
    short_trainer(precision=precision, callbacks=[seen], limit_val_batches=1).fit(METHODS[name](data), datamodule=data)
    assert torch.tensor(seen.values).isfinite().all()


def resumable(name, root, callbacks=(), resume=False):
    L.seed_everything(5, verbose=False)
    data = DATA[name]()
    method = METHODS[name](data, dropout=0.3)
    run = short_trainer(
        logger=TensorBoardLogger(root, version=0), enable_checkpointing=True, max_epochs=2, limit_train_batches=STEPS,
        max_steps=-1, limit_val_batches=2, callbacks=[Checkpoints(every_n_seconds=0), RandomState(), *callbacks],
    )  # fmt: skip
    checkpoint = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    run.fit(method, datamodule=data, ckpt_path=checkpoint if resume else None, weights_only=True)
    return method


@every_method
def test_resuming_after_any_step_is_exact(tmp_path, name):
    whole = resumable(name, tmp_path / "whole")
    for step in range(1, 2 * STEPS):
        root = tmp_path / f"stopped{step}"
        with pytest.raises(KeyError, match="stopped"):
            resumable(name, root, [Stop(step)])
        resumed = resumable(name, root, resume=True)
        for (key, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(expected, found), f"{key} differs after stopping at step {step}"


PROCESSES = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import lightning as L, torch
from lightning.pytorch.loggers import TensorBoardLogger
from test_mechanics import DATA, METHODS
from dlkit.callbacks import Pictures, RandomState, SetPictures
from training import trainer, two_processes

class Rows(L.Callback):
    # What a process reads.

    def __init__(self):
        self.read = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.read += [tuple(map(int, row[row != 0])) for row in batch[0]]

def main():
    found, read = {}, {}
    for name, build in METHODS.items():
        L.seed_everything(2, verbose=False)
        data = DATA[name]()
        method, rows = build(data), Rows()
        run = trainer(devices=2, strategy="ddp", max_steps=3, limit_val_batches=2, callbacks=[RandomState(), rows])
        run.fit(method, datamodule=data)
        run.save_checkpoint(f"{name}.ckpt", weights_only=False)
        found[name], read[name] = method.state_dict(), rows.read
        if name == "language-model":
            again = build(data)
            again.on_load_checkpoint(torch.load("language-model.ckpt", weights_only=True))
            for one, other in zip(method.states["train"], again.states["train"]):
                assert torch.equal(one, other)
    torch.save((found, read), f"found.{run.global_rank}")
    # What is drawn by one process is measured by both.
    for name, pictures in (("sets", SetPictures()), ("classifier", Pictures())):
        data = DATA[name]()
        board, callbacks = TensorBoardLogger("boards", name), [RandomState(), pictures]
        run = trainer(devices=2, strategy="ddp", max_steps=2, logger=board, num_sanity_val_steps=2, callbacks=callbacks)
        run.fit(METHODS[name](data), datamodule=data)

with two_processes():
    main()
"""


@pytest.mark.slow
def test_two_processes_read_different_sequences_and_keep_equal_parameters(start, tmp_path):
    (tmp_path / "two.py").write_text(PROCESSES)
    done = start(tmp_path / "two.py", tmp_path, Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    (first, one), (second, other) = (torch.load(tmp_path / f"found.{rank}", weights_only=True) for rank in range(2))
    assert set(first) == set(METHODS)
    data = DATA["translator"]()
    sources = [tuple(data.codecs[0].encode(text)) for text in data.pairs("train")[0]]
    for name in METHODS:
        assert len(one[name]) and one[name] != other[name]
    unique = {text for text in sources if sources.count(text) == 1}
    assert unique & set(one["translator"]) and not unique & set(one["translator"]) & set(other["translator"])
    for name, state in first.items():
        for key, value in state.items():
            assert torch.equal(value, second[name][key]), (name, key)
