"""``view-group-datamodule``: every batch is cameras whose views a model denoises together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.random_camera import CameraBatch, at_step
from usd.data.usd_random_camera import UsdRandomCameraConfig, UsdRandomCameras
from usd.math.view_groups import FREE_GROUPS, VIEW_GROUPS, nearest_named_cameras

RANDOM = (
    "batch_size",
    "camera_distance_range",
    "fovy_range",
    "elevation_range",
    "azimuth_range",
    "elevation_sampling",
    "batch_uniform_azimuth",
    "progressive_until",
    "camera_perturb",
    "center_perturb",
    "up_perturb",
)
"""Options of random training cameras."""


@dataclass(frozen=True)
class ViewGroupConfig(UsdRandomCameraConfig):
    """Cameras of view groups: training views of a group with fixed cameras ignore the ranges of random ones.

    Evaluation and reference cameras are those of random-camera data.
    """

    group: Literal[
        "syncdreamer",
        "wonder3d",
        "zero123plus-1.1",
        "zero123plus-1.2",
        "mvdream",
        "imagedream",
        "toybox",
        "named",
    ] = option("syncdreamer", "model whose cameras a batch is")

    def unread(self) -> Mapping[str, str]:
        """Return the options of random cameras where the group's own are fixed."""
        fixed = self.group != "named" and self.group not in FREE_GROUPS
        return dict.fromkeys(RANDOM, f"where group is {self.group}") if fixed else {}


@register("view-group-datamodule")
class ViewGroups(UsdRandomCameras[ViewGroupConfig]):
    """The reference camera's group at every step; of a model that is given cameras, ``batch_size`` random groups.

    Of ``named`` views, ``batch_size`` random ones: each random camera goes to the nearest that has a name.
    """

    @override
    def batch(self, step: int, generator: torch.Generator) -> CameraBatch:
        """Return the groups' cameras, as large as training pictures are at this step."""
        group = self.config.group
        if group == "named":
            batch = super().batch(step, generator)
            assert batch.reference is not None
            return CameraBatch(nearest_named_cameras(batch.cameras, batch.reference), batch.reference)
        if group in FREE_GROUPS:
            batch = super().batch(step, generator)
            return CameraBatch(FREE_GROUPS[group](batch.cameras), batch.reference)
        size = at_step(self.config.height, self.config.resolution_milestones, step)
        reference = self.reference(step)
        return CameraBatch(VIEW_GROUPS[group](reference, size), reference)
