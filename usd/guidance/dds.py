"""Delta denoising score (arXiv 2304.07090): the error that the model makes on a pair known to match is taken off.

    grad = w(t) [ eps_s(x_t, picture, camera) - eps_s(y_t, picture, its own camera) ],

y the reference picture itself under the same noise, eps_s guided by s: whatever is predicted for a picture that needs
no change is no reason to change another one.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from usd.core.registry import register
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise
from usd.math.distill import score_difference


@register("dds-guidance")
class DdsGuidance(RectifiableGuidance["DdsGuidance.Config"]):
    """The difference of two guided scores: of the view, and of the reference picture seen from its own camera."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        pass

    _picture: Tensor | None = None
    _camera: Cameras | None = None

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        super().set_reference(rgb, cameras)
        self._picture, self._camera = self.model.encode(rgb).detach(), cameras

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        if self._picture is None or self._camera is None:
            raise RuntimeError("DdsGuidance: set_reference has not been called")
        scale, first = self.config.guidance_scale, noised.t.new_zeros(len(noised.t))
        picture = self._picture.to(noised.z).expand_as(noised.z)
        known = replace(noised, xt=add_noise(picture, noised.noise, self.model.alphas_cumprod, noised.t))
        same = self.model.embed_view(self.reading, self._camera).select(first)
        mine = self.guided_eps(noised, self.model.embed_view(self.reading, cameras), scale)
        return score_difference(noised.weight, mine, self.guided_eps(known, same, scale))
