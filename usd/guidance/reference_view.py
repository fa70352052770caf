"""The reference-view term of the published code: the rendered reference view against the reference picture itself.

    grad = w(t) ( eps_psi(x_t of the render) - eps_psi(x_t of the picture) ),   the same noise and t in both.

Render the *reference* camera before calling it. It pulls the view to the picture as far as psi tells them apart.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents, ReferenceOptions
from usd.guidance.picture_scores import PriorScores
from usd.guidance.scores import Scores
from usd.math.diffusion import add_noise
from usd.math.distill import score_difference
from usd.prompt_processor import PromptProcessor


@register("reference-view-guidance")
class ReferenceViewGuidance(Guidance["ReferenceViewGuidance.Config"]):
    """The difference of two unconditional scores, in the latents of whichever model's autoencoder encodes."""

    @dataclass(frozen=True)
    class Config(ReferenceOptions):
        """Options of the term: its models."""

        zero123_model_name_or_path: str = option(
            "zero123-xl", "picture model whose autoencoder may encode (latents: view)", path=True
        )
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base", "unconditional text model: psi of the formula", path=True
        )
        latents: Literal["prior", "view"] = option(
            "prior",
            "whose autoencoder encodes render and picture: prior, as published (512 px, 64 x 64); view, "
            "Zero-1-to-3's (256 px, 32 x 32: a quarter of the memory, a gradient about 8 times weaker)",
        )

        @property
        def unread_models(self) -> frozenset[str]:
            """Return the options of models that are not opened: the picture model's, unless it encodes."""
            return frozenset({"zero123_model_name_or_path"} if self.latents == "prior" else ())

        def open_source(self, prompts: PromptProcessor | None) -> PriorScores:
            """Open the models. Raises ``UserError``."""
            encoder = self.zero123_model_name_or_path if self.latents == "view" else None
            return PriorScores(self.pretrained_model_name_or_path, encoder, self.execution, prompts)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of psi's scores of render and picture."""
        yt = add_noise(self.source.reference_latents(x.z), x.noise, self.model.alphas_cumprod, x.t)
        # One call of the model for both: it costs little more than one for either.
        rendered, reference = scores.uncond(torch.cat([x.xt, yt]), x.t.repeat(2)).chunk(2)
        return score_difference(x.weight, rendered, reference)
