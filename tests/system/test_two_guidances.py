"""A sentence and a picture that guide at once, turns of guidance and reference, latents, weights to start from."""

from pathlib import Path

import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, command, trial
from usd.app import launcher
from usd.app.experiment import load_experiment
from usd.core import checkpoint
from usd.core.config import parse
from usd.core.errors import ConfigError
from usd.core.registry import build
from usd.core.types import Render
from usd.system import System
from usd.system.distillation import DistillationSystem
from usd.system.usd import TurnsConfig

ROOT = CONFIGS.parent
QUICK = ["trainer.max_steps=1", "trainer.test_after_fit=false", "trainer.val_check_interval=1"]


def system(name: str, *overrides: str) -> DistillationSystem:
    _, arguments = launcher.arguments(command(name, CONFIGS)[2:])
    made = build(load_experiment([CONFIGS / name], [*arguments, *overrides])[0].system, System)
    assert isinstance(made, DistillationSystem)
    return made


def losses(out: Path) -> dict[str, float]:
    header, row = trial(out).folder.glob("csv_logs/*/metrics.csv").__next__().read_text().split()[:2]
    found = zip(header.split(","), row.split(","), strict=True)
    return {key.removeprefix("train/"): float(value) for key, value in found if value}


def test_both_guidances_have_their_weights(tmp_path: Path) -> None:
    given = ["system.loss.lambda_vsd=1", "system.loss.lambda_3d_sd=1", "trainer.log_every_n_steps=1"]
    assert launch.main(command("magic123-mini.yaml", tmp_path / "a", *QUICK, *given)) == 0
    assert (
        launch.main(
            command(
                "magic123-mini.yaml", tmp_path / "b", *QUICK, *given[:1], "system.loss.lambda_3d=3", given[2]
            )
        )
        == 0
    )
    one, three = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert three["3d"] == pytest.approx(3 * one["3d"], rel=1e-4) and one["3d"] > 0
    assert three["usd"] == pytest.approx(one["usd"], rel=1e-4) and {"rgb", "mask"} <= set(one)


def test_a_second_weight_without_its_guidance_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"system\.guidance_3d_type: required by lambda_3d"):
        system("usd-patch-mini.yaml", "system.loss.lambda_3d=1")


def test_guidance_and_reference_take_turns() -> None:
    turns = parse(TurnsConfig, {"ref_or_guidance": "alternate", "n_ref": 3, "ref_only_steps": 2})
    steps = range(8)
    assert [turns.has_reference(step) for step in steps] == [
        True,
        True,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert [turns.has_guidance(step) for step in steps] == [
        False,
        False,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    both = parse(TurnsConfig, {"no_diff_steps": 1})
    assert [both.has_guidance(step) for step in (0, 1)] == [False, True] and both.has_reference(0)


def test_the_first_steps_of_fantasia3d_are_latents_of_normals_and_opacity() -> None:
    made = system(
        "usd-text-to-3D-patch-mini.yaml", "system.stage=geometry", "system.latent_steps=2",
        "system.geometry.normal_type=finite_difference",
    )  # fmt: skip
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    render = Render(torch.rand(1, 3, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), normal=up)
    latents = made.latents_of(render, 1)
    assert latents is not None and made.latents_of(render, 2) is None
    assert latents[0, :, 0, 0].tolist() == [0, 0, 1, 1], "2 n - 1 of the color (0.5, 0.5, 1), and opacity"
    assert float(latents[0, 3, 0, 1]) == 0


def test_channels_of_material_and_background_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"system\.background\.n_output_dims: is 3; expected 4"):
        system("latent-nerf-mini.yaml", "system.material.n_output_dims=4")


def test_a_training_starts_from_weights_without_their_step(tmp_path: Path) -> None:
    assert launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path / "first", *QUICK)) == 0
    start = trial(tmp_path / "first").last
    kept = [f"system.weights={start}", "system.weights_ignore_modules=[material, background]"]
    rates = ["system.optimizer.params=null", "system.optimizer.args.lr=1e-12"]
    assert (
        launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path / "next", *QUICK, *kept, *rates)) == 0
    )
    before, after = checkpoint.load(start), checkpoint.load(trial(tmp_path / "next").last)
    assert after["global_step"] == 1
    name = next(key for key in before["state_dict"] if key.startswith("geometry.density_network"))
    torch.testing.assert_close(before["state_dict"][name], after["state_dict"][name], atol=1e-6, rtol=0)


def test_a_module_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path / "first", *QUICK)) == 0
    given = [f"system.weights={trial(tmp_path / 'first').last}", "system.weights_ignore_modules=[materiel]"]
    assert launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path / "next", *QUICK, *given)) == 2
    assert "system.weights_ignore_modules: no weights are called materiel" in capsys.readouterr().err
