"""A sentence to a 3D object: a radiance field, then its shape as a mesh, then the mesh's colors (``system.stage``)."""

from usd.core.config import ConfigError, Spec
from usd.core.registry import build, register
from usd.guidance import Guidance
from usd.prompt_processor import PromptProcessor
from usd.system.distillation import DistillationConfig, DistillationSystem


@register("usd-text-to-3d-system")
class UsdTextTo3DSystem(DistillationSystem[DistillationConfig]):
    """Text-to-3D. Needs a prompt processor; its guidance compares predictions with and without the prompt."""

    def build(self) -> None:
        """Build the scene. Raises ``ConfigError`` without a prompt processor."""
        super().build()
        if self.config.prompt_processor is None:
            raise ConfigError(
                "system.prompt_processor_type: required but not given; expected a prompt processor"
            )

    def open_guidance(self, chosen: Spec | None = None) -> Guidance:
        """Build a guidance with the prompts, which all of them share."""
        assert self.config.prompt_processor is not None
        if self.prompt_processor is None:
            self.prompt_processor = build(self.config.prompt_processor, PromptProcessor)
        return build(chosen or self.config.guidance, Guidance, prompts=self.prompt_processor)
