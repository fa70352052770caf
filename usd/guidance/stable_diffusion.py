"""Score distillation from a sentence (SDS, arXiv 2209.14988).

grad = w(t) [ s (eps(x_t, text) - eps(x_t)) + lambda (eps(x_t) - noise) ],   lambda = 1: SDS, 0: CSD and USD for text

Where the prompts come with negatives (``use_perp_neg``), eps(x_t, text) is what ``usd.math.distill.perp_neg`` says.
"""

from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Embedding, open_text_denoiser
from usd.guidance import Guidance, Noised, Predict
from usd.math.camera import Cameras
from usd.math.distill import perp_neg
from usd.prompt_processor import PromptProcessor, Prompts


@register("stable-diffusion-guidance")
class StableDiffusionGuidance(Guidance["StableDiffusionGuidance.Config"]):
    """A text model, its condition against its own unconditional prediction (or a negative prompt's)."""

    @dataclass(frozen=True)
    class Config(Guidance.Config):
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base", "text model: an alias of load/models.yaml, a folder or a hub id", path=True
        )
        guidance_scale: float = option(100.0, "s of the formula", ge=0, le=10000)
        lambda_: float = option(1.0, "lambda of the formula", ge=0, le=10000)

    def __init__(self, config: Config, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        if prompts is None:
            raise UserError("system.prompt_processor_type: required by a guidance that is told a sentence")
        self.prompts = prompts
        where = "system.guidance.pretrained_model_name_or_path"
        self.model = open_text_denoiser(config.pretrained_model_name_or_path, where, config.running)

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        told = self.prompts(cameras)
        cond, uncond = self._predict(noised, told.cond), self._predict(noised, told.uncond)
        scale, lambda_ = self.config.guidance_scale, self.config.lambda_
        return self.distill(noised, partial(self._told, noised, told, cond, uncond), uncond, scale, lambda_)

    def _predict(self, noised: Noised, embedding: Embedding) -> Predict:
        """The noise predicted under this embedding, computed once, when first asked for."""
        return cache(lambda: self.model.eps(noised.xt, noised.t, embedding))

    def _told(
        self, noised: Noised, told: Prompts, cond: Predict, uncond: Predict
    ) -> Float[Tensor, "B c h w"]:
        """The prediction from the words, with the negatives there are."""
        if told.weights is None:
            return cond()
        negatives = torch.stack([self.model.eps(noised.xt, noised.t, words) for words in told.negatives])
        return perp_neg(cond(), uncond(), negatives, told.weights.to(negatives))
