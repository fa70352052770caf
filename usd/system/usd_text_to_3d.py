"""A sentence to a 3D object: a radiance field, then its shape as a mesh, then the mesh's colors (``system.stage``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, Schedule, Spec, option
from usd.core.registry import build, register
from usd.data.random_camera import CameraBatch
from usd.geometry import Volumetric
from usd.guidance import Guidance
from usd.losses.guide_shape import GuideShape, read_guide_shape, shape_loss
from usd.prompt_processor import PromptProcessor
from usd.system.distillation import DistillationConfig, DistillationSystem
from usd.system.weighted_losses import Weights


@dataclass(frozen=True)
class TextTo3DConfig(DistillationConfig):
    """Options of text-to-3D."""

    guide_shape: Path | None = option(
        None,
        "closed mesh file that the volume roughly fills, of weight lambda_shape (Sketch-Shape, arXiv 2211.07600)",
    )


@register("usd-text-to-3d-system")
class UsdTextTo3DSystem(DistillationSystem[TextTo3DConfig]):
    """Text-to-3D. Needs a prompt processor; its guidance compares predictions with and without the prompt."""

    extra_weights: ClassVar[Mapping[str, float]] = {"shape": 1.0}

    def build(self) -> None:
        """Build the scene. Raises ``ConfigError`` without a prompt processor, or for a guide of what has no inside."""
        super().build()
        self.guide: GuideShape | None = None
        if self.config.guide_shape is not None and not isinstance(self.geometry, Volumetric):
            raise ConfigError(
                f"system.guide_shape: {self.config.geometry.name} has no density; expected a volume, or null"
            )
        if self.config.prompt_processor is None:
            raise ConfigError(
                "system.prompt_processor_type: required but not given; expected a prompt processor"
            )

    def loss_weights(self) -> Weights:
        """Return the weights; that of ``shape`` is 0 without a guide. Raises ``ConfigError`` if it is given then."""
        weights = super().loss_weights()
        if self.config.guide_shape is None:
            if "lambda_shape" in self.config.loss and weights["shape"].maximum > 0:
                raise ConfigError(
                    "system.guide_shape: required by lambda_shape, but not given; expected a mesh file"
                )
            weights["shape"] = Schedule.constant(0.0)
        return weights

    def on_fit_start(self) -> None:
        """Read the guide first: a wrong path should not cost a download."""
        if self.config.guide_shape is not None and self.weights["shape"].maximum > 0:
            self.guide = read_guide_shape(self.config.guide_shape, self.geometry.radius)
        super().on_fit_start()

    @override
    def extra_losses(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the distance of the volume from its guide."""
        if self.guide is None or "shape" not in active:
            return {}
        assert isinstance(self.geometry, Volumetric)
        return {"shape": shape_loss(self.geometry, self.guide, generator)}

    def open_guidance(self, chosen: Spec | None = None) -> Guidance:
        """Build a guidance with the prompts, which all of them share."""
        assert self.config.prompt_processor is not None
        if self.prompt_processor is None:
            self.prompt_processor = build(self.config.prompt_processor, PromptProcessor)
        return build(chosen or self.config.guidance, Guidance, prompts=self.prompt_processor)
