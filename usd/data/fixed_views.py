"""The same views at every step: what the playground optimizes side by side."""

from dataclasses import dataclass

import torch
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data import Split
from usd.data.random_camera import CameraBatch, orbit_views
from usd.data.usd_random_camera import UsdRandomCameraConfig, UsdRandomCameras
from usd.math.camera import join_cameras


@dataclass(frozen=True)
class FixedViewsConfig(UsdRandomCameraConfig):
    """The cameras are those of ``eval_transforms``, or of the evaluation orbit."""

    views: int = option(4, "number of views, evenly chosen", ge=1, le=100000)


@register("fixed-views-datamodule")
class FixedViews(UsdRandomCameras[FixedViewsConfig]):
    """All splits are one batch: the chosen views, with their true pictures where there are any."""

    @override
    def batch(self, step: int, generator: torch.Generator) -> CameraBatch:
        """Return the chosen views, whatever the step."""
        return self.chosen("train")

    def eval_batches(self, split: Split) -> list[CameraBatch]:
        """Return one batch, the chosen views."""
        return [self.chosen(split)]

    def chosen(self, name: str) -> CameraBatch:
        """Return the chosen views, as large as evaluation pictures."""
        count, size = self.config.views, (self.config.eval_height, self.config.eval_width)
        if self.given is None:
            return CameraBatch(orbit_views(self.config, count), self.reference(), name)
        rows = sorted({i * len(self.given) // count for i in range(count)})
        frames = tuple(self.given[row] for row in rows)
        cameras = join_cameras([frame.camera.resize(*size) for frame in frames])
        return CameraBatch(cameras, self.reference(), name, 0, frames)
