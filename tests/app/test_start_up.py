"""How long a mistake takes to be told, in processor time, and what is not loaded for it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINI = "configs/usd-patch-mini.yaml"
HEAVY = {
    "lightning",
    "torchmetrics",
    "transformers",
    "diffusers",
    "trimesh",
    "warp",
    "imageio",
    "tensorboard",
    "sympy",
}
SCRIPT = """
import contextlib, io, json, sys, time
import launch
for argv in json.loads(sys.argv[1]):
    said = io.StringIO()
    before = time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = launch.main(argv)
    loaded = sorted({name.split(".")[0] for name in sys.modules})
    print(json.dumps([code, said.getvalue(), loaded, time.process_time() - before]))
"""
WITHOUT_TORCH = {
    "unknown flag": ["--trian"],
    "no such file": ["--config", "none.yaml", "--train"],
    "no YAML": ["--config", "README.md", "--train"],
    "list": ["--list"],
}
MISTAKES = {
    "misspelt key": (["--config", MINI, "--train", "system.guidnce=1"], "system.guidnce: unknown key"),
    "no such picture": (
        ["--config", MINI, "--train", "system.guidance.image_path=/none.png"],
        "system.guidance.image_path: /none.png: no such file",
    ),
    "no such picture for a stage": (
        [
            *("--config", "configs/usd-full-mini.yaml", "--train", "tag=none"),
            "stages.object.system.guidance.image_path=/none.png",
        ],
        "stage object: system.guidance.image_path: /none.png: no such file",
    ),
    "a system that trains a diffusion model": (
        [
            *("--config", "configs/specialise.yaml", "--train", "system.image_path=/none.png"),
            "system.lora.x=1",
        ],
        "system.lora.x: unknown key",
    ),
}


@dataclass(frozen=True)
class Told:
    """How a command ended: its code, all it said of errors, the packages there are by then, processor seconds."""

    code: int
    errors: str
    loaded: set[str]
    seconds: float


@pytest.fixture(scope="module")
def told() -> dict[str, Told]:
    """All commands of this file in one process, those that need no torch first: nothing unloads a package."""
    commands = {**WITHOUT_TORCH, **{name: argv for name, (argv, _) in MISTAKES.items()}}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(commands.values()))],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ended = [json.loads(line) for line in out.stdout.splitlines()]
    return {
        name: Told(code, errors, set(loaded), seconds)
        for name, (code, errors, loaded, seconds) in zip(commands, ended, strict=True)
    }


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_needs_no_torch_does_not_load_it(name, told):
    assert told[name].code == (0 if name == "list" else 2)
    assert not told[name].loaded & {*HEAVY, "torch", "scipy"}
    assert told[name].seconds < 2.5


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_the_large_libraries_are_loaded(name, told):
    assert told[name].code == 2 and MISTAKES[name][1] in told[name].errors.splitlines()[-1]
    assert not told[name].loaded & (HEAVY - {"warp", "trimesh"}), (
        "those two come with toys and with shapes read from meshes"
    )
    assert told[name].seconds < 30, "about 2 on one core that nobody shares"
