"""Systems of one object: geometry, material, background and renderer, weighted losses, evaluation views and export."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module
from typing_extensions import TypeVar

from usd.background import Background
from usd.core.config import Schedule, Spec, component, option
from usd.core.needs import check_needs
from usd.core.registry import build
from usd.core.types import Render
from usd.evaluation.views import ViewScore, mean_score
from usd.exporter import Exporter
from usd.geometry import Geometry
from usd.material import Material
from usd.math.camera import Cameras, Window, orbit_cameras_deg
from usd.renderer import Renderer
from usd.system import B, E, System
from usd.system.weighted_losses import Weights, active_weights


@dataclass(frozen=True)
class SceneConfig(System.Config):
    """Components of a scene, and the weights of losses."""

    geometry: Spec = component("geometry", "implicit-volume", "shape of the object")
    material: Spec = component("material", "no-material", "colors of the object")
    background: Spec = component("background", "solid-color-background", "component behind the object")
    renderer: Spec = component(
        "renderer", "nerf-volume-renderer", "renderer that makes pictures of the object"
    )
    loss: dict[str, Schedule] = option({}, "lambda_NAME: weight of the loss NAME, or a schedule of it", ge=0)


PREVIEW_ELEVATION, PREVIEW_FOV, PREVIEW_DISTANCE = 15.0, 40.0, 3.0
"""Degrees above the object, degrees of the picture, and distance in halves of the object's cube."""
O = TypeVar("O", bound=SceneConfig, default=SceneConfig, covariant=True)  # noqa: E741


class SceneSystem(System[O, B, E]):
    """Base of the systems that optimize one object; a subclass says which losses there are in ``loss_weights``."""

    geometry: Geometry
    material: Material
    background: Background
    renderer: Renderer

    def build(self) -> None:
        """Build the scene. Raises ``ConfigError`` for losses that there are not."""
        config = self.config
        self.weights = self.loss_weights()
        self.geometry = build(config.geometry, Geometry)
        self.material = build(config.material, Material)
        self.background = build(config.background, Background)
        self.renderer = self.build_renderer()

    def loss_weights(self) -> Weights:
        """Return the weight of every loss of this system."""
        raise NotImplementedError

    def build_renderer(self) -> Renderer:
        """Build the renderer of geometry, material and background."""
        return build(
            self.config.renderer,
            Renderer,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    @property
    def used_losses(self) -> set[str]:
        """Names of the losses whose weight is above zero at some step."""
        return {name for name, weight in self.weights.items() if weight.maximum > 0}

    def active(self, step: int) -> dict[str, float]:
        """Return the losses with a weight at ``step``, and their weights."""
        return active_weights(self.weights, step)

    def render_views(self, cameras: Cameras, *needs: str, window: Window | None = None) -> Render:
        """Render evaluation pictures, or one window of each, one view at a time, on the CPU."""
        outputs = check_needs({"foreground", *needs}, "the system's views")
        with torch.no_grad():
            views = [
                self.renderer.render(cameras[i : i + 1], outputs, None, window) for i in range(len(cameras))
            ]
        return merge_renders(views)

    def evaluation_views(self, cameras: Cameras) -> Render:
        """Render the object as people and scores are shown it, on the CPU."""
        return self.render_views(cameras)

    def preview_cameras(self, count: int, size: int) -> Cameras:
        """Return cameras from which a report shows the object: once around it, from a little above."""
        radius = getattr(self.geometry.config, "radius", 1.0)
        azimuth = [360 * i / count for i in range(count)]
        return orbit_cameras_deg(PREVIEW_ELEVATION, azimuth, PREVIEW_DISTANCE * radius, PREVIEW_FOV, size)

    def log_scores(self, scores: Sequence[ViewScore]) -> None:
        """Log the means of test views' scores."""
        mean = mean_score(scores)
        self.log_dict({"test/psnr": mean.psnr, "test/ssim": mean.ssim, "test/mask_iou": mean.mask_iou})

    def export(self, exporter: Exporter, folder: Path) -> list[Path]:
        """Write the object to ``folder``; return the files."""
        with evaluating(self):
            return exporter.export(self.geometry, self.material, folder)


@contextlib.contextmanager
def evaluating(*roots: Module) -> Iterator[None]:
    """Evaluate modules inside the block: afterwards each is in the mode that it was in before."""
    training = [module for root in roots for module in root.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def merge_renders(views: Sequence[Render]) -> Render:
    """Return the pictures of several renders as one, on the CPU; samples and meshes are left out."""
    return Render(
        torch.cat([view.rgb for view in views]).cpu(),
        torch.cat([view.opacity for view in views]).cpu(),
        _cat_known([view.foreground for view in views]),
        _cat_known([view.depth for view in views]),
        _cat_known([view.normal for view in views]),
    )


def _cat_known(pictures: Sequence[Tensor | None]) -> Tensor | None:
    """Return pictures as one tensor on the CPU; None where one of them is missing."""
    known = [picture for picture in pictures if picture is not None]
    return torch.cat(known).cpu() if len(known) == len(pictures) else None
