"""A recurrent network that reads sets: batches change nothing, but the order of members does."""

from __future__ import annotations

import pytest
import torch
from training import trainer

import dlkit
from datamodules import DigitSum
from dlkit.batches import Sets

PTR = torch.tensor([0, 3, 4, 9])


def method(cell="lstm", **more):
    return dlkit.SetRNN((4,), None, 2, None, hidden_dims=(5,), cell=cell, hidden_size=6, **more).double()


def sets():
    return Sets(torch.randn(9, 4, dtype=torch.float64), PTR, torch.randn(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_batch_gives_the_outputs_and_gradients_of_each_of_its_sets(cell):
    model, batch = method(cell), sets()
    together = model(batch)
    alone = [
        model(Sets(batch.x[start:end], torch.tensor([0, end - start]), batch.y[:1]))
        for start, end in zip(PTR.tolist(), PTR[1:].tolist(), strict=False)
    ]
    torch.testing.assert_close(torch.cat(alone), together)
    weights = torch.randn_like(together)
    found = torch.autograd.grad((torch.cat(alone) * weights).sum(), list(model.parameters()))
    expected = torch.autograd.grad((together * weights).sum(), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_it_is_no_function_of_the_set():
    model, batch = method(), sets()
    other = model(batch._replace(x=batch.x[[1, 0, 2, 3, 4, 5, 6, 7, 8]]))
    assert not torch.allclose(other[0], model(batch)[0])
    torch.testing.assert_close(other[1:], model(batch)[1:])


def test_it_is_measured_at_each_size_and_kept_in_a_checkpoint(tmp_path):
    data = DigitSum(num_examples=300, test_sizes=(3, 20), val_size=20)
    model = dlkit.SetRNN((), 11, 1, None, hidden_dims=(6,), hidden_size=5, objective="mae")
    run = trainer(max_epochs=1)
    run.fit(model, datamodule=data)
    assert {"val/exact_at_size_3", "val/mae_at_size_20"} <= set(run.callback_metrics)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    found = dlkit.load(tmp_path / "a.ckpt")
    x, ptr = torch.tensor([1, 5, 10]), torch.tensor([0, 2, 3])
    torch.testing.assert_close(found.predict(x, ptr), model.predict(x, ptr))


def test_an_empty_set_an_unknown_cell_and_another_task_are_refused():
    with pytest.raises(ValueError, match="set 1 of the batch is empty, and has no last member to stop at: leave it out"):
        method()(sets()._replace(ptr=torch.tensor([0, 4, 4, 9])))
    with pytest.raises(ValueError, match="unknown cell 'lmu'"):
        method("lmu")
    with pytest.raises(ValueError, match="unknown task 'outlier': use 'regression' or 'classification'"):
        method(task="outlier")
