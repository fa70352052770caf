"""Unbiased score distillation, image to 3D (arXiv 2312.06198).

    grad = w(t) [ s (eps_phi(x_t, picture, camera) - eps_psi(x_t)) + lambda (eps_psi(x_t) - noise) ]

phi is Zero-1-to-3, psi Stable Diffusion told nothing, lambda = 0. The published code's values are the defaults.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import TextDenoiser, check_shared_latents, open_denoiser
from usd.guidance import Noised, ViewGuidance
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor


@register("usd-guidance")
class UsdGuidance(ViewGuidance):
    """Zero-1-to-3's condition against another model's unconditional prediction."""

    @dataclass(frozen=True)
    class Config(ViewGuidance.Config):
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base",
            "the unconditional model (read when unconditional: prior)",
            path=True,
        )
        guidance_scale: float = option(7.5, "s of the formula", ge=0)
        lambda_: float = option(0.0, "lambda of the formula; 1 is SDS, less gives richer detail", ge=0)
        unconditional: Literal["prior", "own"] = option(
            "prior", "eps_ref from the other model (unbiased), or Zero-1-to-3's own (SDS, CSD)"
        )

    def __init__(self, config: Config, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        self.config: UsdGuidance.Config = config
        self.prior = self._prior() if config.unconditional == "prior" else None

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        return self.distill(
            noised,
            lambda: self.view_eps(noised, cameras),
            lambda: self.reference_eps(noised),
            self.config.guidance_scale,
            self.config.lambda_,
        )

    def reference_eps(self, noised: Noised) -> Float[Tensor, "B c h w"]:
        """eps_ref: what is predicted when nothing is known about the picture."""
        if self.prior is None:
            return self.own_unconditional_eps(noised)
        return self.prior.eps(noised.xt, noised.t, self.prior.unconditional(len(noised.xt)))

    def _prior(self) -> TextDenoiser:
        where = "system.guidance.pretrained_model_name_or_path"
        prior = open_denoiser(self.config.pretrained_model_name_or_path, "text", where, self.config.running)
        check_shared_latents(self.model, prior, where)
        assert isinstance(prior, TextDenoiser)
        return prior
