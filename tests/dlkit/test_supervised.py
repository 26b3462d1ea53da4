"""Supervised: missing targets count for nothing, and what is predicted and measured is in the data's units."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from training import trainer

from dlkit.batches import Examples
from dlkit.supervised import Supervised

MEAN, STD = (100.0, -3.0), (10.0, 0.5)


class Linear(Supervised):
    """Four numbers to whatever there is to predict."""

    def __init__(self, task, num_targets, num_classes, target_mean=(), target_std=(), target_names=(), objective="mse"):
        super().__init__(task, num_targets, num_classes, target_mean, target_std, target_names, objective)
        self.save_hyperparameters()
        self.network = nn.Linear(4, self.num_outputs)

    def forward(self, batch):
        return self.network(batch.x)


def regressor(**more):
    return Linear("regression", 2, None, **{"target_mean": MEAN, "target_std": STD, "target_names": ("a", "b"), **more})


def examples(number=30):
    y = torch.randn(number, 2) * torch.tensor(STD) + torch.tensor(MEAN)
    y[torch.rand(number, 2) < 0.3] = torch.nan
    return Examples(torch.randn(number, 4), y)


def batches(data, *sizes):
    return DataLoader([Examples(*part) for part in zip(data.x.split(sizes), data.y.split(sizes), strict=True)], batch_size=None)


@pytest.mark.parametrize("objective", ["mse", "mae"])
def test_a_missing_target_counts_for_nothing(objective):
    method, data = regressor(objective=objective), examples()
    loss, _ = method.loss(data)
    loss.backward()
    assert method.network.weight.grad.isfinite().all()
    known = ~data.y.isnan()
    error = (method(data) - (data.y - torch.tensor(MEAN)) / torch.tensor(STD))[known]
    assert loss.item() == pytest.approx((error.square() if objective == "mse" else error.abs()).mean().item())
    # An example without targets is as if it were not there.
    none = Examples(torch.cat([data.x, torch.randn(5, 4)]), torch.cat([data.y, torch.full((5, 2), torch.nan)]))
    assert method.loss(none)[0].item() == pytest.approx(loss.item())


def test_a_batch_without_any_target_has_loss_zero_and_gradients_zero():
    method = regressor()
    loss, _ = method.loss(Examples(torch.randn(3, 4), torch.full((3, 2), torch.nan)))
    loss.backward()
    assert loss == 0
    assert (method.network.weight.grad == 0).all()


def test_predictions_are_in_units():
    method, data = regressor(), examples()
    torch.testing.assert_close(method.predictions(method(data)), method(data) * torch.tensor(STD) + torch.tensor(MEAN))
    plain = regressor(target_mean=(), target_std=(), target_names=())
    torch.testing.assert_close(plain.predictions(plain(data)), plain(data))
    assert plain.target_names == ("0", "1")


def test_a_perfect_network_has_no_error_whatever_the_units():
    """The targets' units are those of the data: the normaliser is undone."""
    method = regressor()
    x = torch.randn(6, 4)
    y = method.predictions(method(Examples(x))).detach()
    found = trainer().test(method, batches(Examples(x, y), 4, 2), verbose=False)[0]
    assert found["test/loss"] == pytest.approx(0, abs=1e-9)
    assert found["test/rmse"] == pytest.approx(0, abs=1e-4)


def test_errors_over_a_pass_are_those_over_all_examples():
    method, data = regressor(), examples()
    found = trainer().test(method, batches(data, 17, 3, 10), verbose=False)[0]
    error = method.predictions(method(data)) - data.y
    rmse, mae = error.square().nanmean(0).sqrt(), error.abs().nanmean(0)
    assert found["test/rmse"] == pytest.approx(rmse.mean().item(), rel=1e-5)
    assert found["test/mae"] == pytest.approx(mae.mean().item(), rel=1e-5)
    assert found["test/loss"] == pytest.approx((error / torch.tensor(STD)).square().nanmean().item(), rel=1e-5)
    for number, name in enumerate("ab"):
        assert found[f"test/rmse_{name}"] == pytest.approx(rmse[number].item(), rel=1e-5)
        assert found[f"test/mae_{name}"] == pytest.approx(mae[number].item(), rel=1e-5)
    again = trainer().test(method, batches(data, 30), verbose=False)[0]
    assert again["test/rmse"] == pytest.approx(found["test/rmse"], rel=1e-5)


def test_one_target_has_no_second_name():
    method = Linear("regression", 1, None)
    found = trainer().test(method, batches(Examples(torch.randn(4, 4), torch.randn(4, 1)), 4), verbose=False)[0]
    assert set(found) == {"test/loss", "test/rmse", "test/mae"}


def test_classes_are_counted_over_a_pass():
    method = Linear("classification", 0, 2)
    data = Examples(torch.randn(30, 4), torch.arange(30) % 2)
    found = trainer().test(method, batches(data, 17, 3, 10), verbose=False)[0]
    probabilities = method.predictions(method(data)).detach()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(30))
    assert found["test/accuracy"] == pytest.approx((probabilities.argmax(1) == data.y).float().mean().item())
    assert found["test/auc"] == pytest.approx(roc_auc_score(data.y, probabilities[:, 1]))
    assert found["test/loss"] == pytest.approx(F.cross_entropy(method(data), data.y).item(), rel=1e-5)


def test_a_pass_without_targets_has_no_loss_and_one_with_a_single_class_no_area():
    """Neither is 0, which a checkpoint would be chosen for."""
    none = Examples(torch.randn(4, 4), torch.full((4, 2), torch.nan))
    found = trainer().test(regressor(), batches(none, 4), verbose=False)[0]
    assert all(math.isnan(value) for value in found.values())
    alike = Examples(torch.randn(4, 4), torch.ones(4, dtype=torch.int64))
    assert math.isnan(trainer().test(Linear("classification", 0, 2), batches(alike, 4), verbose=False)[0]["test/auc"])


def test_a_pass_that_broke_off_leaves_nothing_behind():
    method, data = regressor(), examples()
    expected = trainer().test(method, batches(data, 30), verbose=False)[0]
    with pytest.raises(ValueError, match="predicts targets of shape"):
        broken = DataLoader([Examples(data.x, data.y + 100), Examples(data.x, data.y[:3])], batch_size=None)
        trainer().test(method, broken, verbose=False)
    assert trainer().test(method, batches(data, 30), verbose=False)[0] == expected


def test_a_checkpoint_keeps_mean_standard_deviation_and_names(tmp_path):
    method, data = regressor(), examples()
    run = trainer(max_epochs=1)
    run.fit(method, batches(data, 30), batches(data, 30))
    run.save_checkpoint(tmp_path / "a.ckpt")
    found = Linear.load_from_checkpoint(tmp_path / "a.ckpt")
    torch.testing.assert_close(found.predictions(found(data)), method.predictions(method(data)))
    assert found.target_names == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (("ranking", 1, None), {}, "unknown task 'ranking': use 'regression' or 'classification'"),
        (("regression", 1, None), {"objective": "rmse"}, "unknown objective 'rmse': use 'mse' or 'mae'"),
        (("regression", 0, None), {}, "num_targets=0: a regression needs data with at least 1 target"),
        (
            ("regression", 2, None),
            {"target_mean": (1.0,)},
            "target_mean has 1 entries and there are 2 targets",
        ),
        (("regression", 1, None), {"target_std": (0.0,)}, "a target that is the same everywhere cannot be learned: drop it"),
        (("classification", 0, None), {}, "num_classes=None: a classifier needs data with at least 2 classes"),
        (("classification", 0, 1), {}, "num_classes=1: a classifier needs data with at least 2 classes"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(arguments, more, message):
    with pytest.raises(ValueError, match=message):
        Linear(*arguments, **more)


def test_targets_of_another_kind_are_refused():
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"Linear predicts targets of shape \(3, 2\) and the batch has \(3, 1\)"):
        regressor().loss(Examples(x, torch.zeros(3, 1)))
    classifier = Linear("classification", 0, 2)
    with pytest.raises(ValueError, match=r"label 2 is outside 0\.\.1: set num_classes"):
        classifier.loss(Examples(x, torch.tensor([0, 1, 2])))
    with pytest.raises(ValueError, match=r"Linear was given labels of shape \(3, 2\)"):
        classifier.loss(Examples(x, torch.zeros(3, 2)))
