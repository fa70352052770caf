import errno
import os

import pytest
import torch

from usd.core import checkpoint
from usd.core.config import spec
from usd.core.errors import UserError


def example(step: int = 7) -> dict:
    specs = {"background": spec("background", "solid-color-background", {"color": [0, 0, 1]})}
    weights = {"background.value": torch.tensor([0.0, 0.0, 1.0]), "geometry.w": torch.zeros(2)}
    components = checkpoint.component_entries(specs)
    return {"format": checkpoint.FORMAT, "global_step": step, "state_dict": weights, "components": components}


def test_what_is_saved_is_what_loads(tmp_path):
    checkpoint.save_atomic(example(), tmp_path / "deep" / "a.ckpt")
    loaded = checkpoint.load(tmp_path / "deep" / "a.ckpt")
    assert loaded["global_step"] == 7
    assert torch.equal(loaded["state_dict"]["background.value"], torch.tensor([0.0, 0.0, 1.0]))
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.ckpt"]


def test_a_later_stage_reads_one_component():
    part = checkpoint.saved_component(example(), "background")
    assert part.spec.config.color == (0.0, 0.0, 1.0)
    assert list(part.weights) == ["value"]
    assert part.step == 7
    with pytest.raises(UserError, match=r"has no backgroud; it has background\. Did you mean 'background'"):
        checkpoint.saved_component(example(), "backgroud")


def test_options_that_changed_since_are_found():
    saved = checkpoint.component_entries(
        {"background": spec("background", "solid-color-background", {"color": [0, 0, 1]})}
    )
    now = {"background": spec("background", "solid-color-background", {"color": [0, 1, 1]})}
    assert checkpoint.differences(saved, now) == {"background.color": ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])}
    assert checkpoint.differences(checkpoint.component_entries(now), now) == {}


@pytest.mark.parametrize("failure", ["write", "rename"])
def test_a_full_disk_leaves_the_old_checkpoint_intact(tmp_path, monkeypatch, failure):
    path = tmp_path / "last.ckpt"
    checkpoint.save_atomic(example(1), path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync" if failure == "write" else "replace", full)
    with pytest.raises(UserError, match="no space left on the device"):
        checkpoint.save_atomic(example(2), path)
    monkeypatch.undo()
    assert checkpoint.load(path)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_torch_s_own_error_on_a_full_disk_is_understood():
    with pytest.raises((OSError, RuntimeError)) as caught, open("/dev/full", "wb") as file:
        torch.save({"x": torch.zeros(10**6)}, file)
    assert checkpoint._reason(caught.value) == "no space left on the device"


@pytest.mark.parametrize("cut", [0, 1, 100, -200, -1])
def test_a_truncated_file_is_called_so(tmp_path, cut):
    path = tmp_path / "a.ckpt"
    checkpoint.save_atomic(example(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match="truncated, or not a checkpoint"):
        checkpoint.load(path)


class Surprise:
    """Something that only unpickling with code execution could load."""


def test_files_that_are_not_ours(tmp_path):
    torch.save({"x": Surprise()}, tmp_path / "code.ckpt")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds more than tensors"):
        checkpoint.load(tmp_path / "code.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        checkpoint.load(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"no such checkpoint; there is code.ckpt, other.ckpt"):
        checkpoint.load(tmp_path / "none.ckpt")


def with_component(**entry) -> dict:
    return {**example(), "components": {"background": entry}}


def test_a_checkpoint_that_names_a_file_as_its_component_imports_nothing(tmp_path):
    intruder = tmp_path / "intruder.py"
    intruder.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name in (str(intruder.with_suffix("")), f"../../../..{intruder.with_suffix('')}"):
        with pytest.raises(
            UserError, match=r"the checkpoint's background_type: '.* is no name of a background"
        ):
            checkpoint.saved_component(with_component(kind="background", name=name, config={}), "background")
    with pytest.raises(
        UserError, match=r"the checkpoint's background is said to be a \.\./\.\.; expected a background"
    ):
        checkpoint.saved_component(with_component(kind="../..", name="intruder", config={}), "background")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("entry", [None, [], "text", {}, {"kind": 1, "name": "x"}, {"kind": "background"}])
def test_a_component_that_is_no_entry_is_one_line(entry):
    with pytest.raises(
        UserError, match="does not say what its background is; expected its kind, name and config"
    ):
        checkpoint.saved_component({**example(), "components": {"background": entry}}, "background")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.ckpt"
    checkpoint.save_atomic({**example(), "more": torch.arange(500.0)}, path)
    return path.read_bytes()


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_is_noticed(tmp_path, written):
    path = tmp_path / "a.ckpt"
    for bit in range(0, 8 * len(written), 61):
        path.write_bytes(flipped(written, bit))
        with pytest.raises(
            UserError, match=rf"{path}: (damaged \(its checksum|truncated, or not a checkpoint)"
        ):
            checkpoint.load(path)


def test_a_checkpoint_without_a_checksum_loads_and_its_content_is_checked_all_the_same(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save({**example(), "more": torch.arange(500.0)}, path)  # as 0.1.0 wrote them
    assert checkpoint.load(path)["global_step"] == 7
    content = path.read_bytes()
    first = content.index(torch.arange(500.0).numpy().tobytes())
    path.write_bytes(flipped(content, 8 * first + 12345))
    with pytest.raises(
        UserError, match=rf"{path}: damaged \(its checksum is not that of its content\); use an earlier"
    ):
        checkpoint.load(path)


def test_other_programs_read_a_checkpoint_with_a_checksum(tmp_path, written):
    path = tmp_path / "a.ckpt"
    path.write_bytes(written)
    assert torch.load(path, weights_only=True)["global_step"] == 7


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, bad):
    path = tmp_path / "last.ckpt"
    checkpoint.save_atomic(example(1), path)
    broken = example(2)
    broken["state_dict"]["geometry.w"][1] = bad
    with pytest.raises(
        UserError, match=r"step 2: 1 of 2 weights of 'geometry\.w' are not finite, so last\.ckpt is not"
    ):
        checkpoint.save_atomic(broken, path)
    assert checkpoint.load(path)["global_step"] == 1 and len(list(tmp_path.iterdir())) == 1
