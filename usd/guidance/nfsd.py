"""Noise-free score distillation (arXiv 2310.17590): what pulls a picture into the domain, and what the condition adds.

    grad = w(t) [ delta(x_t) + s (eps(x_t, picture, camera) - eps(x_t)) ],
    delta = eps(x_t) for t < threshold, else eps(x_t) - eps_psi(x_t, negative words)

The noise is never subtracted: at small t the prediction is mostly what does not belong; at large t the noise in it is
taken away by a prediction for bad pictures. psi is the text model, since a picture model has no words for bad ones.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import Embedding
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras
from usd.math.distill import noise_free_gradient
from usd.prompt_processor import PromptProcessor


@register("nfsd-guidance")
class NfsdGuidance(RectifiableGuidance["NfsdGuidance.Config"]):
    """Score distillation without the noise it adds."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        threshold: int = option(
            200, "timestep below which the prediction is taken for noise-free", ge=0, le=1000
        )
        negative_prompt: str = option(
            "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy",
            "words for bad pictures; empty: psi told nothing",
        )

    def __init__(self, config: Config, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        self.critic = self.open_prior()
        self._bad: Embedding | None = None

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        cond, ref = self.view_eps(noised, cameras), self.reference_eps(noised)
        bad = self.critic.eps(noised.xt, noised.t, self._told_bad(noised))
        limit = self.config.threshold
        return noise_free_gradient(
            noised.weight, noised.t < limit, cond, ref, bad, self.config.guidance_scale
        )

    def _told_bad(self, noised: Noised) -> Embedding:
        """The negative words, read once."""
        if self._bad is None:
            words = self.config.negative_prompt
            self._bad = self.critic.embed_text([words]) if words else self.critic.unconditional(1)
        return self._bad.select(noised.t.new_zeros(len(noised.t)))
