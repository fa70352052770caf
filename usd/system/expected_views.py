"""Expected views: what a view denoiser predicts before it has seen a render, for quick first steps of image to 3D.

From pure noise a one-step prediction is the mean of all pictures that the reference allows from a camera, whatever was
rendered. It is asked for once for each of a few cameras, and the object is fitted to these pictures as to photographs:
no model and no autoencoder in the step. They are blurred where the reference leaves something open; distillation at
smaller noise levels decides that.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.progress import each
from usd.core.types import Render
from usd.data.random_camera import RandomCameraConfig, random_cameras
from usd.guidance.scores import ScoreSource
from usd.math.camera import Cameras
from usd.math.diffusion import normal_like, x0_from_eps


@dataclass(frozen=True)
class ExpectedViewsConfig:
    """Options of the first steps, which fit expected views where the guidance has a view model."""

    fit_steps: int = option(
        0, "first steps that fit expected views instead of asking the guidance; 0: none", ge=0
    )
    views: int = option(
        32, "number of pictures, from cameras drawn as those of a training step", ge=1, le=4096
    )
    noise_level: float = option(
        0.98, "noise level that they are predicted from, as a share of the schedule", gt=0, le=1
    )


@dataclass(frozen=True)
class ExpectedViews:
    """Pictures (B, 3, S, S) in [0, 1] over white, and their B cameras."""

    cameras: Cameras
    pictures: Float[Tensor, "B 3 S S"]

    def camera(self, step: int) -> Cameras:
        """Return the camera whose turn it is."""
        return self.cameras[[step % len(self.cameras)]]

    def loss(self, render: Render, step: int) -> Float[Tensor, ""]:
        """Return the mean squared difference between a render from ``camera(step)``, over white, and its picture."""
        assert render.foreground is not None
        picture = self.pictures[[step % len(self.cameras)]]
        return (render.foreground + 1 - render.opacity - picture).square().mean()


def training_cameras(
    config: RandomCameraConfig, count: int, size: int, generator: torch.Generator
) -> Cameras:
    """Draw ``count`` square cameras, ``size`` pixels a side, as one training step of so many views does."""
    chosen = replace(config, batch_size=count, height=size, width=size, resolution_milestones=())
    return random_cameras(chosen, config.progressive_until, generator)


@torch.no_grad()
def expected_views(
    source: ScoreSource, cameras: Cameras, level: float, generator: torch.Generator
) -> ExpectedViews:
    """Return the pictures that ``source`` predicts from noise alone, at ``level`` of its schedule, one call each."""
    rows = each(range(len(cameras)), "expecting views")
    pictures = [_expected_view(source, cameras[[i]], level, generator) for i in rows]
    return ExpectedViews(cameras, torch.cat(pictures))


def _expected_view(
    source: ScoreSource, camera: Cameras, level: float, generator: torch.Generator
) -> Float[Tensor, "1 3 S S"]:
    """Return one picture."""
    bars, space = source.model.alphas_cumprod, source.model.latent
    noise = normal_like(bars.new_empty(1, space.channels, space.height, space.width), generator)
    t = torch.full((1,), round(level * (len(bars) - 1)), device=bars.device)
    return source.model.decode(x0_from_eps(noise, source.at(camera, None).cond(noise, t), bars, t))
