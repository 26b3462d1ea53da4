"""Where checkpoints are read to."""

from __future__ import annotations

import torch

from dlkit.callbacks.checkpoints import AtomicCheckpointIO


def test_a_checkpoint_of_a_gpu_is_read_onto_the_cpu(tmp_path, monkeypatch):
    """Lightning's strategies name no device when they resume, and the GPU that wrote a file may not be there."""
    path, content = tmp_path / "a.ckpt", {"state_dict": {"weight": torch.arange(3.0)}}
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(content, path)
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], content["state_dict"]["weight"])
    assert found["state_dict"]["weight"].is_cpu
