"""The reference-view term of the published code: the rendered reference view against the reference picture itself.

    grad = w(t) ( eps_psi(x_t of the render) - eps_psi(x_t of the picture) ),   the same noise and t in both.

Render the *reference* camera before calling it. It pulls the view towards the picture as far as psi's score can tell
them apart, at all noise levels in [2 %, 98 %].
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import check_shared_latents, open_denoiser
from usd.guidance import Noised, ViewGuidance
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise
from usd.math.distill import score_difference
from usd.prompt_processor import PromptProcessor


@register("reference-view-guidance")
class ReferenceViewGuidance(ViewGuidance):
    """The difference of two unconditional scores. The picture model only lends its autoencoder."""

    @dataclass(frozen=True)
    class Config(ViewGuidance.Config):
        pretrained_model_name_or_path: str = option("sd-2.1-base", "psi, the unconditional model", path=True)

    def __init__(self, config: Config, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        where = "system.guidance.pretrained_model_name_or_path"
        self.prior = open_denoiser(config.pretrained_model_name_or_path, "text", where, config.running)
        check_shared_latents(self.model, self.prior, where)
        self._picture: Tensor | None = None

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        self._picture = self.model.encode(rgb).detach()

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        if self._picture is None:
            raise RuntimeError("ReferenceViewGuidance: set_reference has not been called")
        picture = self._picture.to(noised.z).expand_as(noised.z)
        picture_t = add_noise(picture, noised.noise, self.prior.alphas_cumprod, noised.t)
        told = self.prior.unconditional(len(noised.z))
        rendered_eps = self.prior.eps(noised.xt, noised.t, told)
        return score_difference(noised.weight, rendered_eps, self.prior.eps(picture_t, noised.t, told))
