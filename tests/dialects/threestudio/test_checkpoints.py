"""threestudio's checkpoints are refused with what to do instead."""

import pytest
import torch

from usd.core import checkpoint
from usd.core.errors import UserError


def test_a_checkpoint_of_threestudios_is_known_and_its_mesh_is_asked_for(tmp_path):
    path = tmp_path / "last.ckpt"
    weights = {"geometry.encoding.encoding.encoding.params": torch.zeros(8)}
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.0.0", "global_step": 5}, path)
    with pytest.raises(UserError, match=r"of threestudio's.*geometry_type=custom-mesh"):
        checkpoint.load(path)


def test_another_file_of_tensors_is_only_not_ours(tmp_path):
    torch.save({"state_dict": {"unet.weight": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of this project$"):
        checkpoint.load(tmp_path / "x.ckpt")
