"""What a trained method does for a user, and how it leaves its modules."""

from __future__ import annotations

import torch

import dlkit


def test_abilities_run_in_evaluation_mode_without_gradients_and_leave_training_as_it_was():
    method = dlkit.Classifier((1, 8, 8), 10, "cnn", width=4, dropout=0.9)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(method.classify(x), method.classify(x))
    assert not method.classify(x).requires_grad
    assert method.training
    assert all(module.training for module in method.network.modules())
    frozen = next(module for module in method.network.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    method.classify(x)
    assert [module for module in method.modules() if not module.training] == [frozen]
    method.network = torch.compile(method.network, backend="eager")
    assert torch.equal(method.classify(x), method.classify(x))
