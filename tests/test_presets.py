"""Presets for cards of several sizes lie over the recipes and change what their head says."""

import pytest

from tests.tiny_configs import CONFIGS
from usd.app.experiment import load_experiment
from usd.core.config import plain

PRESETS = CONFIGS / "presets"
IMAGE = ["usd-patch.yaml", "usd-patch-mini.yaml"]
TEXT = [
    "usd-text-to-3D-patch.yaml",
    "usd-text-to-3D-patch-mini.yaml",
    "usd-text-to-3D-geometry.yaml",
    "usd-text-to-3D-texture.yaml",
]
PATCHES = ["usd-patch.yaml", "usd-text-to-3D-patch.yaml"]
NEEDED = ["system.prompt_processor.prompt=x"]
CASES = [(recipe, preset) for preset in ("8gb-models", "12gb", "24gb") for recipe in (*IMAGE, *TEXT)]
CASES += [(recipe, "8gb") for recipe in PATCHES]


def changes(recipe, *presets):
    """Key paths in which the recipe under the presets differs from itself."""
    given = [*NEEDED, *(["system.geometry_convert_from=a.ckpt"] if recipe in TEXT[2:] else [])]
    with_it, without = (
        plain(load_experiment([CONFIGS / recipe, *files], given)[0])
        for files in ([PRESETS / f"{name}.yaml" for name in presets], [])
    )
    return dict(differing(with_it, without))


def differing(a, b, path=""):
    for key in a:
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(a[key], dict) and isinstance(b[key], dict):
            yield from differing(a[key], b[key], inner)
        elif a[key] != b[key] and key != "timestamp":
            yield inner, a[key]


@pytest.mark.parametrize(("recipe", "preset"), CASES)
def test_a_preset_changes_how_models_are_run_and_nothing_else(recipe, preset):
    changed = changes(recipe, preset)
    samples = changed.pop("system.renderer.base_renderer.num_samples_per_ray", None)
    assert samples == (256 if preset == "8gb" else None)
    assert changed and all(key.startswith("system.guidance.models.") for key in changed)
    assert ("system.guidance.models.offload" in changed) == preset.startswith("8gb")


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_head_says_that_nobody_measured_it(file):
    head = " ".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    for word in ("makes", "machine", "numbers", "not measured", "docs/real-models.md", "python launch.py"):
        assert word in head
