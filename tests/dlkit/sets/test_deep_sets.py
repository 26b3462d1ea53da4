"""Deep Sets: order, padding and company change nothing, sums go on where means stop, and outliers are found."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from training import trainer

import dlkit
from datamodules import DigitSum, SetOutliers
from dlkit.batches import Sets, flat, padded

PTR = torch.tensor([0, 3, 4, 9])
POOLINGS = ("sum", "mean", "max", "attention")
every_pooling = pytest.mark.parametrize("pooling", POOLINGS)
TASKS = ("regression", "classification", "outlier")
every_task = pytest.mark.parametrize("task", TASKS)


def method(task="regression", shape=(4,), **more):
    settings = {"hidden_dims": (7, 6), "equivariant_dims": (5,), "rho_dims": (6,), "activation": "tanh", **more}
    return dlkit.DeepSets(shape, None, 2, 3, task, **settings).double()


def additive(**more):
    return method(**{"equivariant_dims": (), "rho_dims": (), **more})


def sets(task="regression", shape=(4,)):
    y = {
        "regression": torch.randn(3, 2, dtype=torch.float64),
        "classification": torch.tensor([2, 0, 1]),
        "outlier": torch.tensor([1, 0, 4]),
    }
    return Sets(torch.randn(9, *shape, dtype=torch.float64), PTR, y[task])


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


def assert_all_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# Order, padding, company ---------------------------------------------------------------------------------------------


@every_task
@pytest.mark.parametrize("equivariant_pooling", ["sum", "mean", "max"])
@every_pooling
def test_the_order_of_members_changes_nothing_but_the_order_of_their_scores(task, pooling, equivariant_pooling):
    model, batch = method(task, pooling=pooling, equivariant_pooling=equivariant_pooling), sets(task)
    order = torch.tensor([2, 0, 1, 3, 8, 4, 6, 5, 7])
    found = model(batch._replace(x=batch.x[order]))
    torch.testing.assert_close(found, model(batch)[order] if task == "outlier" else model(batch))


@every_task
@every_pooling
def test_the_padded_form_gives_the_outputs_and_gradients_of_the_flat_one_whatever_is_in_the_gaps(task, pooling):
    model, batch = method(task, pooling=pooling), sets(task)
    mask = torch.zeros(3, 8, dtype=torch.bool)
    for row, places in enumerate([[1, 2, 7], [4], [0, 1, 3, 5, 6]]):
        mask[row, places] = True
    x = torch.full((3, 8, 4), torch.nan, dtype=torch.float64)
    x[mask] = batch.x
    found, expected = model.forward_padded(x, mask), model(batch)
    if task == "outlier":
        assert found.shape == mask.shape and (found[~mask] == -torch.inf).all()
        torch.testing.assert_close(found.softmax(1)[mask], model.predict(batch.x, PTR).double(), atol=1e-6, rtol=1e-6)
        found = found[mask]
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    assert_all_close(gradients((found * weights).sum(), model), gradients((expected * weights).sum(), model))


@every_task
@every_pooling
def test_a_batch_gives_what_each_of_its_sets_gives_alone(task, pooling):
    model, batch = method(task, pooling=pooling), sets(task)
    x, real = padded(batch.x, PTR)
    together, alone = model(batch), []
    for row in range(3):
        members, ptr = flat(x[row : row + 1], real[row : row + 1])
        alone.append(model(Sets(members, ptr, batch.y[row : row + 1])))
    torch.testing.assert_close(torch.cat(alone), together)


@every_pooling
def test_a_set_of_one_is_its_member_whatever_the_mean(pooling):
    model = additive(pooling=pooling)
    x = torch.randn(1, 4, dtype=torch.float64)
    found = model(Sets(x, torch.tensor([0, 1]), torch.zeros(1, 2)))
    torch.testing.assert_close(found, model.rho(model.phi(x)))


# The formulas --------------------------------------------------------------------------------------------------------


def test_it_is_rho_of_the_sum_of_phi():
    model, batch = additive(rho_dims=(6,)), sets()
    for row, found in enumerate(model(batch)):
        torch.testing.assert_close(found, model.rho(model.phi(batch.x[PTR[row] : PTR[row + 1]]).sum(0)))


def test_equivariant_layers_come_before_the_pool():
    model, batch = method(pooling="max", equivariant_pooling="max"), sets()
    own = batch.x[4:]
    h = model.phi(own)
    layer = model.equivariant[0]
    h = torch.tanh(layer.own(h) + layer.whole(h.amax(0)))
    torch.testing.assert_close(model(batch)[2], model.rho(h.amax(0)))


def test_the_loss_of_outliers_is_the_cross_entropy_over_the_members_of_each_set():
    model, batch = method("outlier"), sets("outlier")
    loss, terms = model.loss(batch)
    scores = model(batch).float().split([3, 1, 5])
    expected = [F.cross_entropy(score.unsqueeze(0), place.unsqueeze(0)) for score, place in zip(scores, batch.y, strict=True)]
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item())
    found = [int(score.argmax()) == int(place) for score, place in zip(scores, batch.y, strict=True)]
    assert terms["accuracy"].item() == pytest.approx(sum(found) / 3)
    for part, score in zip(model.predict(batch.x, PTR).split([3, 1, 5]), scores, strict=True):
        torch.testing.assert_close(part, score.softmax(0))


def adder(pooling):
    """phi(x) = x and rho the identity, of single numbers from 0 on: what it gives is the pool of the members."""
    model = dlkit.DeepSets((1,), None, 1, None, hidden_dims=(1,), pooling=pooling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() == 2 else 0.0)
    return model


def test_a_sum_goes_on_to_sets_of_any_size_and_a_mean_cannot():
    ones = {n: (torch.ones(n, 1), torch.tensor([0, n])) for n in (1, 10, 1000)}
    assert [adder("sum").predict(*ones[n]).item() for n in ones] == [1, 10, 1000]
    assert [adder("mean").predict(*ones[n]).item() for n in ones] == [1, 1, 1]
    assert [adder("max").predict(*ones[n]).item() for n in ones] == [1, 1, 1]


def test_contributions_sum_to_the_prediction_in_the_targets_units():
    model, batch = additive(target_mean=(3.0, -1.0), target_std=(10.0, 0.5)), sets()
    added = model.contributions(batch.x, PTR)
    nothing = model.predict(batch.x[:0], torch.tensor([0, 0]))
    for part, prediction in zip(added.split([3, 1, 5]), model.predict(batch.x, PTR), strict=True):
        torch.testing.assert_close(part.sum(0) + nothing[0], prediction)


def test_a_contribution_is_what_a_prediction_loses_without_its_member():
    model, batch = additive(rho_dims=(6,)), sets()
    added, whole = model.contributions(batch.x, PTR), model.predict(batch.x, PTR)
    less = model.predict(batch.x[torch.arange(9) != 5], torch.tensor([0, 3, 4, 8]))
    torch.testing.assert_close(added[5], (whole - less)[2])


@pytest.mark.parametrize(
    "more", [{"pooling": "mean"}, {"equivariant_dims": (5,)}, {"task": "outlier", "equivariant_dims": (5,)}], ids=str
)
def test_what_is_not_a_sum_of_members_has_no_contributions(more):
    batch, model = sets(), additive(**more)
    assert not model.additive
    with pytest.raises(ValueError, match="does not sum its members: only a sum of them, without equivariant layers"):
        model.contributions(batch.x, PTR)


# Empty sets ----------------------------------------------------------------------------------------------------------


@every_pooling
def test_an_empty_set_is_rho_of_zero_and_disturbs_no_gradient(pooling):
    model = method(pooling=pooling)
    batch = Sets(torch.randn(2, 4, dtype=torch.float64), torch.tensor([0, 0, 2, 2]), torch.zeros(3, 2, dtype=torch.float64))
    found = model(batch)
    zero = model.rho(torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(found[0], zero)
    torch.testing.assert_close(found[2], zero)
    assert all(gradient.isfinite().all() for gradient in gradients(model.loss(batch)[0], model))
    assert model(Sets(batch.x[:0], torch.tensor([0]), batch.y[:0])).shape == (0, 2)


# Learning ------------------------------------------------------------------------------------------------------------


@every_task
def test_one_batch_is_overfitted_and_every_parameter_gets_a_gradient(task):
    L.seed_everything(1, verbose=False)
    model, batch = method(task), sets(task)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model.loss(batch)[0], model))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(150):
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    predicted = model.predict(batch.x, PTR)
    if task == "regression":
        torch.testing.assert_close(predicted.double(), batch.y, atol=0.5, rtol=0)
    elif task == "classification":
        assert torch.equal(predicted.argmax(1), batch.y)
    else:
        assert [int(part.argmax()) for part in predicted.split([3, 1, 5])] == batch.y.tolist()


def test_a_perfect_adder_is_exact_at_every_size_and_a_mean_at_none(tmp_path):
    """Symbols, added up by hand-made weights, measured as recipes measure them."""
    data = DigitSum(test_sizes=(1, 5, 95), num_examples=500, val_size=60)

    def counter(pooling):
        model = dlkit.DeepSets((), 11, 1, None, hidden_dims=(1,), pooling=pooling, objective="mae")
        with torch.no_grad():
            model.phi[0].table.weight[1:, 0] = torch.arange(10.0)
            model.rho[-1].weight.fill_(1.0)
            model.rho[-1].bias.fill_(0.0)
        return model

    found = trainer().test(counter("sum"), datamodule=data, verbose=False)[0]
    assert [found[f"test/exact_at_size_{size}"] for size in (1, 5, 95)] == [1, 1, 1]
    assert found["test/mae"] == pytest.approx(0, abs=1e-4)
    found = trainer().test(counter("mean"), datamodule=data, verbose=False)[0]
    assert found["test/exact_at_size_1"] == 1
    assert found["test/exact_at_size_95"] == 0
    assert found["test/mae_at_size_95"] == pytest.approx(94 * 4.5, rel=0.02)


def test_targets_that_are_no_whole_numbers_have_errors_alone_and_classes_a_share():
    class Data(DigitSum):
        def draw(self, part, pictures, generator):
            columns = super().draw(part, pictures, generator)
            return {**columns, "y": columns["y"] / 2}

    settings = {"test_sizes": (2, 3), "num_examples": 100, "val_size": 40}
    found = trainer().validate(dlkit.DeepSets((), 11, 1, None), datamodule=Data(**settings), verbose=False)[0]
    assert {name for name in found if "size" in name} == {"val/mae_at_size_2", "val/mae_at_size_3"}

    class Parity(DigitSum):
        num_targets, num_classes = 0, 2

        def draw(self, part, pictures, generator):
            columns = super().draw(part, pictures, generator)
            return {**columns, "y": columns["y"].squeeze(1).long() % 2}

    model = dlkit.DeepSets((), 11, 0, 2, "classification")
    found = trainer().validate(model, datamodule=Parity(**settings), verbose=False)[0]
    assert {name for name in found if "size" in name} == {"val/accuracy_at_size_2", "val/accuracy_at_size_3"}
    shares = (found["val/accuracy_at_size_2"] + found["val/accuracy_at_size_3"]) / 2
    assert shares == pytest.approx(found["val/accuracy"])


def test_each_pass_is_measured_by_itself():
    model = adder("sum")
    for y, right in ((3.0, 1), (2.0, 0), (3.0, 1)):
        batch = Sets(torch.ones(3, 1), torch.tensor([0, 3]), torch.tensor([[y]]))
        trainer().validate(model, DataLoader([batch], batch_size=None), verbose=False)
        assert model.by_size()["exact"].tolist() == [right]


def test_many_sizes_are_not_recorded_one_by_one_but_known():
    data = DigitSum(test_sizes=tuple(range(1, 30)), num_examples=100, val_size=29)
    model = dlkit.DeepSets((), 11, 1, None)
    found = trainer().validate(model, datamodule=data, verbose=False)[0]
    assert not [name for name in found if "size" in name]
    assert model.by_size()["size"].tolist() == list(range(1, 30))


def test_a_raw_loop_and_the_trainer_give_the_same_losses():
    class Losses(L.Callback):
        values = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.values.append(outputs["loss"].item())

    data = DigitSum("digits", num_examples=200, shift=1, batch_size=32)
    settings = {"hidden_dims": (8,), "target_mean": data.target_mean, "target_std": data.target_std, "objective": "mae"}
    L.seed_everything(1, verbose=False)
    seen = Losses()
    trainer(max_steps=3, limit_val_batches=0, callbacks=[seen]).fit(
        dlkit.DeepSets(data.data_shape, None, 1, None, **settings), datamodule=data
    )
    L.seed_everything(1, verbose=False)
    model, raw = dlkit.DeepSets(data.data_shape, None, 1, None, **settings), []
    optimizer = model.configure_optimizers()
    for batch in data.batches("train"):
        loss = model.loss(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        raw.append(loss.item())
        if len(raw) == 3:
            break
    assert raw == seen.values


@every_task
def test_a_checkpoint_is_self_contained(task, tmp_path):
    model, batch = method(task).float(), sets(task)
    run = trainer(max_epochs=1)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    found = dlkit.load(tmp_path / "a.ckpt")
    assert type(found) is dlkit.DeepSets and found.task == task
    x = batch.x.float()
    torch.testing.assert_close(found.predict(x, PTR), model.predict(x, PTR))


@pytest.mark.slow
def test_a_trained_sum_adds_up_larger_sets_than_it_has_seen_and_outliers_are_found():
    L.seed_everything(1, verbose=False)
    data = DigitSum(test_sizes=(40,), num_examples=20_000, val_size=10, max_size=5)
    model = dlkit.DeepSets(
        (), 11, 1, None, hidden_dims=(30, 10), activation="tanh", objective="mae", target_mean=data.target_mean,
        target_std=data.target_std, learning_rate=5e-3, schedule="cosine",
    )  # fmt: skip
    run = trainer(max_epochs=6, limit_val_batches=0)
    run.fit(model, datamodule=data)
    assert run.test(model, datamodule=data, verbose=False)[0]["test/mae"] < 0.5

    data = SetOutliers(num_examples=4000, val_size=10, set_size=8)
    model = dlkit.DeepSets(data.data_shape, None, 0, None, "outlier", hidden_dims=(64,), equivariant_dims=(32,))
    run = trainer(max_epochs=3, limit_val_batches=0)
    run.fit(model, datamodule=data)
    assert run.test(model, datamodule=data, verbose=False)[0]["test/accuracy"] > 4 / 8


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "ranking"}, "unknown task 'ranking': use 'regression' or 'classification' or 'outlier'"),
        ({"task": "outlier", "equivariant_dims": ()}, "task='outlier' without equivariant_dims: a member's score would know"),
        ({"pooling": "min"}, "unknown readout 'min'"),
        ({"equivariant_pooling": "min"}, "unknown pooling 'min' of an equivariant layer"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"hidden_dims": ()}, r"hidden_dims=\(\) leaves nothing"),
        ({"rho_dims": (0,)}, r"layers of widths \(5, 0\)"),
        ({"shape": ()}, r"data_shape=\(\) and vocab_size=None"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        method(**more)


def test_members_and_bounds_that_do_not_fit_are_refused():
    model, batch = method(), sets()
    with pytest.raises(ValueError, match=r"DeepSets was built for examples of shape \(4,\) and was given \(5,\)"):
        model(batch._replace(x=torch.randn(9, 5)))
    for ptr in ([0, 3, 4, 8], [1, 3, 4, 9], [0, 5, 4, 9], []):
        with pytest.raises(ValueError, match=r"the bounds of the sets are \[.*\] and there are 9 members: give ptr from 0"):
            model(batch._replace(ptr=torch.tensor(ptr, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"the bounds of the sets are \[0, 1, \.\.\., 8\] and there are 9"):
        model(batch._replace(ptr=torch.arange(9)))
    x = batch.x.clone()
    x[6, 1] = torch.nan
    with pytest.raises(ValueError, match="member 2 of set 2 is not finite: mend it, or leave it out"):
        model(batch._replace(x=x))
    with pytest.raises(ValueError, match="member 2 of set 2 is not finite"):
        model.predict(x, PTR)
    with pytest.raises(ValueError, match="the bounds of the sets are"):
        model(batch._replace(ptr=PTR.double()))
    with pytest.raises(ValueError, match=r"DeepSets was given members of torch.int64: give real numbers, float32"):
        model(batch._replace(x=torch.zeros(9, 4, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"DeepSets was given members of torch.float32: give tokens, int64"):
        dlkit.DeepSets((), 11, 1, None).predict(torch.zeros(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"the mask is \(3, 5\), torch.int64, of members \(3, 5, 4\): give \(3, 5\), bool"):
        model.forward_padded(torch.zeros(3, 5, 4), torch.ones(3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"token 11 is outside 0\.\.10: set vocab_size"):
        dlkit.DeepSets((), 11, 1, None).predict(torch.tensor([3, 11]), torch.tensor([0, 2]))


def test_targets_of_another_kind_and_outliers_that_cannot_be_there_are_refused():
    with pytest.raises(ValueError, match=r"DeepSets predicts targets of shape \(3, 2\) and the batch has \(3,\)"):
        method().loss(sets("classification"))
    with pytest.raises(ValueError, match=r"label 3 is outside 0\.\.2"):
        method("classification").loss(sets()._replace(y=torch.tensor([0, 3, 1])))
    model, batch = method("outlier"), sets("outlier")
    with pytest.raises(ValueError, match=r"looks for an outlier in each of 3 sets and was given \(3, 2\), torch\.float64"):
        model.loss(sets("regression"))
    for y, message in (
        ([1, 1, 0], "the outlier of set 1 is at place 1, and the set has 1 members"),
        ([1, 0, -1], "set 2 is at"),
    ):
        with pytest.raises(ValueError, match=message):
            model.loss(batch._replace(y=torch.tensor(y)))
    empty = Sets(batch.x, torch.tensor([0, 4, 4, 9]), torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="set 1 of the batch is empty, and has no outlier: leave it out"):
        model(empty)


def test_sets_are_counted_in_true_half_precision(tmp_path):
    data = DigitSum(num_examples=32, test_sizes=(3, 5), val_size=1000)
    model, run = dlkit.DeepSets((), 11, 1, hidden_dims=(4,)), trainer(max_epochs=1, precision="bf16-true")
    run.fit(model, datamodule=data)
    assert model.sizes.seen.sum() == 1000
    assert 0 <= run.callback_metrics["val/exact_at_size_5"] < 1
