"""Several processes train one object: the same figures and weights as one, one writer, and nobody left waiting."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from tests import ddp
from tests.tiny_configs import command, save_disc
from usd.app.devices import choose_devices, count_processes, first_device
from usd.app.elevation_estimate import elevation_arguments
from usd.app.picture_command import picture_arguments
from usd.app.processes import refuse_undivided
from usd.app.rectification_command import rectification_arguments
from usd.app.views_command import views_arguments
from usd.core import checkpoint
from usd.core.errors import UserError
from usd.data import Data
from usd.data.convert import write_views
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.system import System
from usd.system.distillation import DistillationSystem

TINY = str(Path(__file__).parents[1] / "core" / "custom" / "tiny.yaml")
STEPS = 8


def tiny(out: Path, *overrides: str) -> list[str]:
    return ["--config", TINY, "--train", f"exp_root_dir={out}", f"trainer.max_steps={STEPS}", *overrides]


def picture(out: Path, disc: Path, *overrides: str) -> list[str]:
    """Two views a step, a patch in each, a reference view, and losses that divide by what they count."""
    losses = [f"system.loss.lambda_{name}=0.5" for name in ("rgb", "mask", "orient", "opaque", "z_variance")]
    return command(
        "usd-patch.yaml",
        out,
        f"system.guidance.image_path={disc}",
        "data.batch_size=2",
        "trainer.max_steps=3",
        "trainer.val_check_interval=2",
        "system.background.random_aug=true",
        "system.geometry.normal_type=analytic",
        *losses,
        *overrides,
    )


def surface(out: Path, seen: Path) -> list[str]:
    """An odd number of rays, which follows the number of samples; and errors that are not believed."""
    sizes = [
        f"data.path={seen}",
        "data.n_rays=65",
        "system.first_rays=33",
        "system.samples_per_step=400",
        "system.field_points=64",
        "system.outliers.rgb=0.2",
        "system.loss.lambda_curvature=0.001",
        "system.renderer.num_samples_per_ray=24",
        "system.renderer.grid_resolution=8",
        "system.geometry.pos_encoding_config.n_levels=3",
        "system.geometry.pos_encoding_config.log2_hashmap_size=10",
        "trainer.val_check_interval=0",
        "trainer.log_every_n_steps=1",
        "trainer.test_after_fit=false",
        "trainer.max_steps=3",
    ]
    place = [f"exp_root_dir={out}", "use_timestamp=false", "tag=run", "name=small"]
    config = str(ddp.ROOT / "configs" / "reconstruct.yaml")
    return ["--config", config, "--train", *place, *sizes]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """All commands of this file, by name, run one after the other from one import."""
    out = tmp_path_factory.mktemp("processes")
    disc = save_disc(out / "disc.png")
    write_views(render_toy_views(1_000_000, sphere_cameras(4, 16)), out / "seen")
    resume = f"resume={out / 'halves/tiny/run/ckpts/last.ckpt'}"
    commands = {
        "one": (1, tiny(out / "one")),
        "two": (2, tiny(out / "two")),
        "first half": (2, tiny(out / "halves", "trainer.max_steps=3", "trainer.test_after_fit=false")),
        "second half": (2, tiny(out / "halves", resume)),
        "picture, one": (1, picture(out / "picture-one", disc)),
        "picture, two": (2, picture(out / "picture-two", disc)),
        "views, one": (1, surface(out / "views-one", out / "seen")),
        "views, two": (2, surface(out / "views-two", out / "seen")),
        "uneven": (2, tiny(out / "uneven", "data.batch_size=3")),
        "broken": (2, tiny(out / "broken", "system.break_at=4", "system.fail_in=1")),
        "not a number": (
            2,
            tiny(
                out / "nan",
                "system.fail_at=5",
                "system.fail_until=7",
                "system.fail_in=1",
                "trainer.max_skipped_steps=1",
            ),
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USD_CUSTOM", str(Path(TINY).parent))
        done = ddp.run(list(commands.values()))
    return out, dict(zip(commands, done, strict=True))


def figures(trial: Path) -> dict[int, dict[str, float]]:
    """Step -> what was logged of it."""
    rows: dict[int, dict[str, float]] = {}
    for file in sorted(trial.glob("csv_logs/version_*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            known = {key: float(value) for key, value in row.items() if value and key.startswith("train/")}
            rows.setdefault(int(row["step"]), {}).update(known)
    return rows


def assert_same_training(a: Path, b: Path, tolerance: float) -> None:
    one, two = figures(a), figures(b)
    assert list(one) == list(two) and one
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=tolerance, abs=1e-6)
    weights = [checkpoint.load(trial / "ckpts" / "last.ckpt")["state_dict"] for trial in (a, b)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=tolerance, atol=tolerance)


def test_two_processes_train_as_one_does(ended):
    out, done = ended
    assert done["one"].codes == [0] and done["two"].codes == [0, 0], done["two"].texts
    assert_same_training(out / "one/tiny/run", out / "two/tiny/run", 1e-5)


def test_an_object_from_a_picture_is_the_same(ended):
    out, done = ended
    assert done["picture, two"].codes == [0, 0], done["picture, two"].texts
    assert_same_training(out / "picture-one/small/run", out / "picture-two/small/run", 1e-5)


def test_a_surface_from_views_is_the_same(ended):
    out, done = ended
    assert done["views, two"].codes == [0, 0], done["views, two"].texts
    assert_same_training(out / "views-one/small/run", out / "views-two/small/run", 1e-5)


def test_resuming_with_two_processes_continues(ended):
    out, done = ended
    assert done["second half"].codes == [0, 0], done["second half"].texts
    assert_same_training(out / "one/tiny/run", out / "halves/tiny/run", 1e-5)


def test_only_the_first_process_writes_and_speaks(ended):
    out, done = ended
    first, second = done["two"].texts
    assert "trial:" in first and "trial:" not in second and "step 1/" not in second
    trial = out / "two/tiny/run"
    assert (trial / "cmd.txt").read_text().count("\n") == 1
    assert len(list(trial.glob("csv_logs/*"))) == len(list(trial.glob("tb_logs/*/events*"))) == 1
    assert {file.name for file in (trial / "save" / f"it{STEPS}-test").iterdir()} == {"0.txt", "1.txt"}


def test_all_views_of_a_test_are_there(ended):
    out, _ = ended
    names = [
        {p.name for p in (out / f"picture-{n}/small/run/save/it3-test").iterdir()} for n in ("one", "two")
    ]
    assert names[0] == names[1] and "2.png" in names[1]


def test_a_batch_that_cannot_be_shared_is_one_line(ended):
    _, done = ended
    assert done["uneven"].codes == [2, 2]
    assert "error: data.batch_size: 3" in done["uneven"].texts[0]
    assert "Traceback" not in done["uneven"].texts[0]


def test_what_goes_wrong_in_one_process_ends_all(ended):
    _, done = ended
    assert done["not a number"].codes == [2, 2], done["not a number"].texts
    assert "step 5: skipped, since loss 'square' is nan" in done["not a number"].texts[0], (
        "in the other process"
    )
    assert "step 6: skipped 2 in a row, the last since loss 'square' is nan" in done["not a number"].texts[0]


def test_a_process_that_fails_alone_leaves_nobody_waiting(ended):
    _, done = ended
    assert done["broken"].codes == [2, 2], done["broken"].texts
    first, second = done["broken"].texts
    assert "process 1: error: this process has enough" in second
    assert "error: another of the processes stopped; see what it said" in first and "Traceback" not in first


def test_a_system_for_one_process_is_one_line():
    assert not System.shares_batches and DistillationSystem.shares_batches
    with pytest.raises(UserError, match="--gpu: System is trained by one process"):
        refuse_undivided(object.__new__(System), object.__new__(Data), 2, 1)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("nonsense", "--device nonsense: is no device; expected cpu"),
        ("cuda:1", r"--device cuda:1: 1 CUDA GPU\(s\) are visible; expected cpu, or cuda:0"),
        ("cpu", ""),
        ("cuda", ""),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        partial(views_arguments, ["a.png", "out", "--model", "x"]),
        partial(picture_arguments, ["a cup", "out"]),
        partial(elevation_arguments, ["a.png"]),
        partial(rectification_arguments, ["a.png"]),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(device, said, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = [*command.args[0], "--device", device]
    if said:
        with pytest.raises(UserError, match=said):
            command.func(words)
    else:
        assert command.func(words).device == device


@pytest.mark.parametrize(
    ("gpu", "devices"), [("cpu", 1), ("cpu:2", 2), ("cpu:0", None), ("cpu:x", None), ("a", None), (",", None)]
)
def test_devices_are_as_many_as_named(gpu, devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if devices is None:
        with pytest.raises(UserError, match=f"--gpu {gpu}: expected"):
            choose_devices(gpu)
    else:
        assert choose_devices(gpu) == ("cpu", devices)
    assert choose_devices("0,1") == ("gpu", [0, 1]) and count_processes([0, 1]) == 2
    assert first_device("0,1") == "0" and first_device("cpu:2") == "cpu" and first_device(None) is None
    with pytest.raises(UserError, match="names a GPU twice"):
        choose_devices("1,1")


def test_the_launcher_starts_the_others_and_all_stop_together(tmp_path):
    """As a user does it; a request to stop that reaches the first process only."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "USD_CUSTOM": str(Path(TINY).parent)}
    settings = tiny(tmp_path, "trainer.max_steps=4000", "system.pause=0.05", "--gpu", "cpu:2")
    process = subprocess.Popen(
        [sys.executable, str(ddp.ROOT / "launch.py"), *settings],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    last = tmp_path / "tiny/run/ckpts/last.ckpt"
    end = time.monotonic() + 500
    while not last.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.1)
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.count("stopping after this step") == errors.count("to continue pass resume=") == 1
    assert others and not psutil.wait_procs(others, timeout=60)[1]
    assert checkpoint.load(last)["global_step"] > 5
