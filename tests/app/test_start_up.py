"""What a user waits for before anything is computed, in CPU time and in what is imported."""

import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEY = ["-m", "usd", "train", "usd-patch-mini", "system.guidnce=1"]


def cpu_seconds(arguments: list[str]) -> tuple[float, str]:
    """CPU seconds of a run of Python, and what it said of errors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, out.stderr


def test_a_misspelt_key_is_told_for_little_more_than_importing_torch():
    torch, _ = cpu_seconds(["-c", "import torch"])
    told, said = cpu_seconds(KEY)
    assert "Did you mean 'guidance'?" in said
    assert told < 2 * torch + 1  # a second for what is not compiled yet


def test_a_misspelt_key_needs_no_library_but_torch():
    script = f"import sys; from usd.app.commands import main; main({KEY[2:]}); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"lightning", "diffusers", "transformers", "scipy", "warp", "trimesh", "torch._dynamo", "sympy"}
    assert not heavy & set(out.stdout.split())
