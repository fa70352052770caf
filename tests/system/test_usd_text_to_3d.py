"""The stages of text to 3D: what each shows to its guidance, and what it leaves."""

import pytest
import torch

import launch
from tests.geometry.shapes import torus_file
from tests.tiny_configs import CONFIGS, command, trial
from usd.app import launcher
from usd.app.experiment import load_experiment
from usd.core import checkpoint
from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.registry import build
from usd.core.types import GuidanceOutput, Render
from usd.guidance import Guidance
from usd.guidance.picture_scores import PictureOptions
from usd.losses.guide_shape import read_guide_shape
from usd.math.camera import orbit_cameras_deg
from usd.system.distillation import DistillationSystem, distillation_weights

VIEWS = orbit_cameras_deg([10.0, 30.0], [0.0, 200.0], 1.5, 40.0, 12)
NORMALS = ["system.geometry.normal_type=finite_difference", "system.stage=geometry"]


def system(*overrides: str) -> DistillationSystem:
    _, arguments = launcher.arguments(command("usd-text-to-3D-patch-mini.yaml", CONFIGS)[2:])
    experiment, _ = load_experiment([CONFIGS / "usd-text-to-3D-patch-mini.yaml"], [*arguments, *overrides])
    torch.manual_seed(0)
    return build(experiment.system)


def test_a_geometry_stage_shows_normals_over_its_background() -> None:
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    opacity = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
    render = Render(torch.rand(1, 3, 1, 3), opacity, normal=up)
    white, black = (system(*NORMALS, f"system.normal_background={shade}") for shade in ("1.0", "0.0"))
    assert white.guidance_input(render).rgb[0, :, 0].T.tolist() == [
        [0.5, 0.5, 1.0],
        [0.75, 0.75, 1.0],
        [1.0, 1.0, 1.0],
    ]
    assert black.guidance_input(render).rgb[0, :, 0].T.tolist() == [
        [0.5, 0.5, 1.0],
        [0.25, 0.25, 0.5],
        [0.0, 0.0, 0.0],
    ]
    assert system().guidance_input(render) is render, "the other stages show colours"


def test_the_guidance_is_asked_about_normals_and_they_move_the_shape() -> None:
    made, seen = system(*NORMALS, "system.normal_background=1", "system.loss.lambda_sparsity=0"), []

    class Spy(Guidance):
        def forward(self, render: Render, *rest: object) -> GuidanceOutput:
            seen.append(render)
            return GuidanceOutput(render.rgb.square().mean())

    made.guidance = Spy(parse(PictureOptions, {"zero123_model_name_or_path": "gaussian"}))
    losses = made.compute(_batch(), 0, torch.Generator().manual_seed(0))
    losses["usd"].backward()
    assert seen[0].normal is not None
    torch.testing.assert_close(
        seen[0].rgb, (seen[0].normal * 0.5 + 0.5) * seen[0].opacity + 1 - seen[0].opacity
    )
    gradient = next(made.geometry.density_network.parameters()).grad  # type: ignore[union-attr]
    assert gradient is not None and gradient.abs().sum() > 0


def _batch():
    from usd.data.random_camera import CameraBatch

    return CameraBatch(VIEWS)


def test_a_geometry_stage_without_normals_is_one_line(tmp_path, capsys) -> None:
    quick = ["trainer.max_steps=1", "system.stage=geometry"]
    assert launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path, *quick)) == 2
    assert "system.geometry.normal_type: is null, but something needs the normals" in capsys.readouterr().err


def test_sds_is_the_published_name_of_the_guidances_weight() -> None:
    from usd.core.config import ConfigError, Schedule

    one, three = Schedule.constant(1.0), Schedule.constant(3.0)
    assert distillation_weights({"lambda_sds": three}, {})["usd"] == three
    with pytest.raises(ConfigError, match="lambda_usd: is another name of lambda_sds"):
        distillation_weights({"lambda_sds": three, "lambda_usd": one}, {})


def test_a_geometry_stage_runs_and_its_pictures_are_normals(tmp_path) -> None:
    quick = ["trainer.max_steps=1", "trainer.val_check_interval=1", "data.n_test_views=1", *NORMALS]
    assert launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path, *quick)) == 0
    assert checkpoint.load(trial(tmp_path).last)["system"]["config"]["stage"] == "geometry"
    assert (trial(tmp_path).save / "it1-0.png").is_file() and (
        trial(tmp_path).save / "it1-test/0.png"
    ).is_file()


def test_a_guide_shape_is_a_loss_on_the_volume(tmp_path) -> None:
    with pytest.raises(UserError, match=r"system\.guide_shape: required by lambda_shape"):
        system("system.loss.lambda_shape=1")
    made = system(f"system.guide_shape={torus_file(tmp_path)}")
    made.guide = read_guide_shape(made.config.guide_shape, made.geometry.radius)
    losses = made.extra_losses(_batch(), 0, torch.Generator().manual_seed(0), made.active(0))
    losses["shape"].backward()
    gradient = next(made.geometry.density_network.parameters()).grad  # type: ignore[union-attr]
    assert gradient is not None and gradient.abs().sum() > 0
    assert "shape" not in system().active(0)
