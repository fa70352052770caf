"""Expected views: exact where the model knows the picture, drawn as training's cameras are, and learned from alone."""

import math
from dataclasses import dataclass

import pytest
import torch

import launch
from tests.tiny_configs import command, save_disc, trial
from usd.core import checkpoint
from usd.core.config import parse
from usd.core.types import Render
from usd.data.random_camera import RandomCameraConfig
from usd.guidance.scores import Scores, ScoreSource
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.diffusion import alpha_sigma
from usd.system.expected_views import ExpectedViews, expected_views, training_cameras

MINI = "usd-patch-mini.yaml"
SPLATS = "splats-image-mini.yaml"
DENSITY = [f"system.geometry.density.{each}" for each in ("start=1", "every=2", "slope_threshold=1e-9")]


@dataclass
class Space:
    channels: int = 3
    height: int = 4
    width: int = 4


class KnownPictures(ScoreSource):
    """A model that knows the one picture of each camera: its color is the camera's height."""

    alphas_cumprod = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
    latent = Space()

    @property
    def model(self):
        return self

    @staticmethod
    def decode(z):
        return z

    def at(self, cameras, pictures):
        del pictures
        truth = cameras.c2w[:, 2, 3].double()[:, None, None, None].expand(-1, 3, 4, 4)
        self.times = []

        def eps(xt, t):
            self.times.append(int(t))
            alpha, sigma = alpha_sigma(self.alphas_cumprod, t)
            return (xt - alpha * truth) / sigma

        return Scores(eps, eps, lambda: None, cameras)


def test_a_model_that_knows_the_picture_is_asked_once_for_each_camera_and_gives_it_exactly():
    cameras = orbit_cameras_deg([0.0, 30.0, 90.0], [10.0, 80.0, 200.0], 1.5, 40.0, 4)
    known = KnownPictures()
    views = expected_views(known, cameras, 0.98, torch.Generator().manual_seed(0))
    heights = 1.5 * torch.tensor([math.sin(math.radians(e)) for e in (0.0, 30.0, 90.0)])
    torch.testing.assert_close(views.pictures.mean((1, 2, 3)).float(), heights, atol=1e-5, rtol=0)
    assert known.times == [979]


def test_their_turn_comes_round_and_the_loss_is_zero_for_the_picture_itself():
    cameras = orbit_cameras_deg([0.0, 10.0], [0.0, 90.0], 1.5, 40.0, 4)
    views = ExpectedViews(cameras, torch.rand(2, 3, 4, 4))
    assert torch.equal(views.camera(5).c2w, cameras[[1]].c2w)
    alpha = torch.full((1, 1, 4, 4), 0.25)
    render = Render(rgb=torch.zeros(1, 3, 4, 4), opacity=alpha, foreground=views.pictures[[1]] - (1 - alpha))
    assert float(views.loss(render, 5)) == pytest.approx(0, abs=1e-12)
    gray = Render(
        rgb=torch.zeros(1, 3, 4, 4), opacity=torch.zeros_like(alpha), foreground=torch.zeros(1, 3, 4, 4)
    )
    assert float(views.loss(gray, 4)) == pytest.approx(float((1 - views.pictures[0]).square().mean()))


def test_cameras_are_those_of_a_training_step_square_and_spread_around():
    options = {"height": 12, "width": 20, "elevation_range": [0, 20], "fovy_range": [40, 41]}
    config = parse(RandomCameraConfig, {**options, "camera_perturb": 0.0, "center_perturb": 0.0})
    cameras = training_cameras(config, 8, 16, torch.Generator().manual_seed(1))
    assert isinstance(cameras, Cameras) and (cameras.height, cameras.width, len(cameras)) == (16, 16, 8)
    turn = cameras.spherical.azimuth.rad2deg().sort().values
    assert (turn.diff() > 0).all() and turn.diff().max() < 90  # an eighth of the circle each
    assert (cameras.spherical.elevation.rad2deg() >= -1e-3).all()
    assert (cameras.spherical.elevation.rad2deg() <= 20.001).all()


@pytest.mark.parametrize(("recipe", "more"), [(MINI, []), (SPLATS, DENSITY)], ids=["field", "splats"])
def test_steps_without_guidance_learn_from_them_alone_and_a_resumed_run_makes_the_same_ones(
    tmp_path, tiny, recipe, more
):
    settings = [
        *more,
        f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}",
        f"system.guidance.pretrained_model_name_or_path={tiny.sd}",
        f"system.guidance.zero123_model_name_or_path={tiny.zero123_a}",
        "system.expected_views.views=3",
        "system.expected_views.fit_steps=3",
        "trainer.val_check_interval=0",
        "trainer.test_after_fit=false",
        "trainer.max_steps=4",
    ]
    assert launch.main(command(recipe, tmp_path, *settings, tag="whole")) == 0
    assert launch.main(command(recipe, tmp_path, *settings, "trainer.max_steps=2", tag="parts")) == 0
    whole, parts = trial(tmp_path, "whole"), trial(tmp_path, "parts")
    assert launch.main(command(recipe, tmp_path, *settings, f"resume={parts.last}", tag="parts")) == 0
    weights = [checkpoint.load(each.last)["state_dict"] for each in (whole, parts)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert recipe != SPLATS or len(weights[0]["geometry.means"]) > 50, "their number has changed"
    head, *rows = (whole.folder / "csv_logs/version_0/metrics.csv").read_text().splitlines()
    steps = [dict(zip(head.split(","), row.split(","), strict=True)) for row in rows]
    given = [(bool(row["train/expected"]), bool(row.get("train/usd"))) for row in steps if row["train/loss"]]
    assert given[0] == (True, False) and given[3][1]
    assert steps[3]["train/expected"] == "nan", "a loss that stopped is not repeated"


def test_without_a_view_model_that_takes_part_none_are_made_and_that_is_said(tmp_path, capsys):
    """The reference losses alone go on as ever."""
    options = ["system.expected_views.fit_steps=1", "system.loss.lambda_usd=0", "trainer.max_steps=1"]
    options += ["trainer.val_check_interval=0", "trainer.test_after_fit=false"]
    picture = f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}"
    assert launch.main(command(MINI, tmp_path, picture, *options)) == 0
    assert "system.expected_views.fit_steps: no guidance on Zero-1-to-3 takes part" in capsys.readouterr().out
