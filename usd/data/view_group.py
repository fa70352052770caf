"""``view-group-datamodule``: every batch is the fixed cameras of a model that denoises its views together."""

from dataclasses import dataclass
from typing import Literal

import torch
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.random_camera import CameraBatch, at_step
from usd.data.usd_random_camera import UsdRandomCameraConfig, UsdRandomCameras
from usd.math.view_groups import VIEW_GROUPS


@dataclass(frozen=True)
class ViewGroupConfig(UsdRandomCameraConfig):
    """The ranges of random cameras have no effect on training views; evaluation and reference cameras are as theirs."""

    group: Literal["syncdreamer", "wonder3d", "toybox"] = option(
        "syncdreamer", "model whose cameras a batch is"
    )


@register("view-group-datamodule")
class ViewGroups(UsdRandomCameras[ViewGroupConfig]):
    """The reference camera's group, at every step."""

    @override
    def batch(self, step: int, generator: torch.Generator) -> CameraBatch:
        """Return the group's cameras, as large as training pictures are at this step."""
        size = at_step(self.config.height, self.config.resolution_milestones, step)
        reference = self.reference(step)
        return CameraBatch(VIEW_GROUPS[self.config.group](reference, size), reference)
