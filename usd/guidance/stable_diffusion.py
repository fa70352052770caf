"""Score distillation from a sentence (SDS, arXiv 2209.14988).

grad = w(t) [ s (eps(x_t, text) - eps(x_t)) + lambda (eps(x_t) - noise) ],   lambda = 1: SDS, 0: CSD and USD for text
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import open_denoiser
from usd.guidance import Guidance, Noised
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor


@register("stable-diffusion-guidance")
class StableDiffusionGuidance(Guidance):
    """A text model, its condition against its own unconditional prediction (or a negative prompt's)."""

    @dataclass(frozen=True)
    class Config(Guidance.Config):
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base", "text model: an alias of load/models.yaml, a folder or a hub id", path=True
        )
        guidance_scale: float = option(100.0, "s of the formula", ge=0)
        lambda_: float = option(1.0, "lambda of the formula", ge=0)

    def __init__(self, config: Config, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        if prompts is None:
            raise UserError("system.prompt_processor_type: required by a guidance that is told a sentence")
        self.config: StableDiffusionGuidance.Config = config
        self.prompts = prompts
        where = "system.guidance.pretrained_model_name_or_path"
        self.model = open_denoiser(
            config.pretrained_model_name_or_path, "text", where, config.half_precision_weights
        )

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        told = self.prompts(cameras)
        return self.distill(
            noised,
            lambda: self.model.eps(noised.xt, noised.t, told.cond),
            lambda: self.model.eps(noised.xt, noised.t, told.uncond),
            self.config.guidance_scale,
            self.config.lambda_,
        )
