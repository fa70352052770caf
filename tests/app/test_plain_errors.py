"""What a machine runs out of, or does not allow: one line that says what to do, exit code 2."""

import errno
import os
from pathlib import Path

import pytest
import torch

import launch
from tests.tiny_configs import command, trial
from usd.app import launcher
from usd.app.machine_errors import plain_errors
from usd.app.resuming import compare_optimizers
from usd.core.checkpoint import load
from usd.core.errors import UserError
from usd.system import OptimizerConfig

CUSTOM = Path(__file__).parents[1] / "core" / "custom"
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: "


def raised(error: BaseException) -> str:
    with pytest.raises(UserError) as caught, plain_errors(Path("trial")):
        raise error
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError(
                ALLOCATOR + "can't allocate memory: you tried to allocate 40000000000 bytes. Error code 12"
            ),
            "out of memory (37.3 GiB at once were asked for): lower data.batch_size, the renderer's",
        ),
        (
            RuntimeError(ALLOCATOR + "not enough memory: you tried to allocate 2147483648 bytes."),
            "(2 GiB at once",
        ),
        (
            MemoryError("Unable to allocate 74.5 GiB for an array with shape (100000, 100000)"),
            "(74.5 GiB at once",
        ),
        (MemoryError(), "out of memory: lower data.batch_size"),
        (
            RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904]"),
            "out of memory: lower",
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            "trial: a file of that size is not allowed here (ulimit -f)",
        ),
        (OSError(errno.ENOSPC, "full"), "trial: no space left on the device"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b.png"), "a/b.png: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "x", "long"), "long: File name too long"),
    ],
)
def test_a_line_for_each(error, line):
    assert line in raised(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ConnectionResetError(104, "x"), OSError("plain"), KeyError("x")]
)
def test_faults_of_ours_keep_their_traceback(error):
    with pytest.raises(type(error)), plain_errors(Path("trial")):
        raise error


def test_a_batch_that_no_memory_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("USD_CUSTOM", str(CUSTOM))
    argv = ["--config", str(CUSTOM / "tiny.yaml"), "--train", f"exp_root_dir={tmp_path}"]
    assert launch.main([*argv, f"data.batch_size={10**15}"]) == 2
    error = capsys.readouterr().err
    assert "error: out of memory (1.12e+07 GiB at once were asked for): lower data.batch_size" in error
    assert "Traceback" not in error


def test_what_the_file_system_refuses_outside_of_a_run_is_one_line(capsys, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "x" * 10)

    monkeypatch.setattr(launcher, "perform", refused)
    assert launch.main(["--config", "a.yaml", "--train"]) == 2
    assert capsys.readouterr().err == "error: xxxxxxxxxx: File name too long\n"


def test_running_out_of_the_memory_of_a_gpu_names_the_presets():
    assert raised(torch.OutOfMemoryError("CUDA")).startswith(
        "out of GPU memory: add a preset of configs/presets"
    )


def resumed_with(capsys, **changed) -> str:
    """What is said when a training with another optimizer goes on from AdamW's state."""
    config = OptimizerConfig(**{"name": "AdamW", "args": {"lr": 0.01}, "params": {"geometry": {}}, **changed})
    then = {"name": "AdamW", "args": {"lr": 0.01}, "params": {"geometry": {}}}
    compare_optimizers({"system": {"config": {"optimizer": then}}}, config)
    return capsys.readouterr().out


def test_another_optimizer_does_not_go_on_and_other_settings_are_told(capsys):
    assert resumed_with(capsys) == ""
    assert resumed_with(capsys, args={"lr": 0.02}) == (
        "note: system.optimizer.args is {'lr': 0.02}, but was {'lr': 0.01} when the checkpoint was made\n"
    )
    with pytest.raises(UserError, match=r"optimizer\.name: SGD cannot go on from the state of AdamW"):
        resumed_with(capsys, name="SGD")
    with pytest.raises(UserError, match=r"params: \[\] cannot go on from the state of \['geometry'\]"):
        resumed_with(capsys, params={})


def test_settings_changed_on_resuming_reach_the_optimizer(tmp_path):
    """With its state PyTorch would take the old ones."""
    short = ["trainer.val_check_interval=0", "trainer.test_after_fit=false"]
    assert launch.main(command("usd-patch-mini.yaml", tmp_path, "trainer.max_steps=1", *short)) == 0
    last = trial(tmp_path).last
    again = [f"resume={last}", "trainer.max_steps=2", "system.optimizer.args.eps=0.001"]
    assert launch.main(command("usd-patch-mini.yaml", tmp_path, *short, *again)) == 0
    groups = load(last)["optimizer_states"][0]["param_groups"]
    assert [group["eps"] for group in groups] == [0.001] * len(groups)
