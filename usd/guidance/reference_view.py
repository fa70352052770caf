"""The reference-view term of the published code: the rendered reference view against the reference picture itself.

    grad = w(t) ( eps_psi(x_t of the render) - eps_psi(x_t of the picture) ),   the same noise and t in both.

Render the *reference* camera before calling it. It pulls the view towards the picture as far as psi's score can tell
them apart, at all noise levels in [2 %, 98 %].
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import check_shared_latents, open_text_denoiser, open_view_denoiser
from usd.guidance import Noised, PictureGuidance, ViewGuidance, untold
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise
from usd.math.distill import score_difference
from usd.prompt_processor import PromptProcessor


@register("reference-view-guidance")
class ReferenceViewGuidance(PictureGuidance["ReferenceViewGuidance.Config"]):
    """The difference of two unconditional scores, in the latents of whichever model's autoencoder encodes."""

    @dataclass(frozen=True)
    class Config(ViewGuidance.Config):
        pretrained_model_name_or_path: str = option("sd-2.1-base", "psi, the unconditional model", path=True)
        latents: Literal["prior", "view"] = option(
            "prior",
            "whose autoencoder encodes render and picture: prior, as published (512 px, 64 x 64); view, "
            "Zero-1-to-3's (256 px, 32 x 32: a quarter of the memory, a gradient about 8 times weaker)",
        )

    _picture: Tensor | None = None

    def __init__(self, config: Config, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        where, key = "system.guidance.", "pretrained_model_name_or_path"
        prior = open_text_denoiser(config.pretrained_model_name_or_path, where + key, config.running)
        self.prior = self.model = prior
        self.prompts = prompts
        if config.latents == "view":
            view = config.zero123_model_name_or_path
            self.model = open_view_denoiser(view, where + "zero123_model_name_or_path", config.running)
            check_shared_latents(self.model, self.prior, where + key)

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        self._picture = self.model.encode(rgb).detach()

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        if self._picture is None:
            raise RuntimeError("ReferenceViewGuidance: set_reference has not been called")
        picture = self._picture.to(noised.z).expand_as(noised.z)
        picture_t = add_noise(picture, noised.noise, self.prior.alphas_cumprod, noised.t)
        told = untold(self.prior, self.prompts, len(noised.z))
        rendered_eps = self.prior.eps(noised.xt, noised.t, told)
        return score_difference(noised.weight, rendered_eps, self.prior.eps(picture_t, noised.t, told))
