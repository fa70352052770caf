"""How long a mistake takes to be told, in processor time, and what is not loaded for it."""

import os
import resource
import subprocess
import sys
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
import sys, launch
code = launch.main(sys.argv[1:])
print("loaded", *{name.split(".")[0] for name in sys.modules})
sys.exit(code)
"""


def told(*argv: str) -> tuple[int, str, set[str], float]:
    """Exit code, last line of errors, what was loaded, and seconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, *argv],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    loaded = next(line for line in out.stdout.splitlines() if line.startswith("loaded"))
    return out.returncode, (out.stderr.strip().splitlines() or [""])[-1], set(loaded.split()[1:]), seconds


@pytest.mark.parametrize(
    "argv",
    [["--trian"], ["--config", "none.yaml", "--train"], ["--config", "README.md", "--train"], ["--list"]],
    ids=["unknown flag", "no such file", "no YAML", "list"],
)
def test_what_needs_no_torch_does_not_load_it(argv):
    code, _, loaded, seconds = told(*argv)
    assert code == (0 if argv == ["--list"] else 2)
    assert not loaded & {*HEAVY, "torch", "scipy"}
    assert seconds < 2.5


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--config", MINI, "--train", "system.guidnce=1"], "system.guidnce: unknown key"),
        (
            ["--config", MINI, "--train", "system.guidance.image_path=/none.png"],
            "system.guidance.image_path: /none.png: no such file",
        ),
        (
            [
                "--config",
                "configs/usd-full-mini.yaml",
                "--train",
                "tag=none",
                "stages.object.system.guidance.image_path=/none.png",
            ],
            "stage object: system.guidance.image_path: /none.png: no such file",
        ),
        (
            [
                "--config",
                "configs/specialise.yaml",
                "--train",
                "system.image_path=/none.png",
                "system.lora.x=1",
            ],
            "system.lora.x: unknown key",
        ),
    ],
    ids=[
        "misspelt key",
        "no such picture",
        "no such picture for a stage",
        "a system that trains a diffusion model",
    ],
)
def test_a_mistake_is_told_before_the_large_libraries_are_loaded(argv, line):
    code, error, loaded, seconds = told(*argv)
    assert code == 2 and line in error
    assert not loaded & (HEAVY - {"warp", "trimesh"}), (
        "those two come with toys and with shapes read from meshes"
    )
    assert seconds < 30, "about 2 on one core that nobody shares"
