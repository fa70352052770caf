"""Noise-free score distillation (arXiv 2310.17590): what pulls a picture into the domain, and what the condition adds.

    grad = w(t) [ delta(x_t) + s (eps(x_t, condition) - eps(x_t)) ],
    delta = eps(x_t) for t < threshold, else eps(x_t) - eps_psi(x_t, negative prompt)

The noise is never subtracted: what a prediction for bad pictures (psi, the text model) has of it goes at large t.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import Embedding
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.distill import noise_free_gradient


@register("nfsd-guidance")
class NfsdGuidance(Guidance["NfsdGuidance.Config"]):
    """Score distillation without the noise it adds."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of NFSD."""

        threshold: int = option(
            200, "timestep below which the prediction is taken for noise-free", ge=0, le=1000
        )
        negative_prompt: str = option(
            "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy",
            "prompt for bad pictures; empty: none",
        )

        @property
        def unread_models(self) -> frozenset[str]:
            """Return nothing: bad pictures are predicted by the text model, whoever predicts without a condition."""
            return frozenset()

    def build(self) -> None:
        """Open the text model that sees bad pictures."""
        self.critic = self.source.text_model()
        self._bad: Embedding | None = None

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return delta and the difference of the scores, times w(t)."""
        cond, uncond = scores.cond(x.xt, x.t), scores.uncond(x.xt, x.t)
        bad, clean = self.critic.eps(x.xt, x.t, self._embedded(x, scores)), x.t < self.config.threshold
        return noise_free_gradient(x.weight, clean, cond, uncond, bad, self.config.guidance_scale)

    def _embedded(self, x: NoisyLatents, scores: Scores) -> Embedding:
        """Return the embedding of the negative prompt, made once, with these cameras where the model sees any."""
        if self._bad is None:
            words = self.config.negative_prompt
            self._bad = self.critic.embed_text([words]) if words else self.critic.unconditional(1)
        return self.critic.with_cameras(self._bad.select(x.t.new_zeros(len(x.t))), scores.cameras)
