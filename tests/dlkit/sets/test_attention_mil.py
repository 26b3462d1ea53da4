"""Attention over bags: its formulas by hand, batches that change nothing, and what each instance counts for."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

import dlkit
from datamodules import Bags, DigitBags
from dlkit.batches import Sets, owners, padded
from dlkit.sets.attention_mil import rescale

POOLINGS = ("attention", "gated", "instance-max", "embedding-mean", "embedding-max")
every_pooling = pytest.mark.parametrize("pooling", POOLINGS)
attending = pytest.mark.parametrize("pooling", ["attention", "gated"])
SIZES = (3, 1, 5)
PTR = torch.tensor([0, 3, 4, 9])


def method(pooling="attention", shape=(7,), **more):
    return dlkit.AttentionMIL(shape, pooling, **{"embedding_dim": 8, "attention_dim": 5, **more}).double()


def bags(shape=(7,)):
    x = torch.randn(9, *shape, dtype=torch.float64)
    return Sets(x, PTR, torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0, 0, 1, 0, 0, 0, 1]))


def trainer(**more):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **more,
    )  # fmt: skip


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


# The formulas --------------------------------------------------------------------------------------------------------


@every_pooling
def test_a_bag_is_read_as_the_paper_says(pooling):
    model, (x, ptr, _, _) = method(pooling), bags()
    c, b = model.head.weight[0], model.head.bias
    for bag, logit in enumerate(model(x, ptr)):
        h = model.encoder(x[ptr[bag] : ptr[bag + 1]])
        if pooling == "instance-max":
            assert logit.sigmoid().item() == pytest.approx((h @ c + b).sigmoid().max().item())
            continue
        if pooling == "embedding-mean":
            z = h.mean(0)
        elif pooling == "embedding-max":
            z = h.amax(0)
        else:
            weigh = model.weigh
            hidden = torch.tanh(h @ weigh.V.weight.T + weigh.V.bias)
            if pooling == "gated":
                hidden = hidden * torch.sigmoid(h @ weigh.U.weight.T + weigh.U.bias)
            raised = (hidden @ weigh.w.weight[0]).exp()
            z = (raised / raised.sum()) @ h
        torch.testing.assert_close(logit, (c @ z + b).squeeze(0))


def test_the_loss_is_the_negative_log_likelihood_of_the_labels():
    model, batch = method().float(), bags()
    batch = batch._replace(x=batch.x.float())
    p = model.classify(batch.x, batch.ptr)
    torch.testing.assert_close(p.sum(1), torch.ones(3))
    loss, terms = model.loss(batch)
    assert loss.item() == pytest.approx(-(p[0, 1].log() + p[1, 0].log() + p[2, 1].log()).item() / 3, rel=1e-5)
    assert terms["accuracy"].item() == pytest.approx((p.argmax(1) == batch.y).float().mean().item())


def test_pictures_are_read_by_the_papers_lenet():
    model = dlkit.AttentionMIL((1, 28, 28))
    x = torch.rand(4, 1, 28, 28)
    (first, _, _, second, *_), linear, *_ = model.encoder
    h = F.max_pool2d(F.conv2d(x, first.weight, first.bias).relu(), 2)
    h = F.max_pool2d(F.conv2d(h, second.weight, second.bias).relu(), 2).flatten(1)
    assert h.shape == (4, 50 * 4 * 4)
    torch.testing.assert_close(model.encoder(x), linear(h).relu())
    encoder, attention, head = 20 * 26 + 50 * 501 + 500 * 801, 128 * 501 + 128, 501
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + attention + head


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 15, 20), (3, 16, 16), (2, 4, 4)])
def test_other_pictures_are_read_too(shape):
    model = method(shape=shape)
    assert model.encoder(torch.rand(3, *shape, dtype=torch.float64)).shape == (3, 8)


# What must change nothing --------------------------------------------------------------------------------------------


@every_pooling
@pytest.mark.parametrize("shape", [(7,), (1, 8, 8)])
def test_a_batch_of_bags_gives_the_outputs_and_gradients_of_its_bags(pooling, shape):
    model, batch = method(pooling, shape), bags(shape)
    together = gradients(model.loss(batch)[0], model)
    total = [torch.zeros_like(gradient) for gradient in together]
    for bag in range(3):
        x = batch.x[PTR[bag] : PTR[bag + 1]]
        alone = Sets(x, torch.tensor([0, len(x)]), batch.y[bag : bag + 1])
        torch.testing.assert_close(model(alone.x, alone.ptr), model(batch.x, batch.ptr)[bag : bag + 1])
        total = [whole + part / 3 for whole, part in zip(total, gradients(model.loss(alone)[0], model), strict=True)]
    for one, other in zip(together, total, strict=True):
        # The loss is float32.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert sum(gradient.abs().sum() for gradient in together) > 0


@attending
def test_padded_bags_give_the_outputs_and_gradients_of_flat_ones(pooling):
    model, batch = method(pooling), bags()
    side_by_side, real = padded(batch.x, batch.ptr)
    h = model.encoder(side_by_side)
    hidden = model.weigh.V(h).tanh() * (model.weigh.U(h).sigmoid() if pooling == "gated" else 1)
    weights = model.weigh.w(hidden).squeeze(2).masked_fill(~real, -torch.inf).softmax(1)
    logits = model.head((weights.unsqueeze(1) @ h).squeeze(1)).squeeze(1)
    torch.testing.assert_close(logits, model(batch.x, batch.ptr))
    torch.testing.assert_close(weights[real], model.attention(batch.x, batch.ptr))
    for one, other in zip(gradients(logits.sum(), model), gradients(model(batch.x, batch.ptr).sum(), model), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(model.forward_padded(side_by_side.masked_fill(~real.unsqueeze(2), torch.nan), real), logits)


@every_pooling
def test_the_order_of_instances_changes_nothing(pooling):
    model, (x, ptr, _, _) = method(pooling), bags()
    order = torch.cat([start + torch.randperm(size) for start, size in zip(ptr.tolist(), SIZES, strict=False)])
    assert not torch.equal(order, torch.arange(9))
    torch.testing.assert_close(model(x[order], ptr), model(x, ptr))
    if model.weigh is not None:
        torch.testing.assert_close(model.attention(x[order], ptr), model.attention(x, ptr)[order])
        torch.testing.assert_close(model.contributions(x[order], ptr), model.contributions(x, ptr)[order])


def test_dropout_is_for_training_alone():
    model, (x, ptr, _, _) = method(dropout=0.5), bags()
    assert not torch.equal(model(x, ptr), model(x, ptr))
    assert torch.equal(model.classify(x, ptr), model.classify(x, ptr)) and model.training


# What each instance counts for ---------------------------------------------------------------------------------------


@attending
def test_weights_sum_to_one_and_contributions_to_the_logit(pooling):
    model, (x, ptr, _, _) = method(pooling), bags()
    index = owners(ptr, len(x))

    def sums(values):
        return torch.zeros(3, dtype=values.dtype).index_add_(0, index, values)

    weights = model.attention(x, ptr)
    torch.testing.assert_close(sums(weights), torch.ones(3, dtype=torch.float64))
    assert weights[3] == 1  # alone in its bag
    assert (weights > 0).all() and weights[:3].std() > 0
    torch.testing.assert_close(sums(model.contributions(x, ptr)), model(x, ptr))


def test_weights_are_rescaled_from_zero_to_one_in_each_bag():
    weights = torch.tensor([0.2, 0.7, 0.1, 1.0, 0.25, 0.25, 0.25, 0.25])
    ptr = torch.tensor([0, 3, 4, 8])
    expected = torch.tensor([1 / 6, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # alone, and all alike: 1
    torch.testing.assert_close(rescale(weights, ptr), expected)
    model, (x, ptr, _, _) = method(), bags()
    assert torch.equal(model.rescaled_attention(x, ptr), rescale(model.attention(x, ptr), ptr))


def test_equal_instances_get_equal_weights_and_scores_of_any_size_none_that_is_not_finite():
    model = method().float()
    x = torch.randn(1, 7).expand(6, 7)
    torch.testing.assert_close(model.attention(x, torch.tensor([0, 6])), torch.full((6,), 1 / 6))
    assert torch.equal(model.rescaled_attention(x, torch.tensor([0, 6])), torch.ones(6))
    with torch.no_grad():
        model.weigh.w.weight.mul_(1e6)
    weights = model.attention(torch.randn(9, 7), PTR)
    assert weights.isfinite().all() and weights[:3].sum() == pytest.approx(1)


def test_weights_sum_to_one_in_half_precision():
    model, (x, ptr, _, _) = method().float(), bags()
    with torch.autocast("cpu", torch.bfloat16):
        weights = model.attention(x.float(), ptr)
        loss, _ = model.loss(bags()._replace(x=x.float()))
    assert weights.dtype == torch.float32 and weights[4:].sum() == pytest.approx(1, abs=1e-6)
    loss.backward()
    half = dlkit.AttentionMIL((7,), embedding_dim=8).to(torch.bfloat16)
    assert half.loss(bags()._replace(x=x.to(torch.bfloat16)))[0].isfinite()


# Learning ------------------------------------------------------------------------------------------------------------


@every_pooling
def test_a_few_bags_are_learned_by_heart(pooling):
    batch = next(iter(Bags(batch_size=16).batches("train")))
    model = dlkit.AttentionMIL((10,), pooling, embedding_dim=16, attention_dim=8, learning_rate=1e-2)
    optimizer = model.configure_optimizers()
    for _ in range(150):
        loss, terms = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 and terms["accuracy"] == 1


@attending
def test_attention_finds_the_instances_that_make_a_bag_positive(pooling):
    L.seed_everything(1, verbose=False)
    data = Bags(num_folds=2, batch_size=10)
    model = dlkit.AttentionMIL((10,), pooling, embedding_dim=32, attention_dim=16, dropout=0.2, learning_rate=2e-3)
    run = trainer(max_epochs=15, limit_val_batches=0)
    run.fit(model, datamodule=data)
    found = run.test(model, datamodule=data, verbose=False)[0]
    assert found["test/auc"] > 0.9
    assert found["test/instance_auc"] > 0.9


def test_weights_decay_as_far_as_is_asked():
    (group,) = method(weight_decay=0.25).configure_optimizers().param_groups
    assert group["weight_decay"] == 0.25 and group["lr"] == 5e-4


@pytest.mark.parametrize("pooling", ["attention", "instance-max", "embedding-mean"])
def test_areas_are_those_of_a_whole_pass(pooling):
    data = DigitBags(num_bags=4, val_size=11, batch_size=4)
    model = dlkit.AttentionMIL((1, 8, 8), pooling, embedding_dim=8, attention_dim=4)
    found = trainer().validate(model, datamodule=data, verbose=False)[0]
    p, y, scores, witness, losses = [], [], [], [], []
    for batch in data.batches("val"):
        p.append(model.classify(batch.x, batch.ptr)[:, 1])
        y.append(batch.y)
        inside = batch.y[batch.index] == 1
        read = model.eval().read(batch.x, batch.ptr)
        scores.append((read.instance_logits if read.weights is None else read.weights)[inside].detach())
        witness.append(batch.member_y[inside])
        losses.append(model.loss(batch)[0].item() * len(batch.y))
    p, y = torch.cat(p), torch.cat(y)
    assert found["val/auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-5)
    assert found["val/accuracy"] == pytest.approx(((p > 0.5) == (y == 1)).float().mean().item())
    assert found["val/loss"] == pytest.approx(sum(losses) / 11, rel=1e-5)
    if pooling == "embedding-mean":
        assert "val/instance_auc" not in found
    else:
        assert found["val/instance_auc"] == pytest.approx(roc_auc_score(torch.cat(witness), torch.cat(scores)), abs=1e-5)


def test_a_pass_with_one_class_has_no_area():
    data = DigitBags(num_bags=4, val_size=10, batch_size=1)
    model = dlkit.AttentionMIL((1, 8, 8), embedding_dim=8, attention_dim=4)
    found = trainer(limit_val_batches=1).validate(model, datamodule=data, verbose=False)[0]
    assert torch.tensor(found["val/auc"]).isnan() and 0 <= found["val/instance_auc"] <= 1


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pooling": "max"},
            r"unknown pooling 'max': use 'attention', 'gated', 'instance-max', 'embedding-mean', 'embedding-max'",
        ),
        ({"embedding_dim": 0}, "embedding_dim=0 and attention_dim=128: give at least 1"),
        ({"attention_dim": 0}, "embedding_dim=500 and attention_dim=0: give at least 1"),
        ({"dropout": 1.0}, r"dropout=1\.0 is outside \[0, 1\)"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0: give 0 or more"),
        ({"data_shape": (4, 4)}, r"members of shape \(4, 4\) are no pictures"),
        ({"data_shape": (1, 3, 9)}, r"members of shape \(1, 3, 9\) are no pictures, .* of at least 4 pixels a side"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dlkit.AttentionMIL(**{"data_shape": (7,), **arguments})


@pytest.mark.parametrize(
    ("ptr", "message"),
    [
        ([0, 3, 3, 9], "set 1 of the batch is empty, and a bag needs at least 1 instance: leave it out"),
        ([0, 9, 9], "set 1 of the batch is empty"),
        ([0, 5, 4, 9], r"the bounds of the sets are \[0, 5, 4, 9\] and there are 9 members: give ptr from 0"),
        ([0, 3, 8], r"are \[0, 3, 8\] and there are 9 members"),
        ([1, 9], r"are \[1, 9\] and there are 9 members"),
        ([], r"are \[\] and there are 9 members"),
    ],
    ids=str,
)
def test_empty_bags_and_bounds_that_do_not_fit_are_refused(ptr, message):
    with pytest.raises(ValueError, match=message):
        method().classify(bags().x, torch.tensor(ptr, dtype=torch.int64))


def test_instances_labels_and_poolings_that_do_not_fit_are_refused():
    batch = bags()
    with pytest.raises(ValueError, match=r"built for examples of shape \(6,\) and was given \(7,\)"):
        method(shape=(6,)).loss(batch)
    with pytest.raises(ValueError, match="member 0 of set 2 is not finite: mend it, or leave it out"):
        method().loss(batch._replace(x=batch.x.index_fill(0, torch.tensor([4]), torch.nan)))
    for y, message in (
        (torch.tensor([0, 2, 1]), "a bag has the label 2: AttentionMIL tells positive bags, 1, from negative ones, 0"),
        (torch.tensor([0, -1, 1]), "a bag has the label -1"),
        (torch.tensor([0.0, 1.0, 1.0]), r"labels of shape \(3,\), torch.float32, for 3 bags: give each bag 0 or 1, int64"),
        (torch.tensor([0, 1]), r"labels of shape \(2,\), torch.int64, for 3 bags"),
    ):
        with pytest.raises(ValueError, match=message):
            method().loss(batch._replace(y=y))
    for name in ("attention", "rescaled_attention", "contributions"):
        with pytest.raises(ValueError, match="pooling='embedding-max' gives instances no weights: use pooling='attention' or"):
            getattr(method("embedding-max"), name)(batch.x, batch.ptr)
