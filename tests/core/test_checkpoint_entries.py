"""Checkpoints whose bytes are whole and whose entries are not."""

import pytest
import torch

from usd.core import checkpoint
from usd.core.errors import UserError

GOOD = {
    "format": checkpoint.FORMAT,
    "global_step": 3,
    "state_dict": {"a": torch.zeros(2)},
    "components": {},
    "optimizer_states": [{}],
    "lr_schedulers": [],
    "loops": {"fit_loop": {}},
    "pytorch-lightning_version": "2.5",
}


@pytest.mark.parametrize(
    ("key", "line"),
    [("global_step", "does not say its step"), ("state_dict", "no weights"), ("components", "made of")],
)
def test_entries_that_everything_needs(tmp_path, key, line):
    for value in (None, [1], "x", 1.5, -5, {"a": 3} if key == "state_dict" else None):
        checkpoint.save_atomic({**GOOD, "state_dict": {}}, tmp_path / "whole.ckpt")
        torch.save({**GOOD, key: value}, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match=line):
            checkpoint.load(tmp_path / "a.ckpt")
    torch.save({name: value for name, value in GOOD.items() if name != key}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=line):
        checkpoint.load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("key", ["optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version"])
def test_entries_that_training_needs(key):
    checkpoint.refuse_unresumable(GOOD, "a.ckpt")
    for changed in ({**GOOD, key: None}, {name: value for name, value in GOOD.items() if name != key}):
        with pytest.raises(UserError, match=f"a.ckpt: training cannot go on from it, it lacks {key}"):
            checkpoint.refuse_unresumable(changed, "a.ckpt")
    for changed in ({**GOOD, "loops": {"a": 1}}, {**GOOD, "optimizer_states": ["x"]}):
        with pytest.raises(UserError, match="lacks the state of the optimizer or of its loops"):
            checkpoint.refuse_unresumable(changed, "a.ckpt")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "loop", "folder"])
def test_names_that_no_checkpoint_has(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / name)
