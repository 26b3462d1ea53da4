"""What each member counts is learned from sums alone, and goes on to sets of any size."""

from __future__ import annotations

import pytest
import torch
from training import trainer

import dlkit
from datamodules import DigitSum
from dlkit.batches import Sets

PTR = torch.tensor([0, 3, 4, 9])


def method(**more):
    return dlkit.AggregateSum((4,), 3, hidden_dims=(7,), **more).double()


def sets(sums=(4.0, 2.0, 7.0)):
    return Sets(torch.randn(9, 4, dtype=torch.float64), PTR, torch.tensor(sums).unsqueeze(1))


def test_the_order_of_members_changes_nothing():
    model, batch = method(), sets()
    order = torch.tensor([2, 0, 1, 3, 8, 4, 6, 5, 7])
    torch.testing.assert_close(model(batch._replace(x=batch.x[order])), model(batch))


def test_a_batch_and_the_padded_form_give_the_outputs_and_gradients_of_each_set():
    model, batch = method(), sets()
    together = model.loss(batch)[0]
    alone = torch.stack(
        [
            model.loss(Sets(batch.x[start:end], torch.tensor([0, end - start]), y.unsqueeze(0)))[0]
            for start, end, y in zip(PTR[:-1].tolist(), PTR[1:].tolist(), batch.y, strict=True)
        ]
    ).mean()
    torch.testing.assert_close(alone, together)
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(alone, parameters), torch.autograd.grad(together, parameters), strict=True):
        torch.testing.assert_close(one, other)
    mask = torch.zeros(3, 8, dtype=torch.bool)
    for row, places in enumerate([[1, 2, 7], [4], [0, 1, 3, 5, 6]]):
        mask[row, places] = True
    x = torch.full((3, 8, 4), torch.nan, dtype=torch.float64)
    x[mask] = batch.x
    torch.testing.assert_close(model.forward_padded(x, mask), model(batch))


def test_a_set_of_one_is_a_classification():
    model, batch = method(), sets()
    each = Sets(batch.x, torch.arange(10), torch.tensor([0.0, 1, 2, 1, 1, 0, 2, 2, 0]).unsqueeze(1))
    expected = torch.nn.functional.cross_entropy(model.phi(batch.x), each.y.squeeze(1).long())
    torch.testing.assert_close(model.loss(each)[0].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.law(batch.x, each.ptr), model.values(batch.x))
    torch.testing.assert_close(model.predict(batch.x, each.ptr), model.contributions(batch.x, each.ptr))


def test_what_each_member_counts_is_learned_from_sums_and_the_method_is_kept_in_a_checkpoint(tmp_path):
    data = DigitSum(num_examples=3000, test_sizes=(5, 95), val_size=100, batch_size=32)
    model = dlkit.AggregateSum((), data.num_values, data.vocab_size, learning_rate=0.01)
    run = trainer(max_epochs=2)
    run.fit(model, datamodule=data)
    symbols = torch.arange(1, 11)
    assert model.values(symbols).argmax(1).tolist() == list(range(10))
    assert run.callback_metrics["val/exact_at_size_95"] == 1
    assert run.callback_metrics["train/exact"] == 1
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    found = dlkit.load(tmp_path / "a.ckpt")
    assert found.predict(symbols, torch.tensor([0, 4, 4, 10])).tolist() == [[6], [0], [39]]
    assert found.contributions(symbols, torch.tensor([0, 10])).squeeze(1).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("sums", "which", "found", "greatest", "members"),
    [
        ((4.0, 2.0, 11.0), 2, "11.0", 10, 5),
        ((4.0, 3.0, 7.0), 1, "3.0", 2, 1),
        ((-1.0, 2.0, 7.0), 0, "-1.0", 6, 3),
        ((4.0, 1.5, 7.0), 1, "1.5", 2, 1),
        ((4.0, 2.0, torch.nan), 2, "nan", 10, 5),
    ],
)
def test_what_is_no_sum_of_the_members_is_refused(sums, which, found, greatest, members):
    message = f"set {which} of the batch has the sum {found}, which is no whole number from 0 to {greatest}, what its "
    with pytest.raises(ValueError, match=message + f"{members} members can sum to: mend it, leave the set out, or set num"):
        method().loss(sets(sums))


def test_one_value_and_sums_of_another_shape_or_precision_are_refused():
    with pytest.raises(ValueError, match="num_values=1: give 2 or more"):
        dlkit.AggregateSum((4,), 1)
    batch = sets()
    with pytest.raises(ValueError, match=r"one sum of each of 3 sets and was given \(3, 2\): give \(3, 1\)"):
        method().loss(batch._replace(y=torch.zeros(3, 2)))
    with pytest.raises(ValueError, match=r"large sums are rounded in torch.bfloat16: use --trainer.precision bf16-mixed"):
        method().loss(batch._replace(y=batch.y.bfloat16()))


def test_other_members_are_refused_by_all_that_it_does():
    model, wide, missing = method(), torch.zeros(9, 5).double(), torch.full((9, 4), torch.nan).double()
    for ability in (model.predict, model.law, model.contributions, lambda x, ptr: model.values(x)):
        with pytest.raises(ValueError, match=r"AggregateSum was built for examples of shape \(4,\) and was given \(5,\)"):
            ability(wide, PTR)
        with pytest.raises(ValueError, match="member 0 of set 0 is not finite"):
            ability(missing, PTR)


def test_a_batch_of_empty_sets_has_a_loss_of_nothing():
    batch = Sets(torch.zeros(0, 4).double(), torch.tensor([0, 0, 0]), torch.zeros(2, 1))
    loss, terms = method().loss(batch)
    loss.backward()
    assert loss == 0 and terms["exact"] == 1
