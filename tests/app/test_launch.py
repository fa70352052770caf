"""The command line: what a user types, what comes back, and what is left when something goes wrong."""

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision

import launch
from usd.app import launcher
from usd.app.experiment import folder_name, load_experiment, trial_of
from usd.app.loop import Loop
from usd.app.modes import build_experiment
from usd.core import checkpoint
from usd.core.config import plain
from usd.core.registry import find

ROOT = Path(__file__).resolve().parents[2]
CUSTOM = Path(__file__).parents[1] / "core" / "custom"
TINY = str(CUSTOM / "tiny.yaml")


@pytest.fixture(autouse=True)
def _tiny_components(monkeypatch):
    monkeypatch.setenv("USD_CUSTOM", str(CUSTOM))


def run(*argv: str) -> int:
    return launch.main(["--config", TINY, *argv])


def start(out: Path, *argv: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch.py"), "--config", TINY, *argv, f"exp_root_dir={out}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out
    )


def losses(trial: Path) -> dict[int, tuple[str, ...]]:
    """Step -> every logged figure, as text; later runs of the same trial win."""
    rows = {}
    for version in sorted(trial.glob("csv_logs/version_*/metrics.csv")):
        for row in csv.DictReader(version.read_text().splitlines()):
            rows[int(row["step"])] = tuple(row[key] for key in sorted(row))
    return rows


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------- trials


def test_a_trial_has_the_folders_that_scripts_rely_on(tmp_path):
    assert run("--train", f"exp_root_dir={tmp_path}", "trainer.max_steps=3") == 0
    trial = tmp_path / "tiny" / "run"
    assert {item.name for item in trial.iterdir()} >= {
        "ckpts",
        "configs",
        "save",
        "tb_logs",
        "csv_logs",
        "cmd.txt",
    }
    assert {item.name for item in (trial / "configs").iterdir()} == {
        "raw.yaml",
        "parsed.yaml",
        "changes.json",
    }
    assert {item.name for item in (trial / "ckpts").iterdir()} == {"last.ckpt", "epoch=0-step=3.ckpt"}
    assert (trial / "save" / "it3-test" / "1.txt").exists()


def test_the_parsed_snapshot_reads_back_as_the_same_experiment(tmp_path):
    assert run("--train", f"exp_root_dir={tmp_path}", "trainer.max_steps=2", "use_timestamp=true") == 0
    (trial,) = (tmp_path / "tiny").iterdir()
    assert trial.name.startswith("run@20")
    first, _ = load_experiment([trial / "configs" / "parsed.yaml"])
    raw, _ = load_experiment([trial / "configs" / "raw.yaml"], [f"timestamp='{first.timestamp}'"])
    assert plain(first) == plain(raw)


def test_testing_and_exporting_a_trial_by_its_own_snapshot(tmp_path):
    assert (
        run("--train", f"exp_root_dir={tmp_path}", "trainer.max_steps=4", "trainer.test_after_fit=false") == 0
    )
    trial = tmp_path / "tiny" / "run"
    snapshot, last = str(trial / "configs" / "parsed.yaml"), f"resume={trial / 'ckpts' / 'last.ckpt'}"
    assert launch.main(["--config", snapshot, "--test", last]) == 0
    assert launch.main(["--config", snapshot, "--validate", last]) == 0
    assert launch.main(["--config", snapshot, "--export", last, "exporter_type=null"]) in (0, 2)
    assert (trial / "save" / "it4-test" / "0.txt").exists()


def test_a_trial_whose_path_has_an_equals_sign_is_resumed_tested_and_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = ["exp_root_dir=lr=1", "tag=a=b #1", "trainer.test_after_fit=false"]
    assert run("--train", *out, "trainer.max_steps=2") == 0
    trial = Path("lr=1/tiny/a=b #1")
    files, last = (
        ["--config", str(trial / "configs" / "parsed.yaml")],
        f"resume={trial / 'ckpts' / 'last.ckpt'}",
    )
    assert launch.main([*files, "--train", last, "trainer.max_steps=4"]) == 0
    assert launch.main([*files, last, "--test"]) == 0
    assert launch.main([*files, "--export", last]) == 0
    assert {item.name for item in (trial / "save").iterdir()} == {"it4-test", "it4-export"}


def test_what_stands_behind_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("seed=3.yaml").touch()
    files = ["x/tag=a/parsed.yaml", "./b=c.yaml", "seed=3.yaml"]
    flags, overrides = launcher.arguments(
        ["--config", *files, "seed=3", "--train", "--config", "no=file", "tag=x"]
    )
    assert (flags.config, overrides) == ([*files, "no=file"], ["seed=3", "tag=x"])


def test_texts_come_through_the_command_line_and_the_trial_s_own_files(tmp_path):
    for tag in ("1e3", "a #1: [b] ${oc.env:HOME}", "null", "yes"):
        settings = [
            f"tag={tag}",
            "trainer.max_steps=1",
            "trainer.test_after_fit=false",
            "checkpoint.save_top_k=0",
        ]
        assert run("--train", f"exp_root_dir={tmp_path}", *settings) == 0
        trial = tmp_path / "tiny" / folder_name(tag)
        experiments = [load_experiment([trial / "configs" / name])[0] for name in ("parsed.yaml", "raw.yaml")]
        assert [experiment.tag for experiment in experiments] == [tag, tag]


# ----------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_is_plain_and_knows_its_components(tmp_path):
    run("--train", f"exp_root_dir={tmp_path}", "trainer.max_steps=2")
    content = torch.load(tmp_path / "tiny" / "run" / "ckpts" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert content["system"]["config"]["target"] == 1.0
    assert "geometry.network.weight" in content["state_dict"]
    assert not [key for key in content["state_dict"] if key.startswith("guidance")]


def test_resuming_after_kill_9_equals_an_unbroken_run(tmp_path):
    settings = ["--train", "trainer.max_steps=40", "checkpoint.last_every_n_steps=7"]
    (tmp_path / "broken").mkdir()
    killed = start(tmp_path / "broken", *settings, "system.pause=0.05")
    trial = tmp_path / "broken" / "tiny" / "run"
    log = trial / "csv_logs" / "version_0" / "metrics.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 18, killed)
    killed.kill()
    killed.wait()
    step = checkpoint.load(trial / "ckpts" / "last.ckpt")["global_step"]
    assert 14 <= step < 40
    resume = f"resume={trial / 'ckpts' / 'last.ckpt'}"
    assert run(*settings, resume, f"exp_root_dir={tmp_path / 'broken'}") == 0
    assert run(*settings, f"exp_root_dir={tmp_path / 'whole'}") == 0
    whole, resumed = losses(tmp_path / "whole" / "tiny" / "run"), losses(trial)
    assert len(whole) == 40
    assert whole == resumed
    a = checkpoint.load(tmp_path / "whole" / "tiny" / "run" / "ckpts" / "last.ckpt")["state_dict"]
    b = checkpoint.load(trial / "ckpts" / "last.ckpt")["state_dict"]
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_the_step_and_says_how_to_go_on(tmp_path, number):
    process = start(
        tmp_path, "--train", "trainer.max_steps=4000", "system.pause=0.05", "checkpoint.last_every_n_steps=0"
    )
    trial = tmp_path / "tiny" / "run"
    log = trial / "csv_logs" / "version_0" / "metrics.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "to continue pass resume=" in errors and "Traceback" not in errors
    assert checkpoint.load(trial / "ckpts" / "last.ckpt")["global_step"] >= 3


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    keep = ["checkpoint.save_top_k=2", "checkpoint.every_n_train_steps=3", "trainer.max_steps=13"]
    run("--train", f"exp_root_dir={tmp_path}", *keep)
    names = {file.name for file in (tmp_path / "tiny" / "run" / "ckpts").iterdir()}
    assert names == {"last.ckpt", "epoch=0-step=12.ckpt", "epoch=0-step=13.ckpt"}


# ----------------------------------------------------------------------------------------------------- errors


def message(capsys, *argv: str) -> str:
    """The one line a mistake ends in."""
    assert launch.main(list(argv)) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1].removeprefix("error: ")


MISTAKES = {
    "system.tagret=2": "system.tagret: unknown key. Did you mean 'target'?",
    "system.target=high": "system.target: expected a number, got 'high'",
    "system.weight=[1.5,0,1,3]": "system.weight: step 1.5 must be an integer number of optimizer steps "
    "(a float would count epochs, of which a training has one); "
    "expected a number, [start_step, start_value, end_value, end_step] or {steps: [...], values: [...]}",
    "system.weight=-1": "system.weight: -1 is out of range; expected >= 0",
    "trainer.max_steps=0": "trainer.max_steps: 0 is out of range; expected >= 1",
    "trainer.max_steps=2.5": "trainer.max_steps: expected an integer, got 2.5",
    "system.optimizer.name=AdamQW": "system.optimizer.name: torch.optim has no 'AdamQW'. Did you mean 'AdamW'?",
    "system.optimizer.args.lrr=1": "system.optimizer.args.lrr: unknown key. Did you mean 'lr'?",
    "system.optimizer.params.geometry.net.lr=1": "system.optimizer.params.geometry.net: no parameters there. "
    "Did you mean 'geometry.network'?",
    "system_type=../../tiny": "system_type: '../../tiny' is no name of a system; expected letters, digits, - and _",
    "system.optimizer.args.lr=.nan": "system.optimizer.args.lr: nan is out of range; expected a finite number",
    "system.optimizer.args.lr=-1": "system.optimizer.args.lr: -1 is out of range; expected >= 0",
    "seed=1e400": "seed: inf is out of range; expected a finite number",
    "trainer.max_steps=10000000000": "trainer.max_steps: 10000000000 is out of range; expected >= 1 and <= 2147483647",
    "tag=..": "tag: '..' is no name of a folder; expected letters or digits in it",
    "system_type=tiny-sistem": "Did you mean 'tiny-system'?",
    "trainer=3": "trainer: expected a mapping of options, got 3",
    "seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    "--trian": "--trian: unknown option. Did you mean 'train'? See --help.",
    "seed": "seed: not an override; expected key=value",
    "tag=": "tag: required when use_timestamp is false; pass tag=<name of the trial>",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_where_and_what(mistake, tmp_path, capsys):
    text = message(capsys, "--config", TINY, "--train", f"exp_root_dir={tmp_path}", mistake)
    assert MISTAKES[mistake] in text
    assert not list(tmp_path.iterdir()), "nothing is made for a mistake"


def test_only_what_a_mistaken_run_made_itself_goes_with_it(tmp_path, capsys):
    out, wrong = f"exp_root_dir={tmp_path / 'new'}", "system.optimizer.name=AdamQW"
    message(capsys, "--config", TINY, "--train", out, wrong)
    message(capsys, "--config", TINY, "--test", out, "resume=none.ckpt")
    assert not (tmp_path / "new").exists()
    assert run("--train", out, "trainer.max_steps=2") == 0
    message(capsys, "--config", TINY, "--train", out, wrong)
    message(capsys, "--config", TINY, "--train", out, "tag=other", wrong)
    assert [item.name for item in (tmp_path / "new" / "tiny").iterdir()] == ["run"]
    assert (tmp_path / "new" / "tiny" / "run" / "ckpts" / "last.ckpt").exists()


def test_a_file_that_is_not_yaml(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: [1, 2\nseed: 3")
    assert f"{bad}, line 2" in message(capsys, "--config", str(bad), "--train")
    bad.write_text("just words")
    assert "expected a mapping" in message(capsys, "--config", str(bad), "--train")
    assert f"{tmp_path / 'none.yaml'}: no such" in message(
        capsys, "--config", str(tmp_path / "none.yaml"), "--train"
    )
    assert "nothing to do" in message(capsys, "--config", TINY)


def test_bad_checkpoints_are_named_for_what_they_are(tmp_path, capsys):
    out = f"exp_root_dir={tmp_path}"
    run("--train", out, "trainer.max_steps=2")
    good = tmp_path / "tiny" / "run" / "ckpts" / "last.ckpt"
    cut, other = tmp_path / "cut.ckpt", tmp_path / "other.ckpt"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    torch.save({"weights": torch.zeros(2)}, other)
    base = ["--config", TINY, "--test", out]
    assert "truncated, or not a checkpoint" in message(capsys, *base, f"resume={cut}")
    assert "truncated, or not a checkpoint" in message(capsys, *base, f"resume={TINY}")
    assert "not a checkpoint of this project" in message(capsys, *base, f"resume={other}")
    assert "no such checkpoint; there is" in message(capsys, *base, f"resume={good.parent / 'lsat.ckpt'}")
    assert "needs a trained checkpoint" in message(capsys, *base)
    foreign = {**checkpoint.load(good), "state_dict": {"material.weight": torch.zeros(3)}}
    checkpoint.save_atomic(foreign, other)
    for mode in ("--test", "--train"):
        assert "of another system" in message(capsys, "--config", TINY, mode, out, f"resume={other}")


def weights(trial: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(trial / "ckpts" / "last.ckpt")["state_dict"]


def test_a_step_that_is_not_finite_is_skipped_counted_and_said(tmp_path, capsys):
    """Nothing of it reaches the weights or the optimizer, and resuming knows of it."""
    out = [f"exp_root_dir={tmp_path}", "trainer.max_steps=9"]
    assert run("--train", *out, "system.fail_at=4", "system.fail_until=6") == 0
    said = capsys.readouterr().out
    assert "step 4: skipped, since loss 'square' is nan; skipped so far: 1\n" in said
    assert "skipped so far: 2\n" in said and "skipped so far: 3" not in said
    trial = tmp_path / "tiny" / "run"
    saved = checkpoint.load(trial / "ckpts" / "last.ckpt")
    assert saved["global_step"] == 9 and saved["skipped_steps"] == 3
    steps = [state["step"] for state in saved["optimizer_states"][0]["state"].values()]
    assert [float(step) for step in steps] == [6.0] * len(steps)
    assert all(torch.isfinite(x).all() for x in saved["state_dict"].values())
    rows = list(csv.DictReader((trial / "csv_logs/version_0/metrics.csv").read_text().splitlines()))
    assert [row["train/skipped_steps"] for row in rows] == [""] * 4 + ["1.0", "2.0", "3.0", "3.0", "3.0"]
    assert [row["train/grad_norm"] == "nan" for row in rows] == [False] * 4 + [True] * 3 + [False] * 2


def test_a_training_that_starts_over_does_not_offer_the_former_run_s_checkpoint_as_its_own(tmp_path, capsys):
    given = ["--config", TINY, "--train", f"exp_root_dir={tmp_path}", "trainer.test_after_fit=false"]
    assert launch.main([*given, "trainer.max_steps=2"]) == 0
    last = f"(last checkpoint: {tmp_path / 'tiny' / 'run' / 'ckpts' / 'last.ckpt'})"
    assert message(capsys, *given, "system.break_at=1") == "this process has enough"
    resumed = f"resume={tmp_path / 'tiny' / 'run' / 'ckpts' / 'last.ckpt'}"
    assert message(capsys, *given, "system.break_at=3", resumed) == f"this process has enough {last}"
    assert message(capsys, *given, "system.break_at=7") == f"this process has enough {last}"


def test_too_many_skipped_steps_in_a_row_stop_with_the_last_good_state(tmp_path, capsys):
    given = ["--config", TINY, "--train", "system.fail_at=12", "system.fail_until=20"]
    broken = [*given, "trainer.max_skipped_steps=3", f"exp_root_dir={tmp_path / 'broken'}"]
    text = message(capsys, *broken)
    assert text.startswith(
        "step 15: skipped 4 in a row, the last since loss 'square' is nan; nothing of them reached"
    )
    trial = tmp_path / "broken" / "tiny" / "run"
    assert text.endswith(f"(last checkpoint: {trial / 'ckpts' / 'last.ckpt'})")
    assert checkpoint.load(trial / "ckpts" / "last.ckpt")["global_step"] == 16
    run("--train", "trainer.max_steps=12", f"exp_root_dir={tmp_path / 'good'}")
    good = weights(tmp_path / "good" / "tiny" / "run")
    assert torch.equal(weights(trial)["geometry.network.weight"], good["geometry.network.weight"])
    resume = f"resume={trial / 'ckpts' / 'last.ckpt'}"
    assert run("--train", resume, f"exp_root_dir={tmp_path / 'broken'}") == 0
    assert checkpoint.load(trial / "ckpts" / "last.ckpt")["global_step"] == 30


@pytest.mark.parametrize("part", [0, 1])
def test_one_part_of_a_batch_that_is_not_finite_costs_the_whole_step(tmp_path, monkeypatch, part):
    given = [f"exp_root_dir={tmp_path}", "trainer.max_steps=5", "trainer.batch_parts=2"]
    compute = find("system", "tiny-system").compute

    def broken(self, batch, step, generator):
        bad = step == 3 and self.share.first == part
        losses = compute(self, batch, step, generator)
        return {name: loss * float("nan") for name, loss in losses.items()} if bad else losses

    monkeypatch.setattr(find("system", "tiny-system"), "compute", broken)
    assert run("--train", *given) == 0
    saved = checkpoint.load(tmp_path / "tiny" / "run" / "ckpts" / "last.ckpt")
    states = saved["optimizer_states"][0]["state"].values()
    assert saved["skipped_steps"] == 1 and {float(state["step"]) for state in states} == {4.0}


def test_a_scaler_for_half_floats_and_skipping_leave_each_other_alone(tmp_path):
    """An overflow lowers the scale, a loss that is not a number does not; both are counted, neither reaches a weight."""
    experiment, _ = load_experiment([TINY], [f"exp_root_dir={tmp_path}", "trainer.max_steps=8"])
    system, data = build_experiment(experiment, trial_of(experiment))
    compute = system.compute

    def overflowing(batch, step, generator):
        factor = {2: 1e3, 5: float("nan")}.get(step, 1.0)
        return {name: factor * loss for name, loss in compute(batch, step, generator).items()}

    system.compute = overflowing
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    half = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = Trainer(
        max_steps=8, accelerator="cpu", plugins=[half], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Loop(system, data))
    assert scaler.get_scale() == 2.0**9
    assert (system.skipped.total, system.skipped.in_a_row) == (2, 0)
    taken = [float(state["step"]) for state in trainer.optimizers[0].state.values()]
    assert taken == [6.0] * len(taken)
    assert all(torch.isfinite(x).all() for x in system.parameters())


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(tmp_path, capsys, monkeypatch):
    real = checkpoint.save_atomic

    def full(content, path):
        if content["global_step"] > 10:
            monkeypatch.setattr(
                "os.fsync", lambda number: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
            )
        real(content, path)

    monkeypatch.setattr(checkpoint, "save_atomic", full)
    text = message(capsys, "--config", TINY, "--train", f"exp_root_dir={tmp_path}")
    last = tmp_path / "tiny" / "run" / "ckpts" / "last.ckpt"
    assert text.startswith(f"{last}: could not be written (no space left on the device)")
    assert checkpoint.load(last)["global_step"] == 10


def test_running_out_of_gpu_memory_says_what_to_lower(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(torch.nn.Linear, "forward", full)
    text = message(capsys, "--config", TINY, "--train", f"exp_root_dir={tmp_path}")
    assert text.startswith("out of GPU memory: add a preset of configs/presets")


def test_other_options_than_the_checkpoint_s_are_pointed_out(tmp_path, capsys):
    out = f"exp_root_dir={tmp_path}"
    run("--train", out, "trainer.max_steps=2")
    resume = f"resume={tmp_path / 'tiny' / 'run' / 'ckpts' / 'last.ckpt'}"
    capsys.readouterr()
    assert run("--train", out, resume, "trainer.max_steps=2") == 0
    assert "the checkpoint is at step 2 of 2; raise trainer.max_steps" in capsys.readouterr().out


def test_asking_for_a_gpu_that_is_not_there_is_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--train", "--gpu", "0", f"exp_root_dir={tmp_path}", "trainer.max_steps=1") == 0
    assert "no CUDA GPU is visible; using the CPU" in capsys.readouterr().out


def test_wandb_without_the_package_is_a_clear_error(tmp_path, capsys):
    pytest.importorskip("lightning")
    if __import__("importlib").util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    text = message(
        capsys, "--config", TINY, "--train", f"exp_root_dir={tmp_path}", "system.loggers.wandb.enable=true"
    )
    assert text == "system.loggers.wandb.enable: the package wandb is not installed; pip install wandb"
