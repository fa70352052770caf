"""Unique couple matching (FlowDreamer, arXiv 2408.05008): the noise that the model's own flow couples with the view.

    n = where the conditional ODE, unguided, carries z in k steps,   grad = w(t) [ eps_s(alpha z + sigma n) - n ]

Random noise asks for another picture at every step; a flow couples each picture with one noise.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.diffusion import add_noise, eps_from_x0
from usd.math.distill import inverted, score_difference


@register("ucm-guidance")
class UcmGuidance(Guidance["UcmGuidance.Config"]):
    """SDS with the noise that belongs to the view."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the coupling."""

        coupling_steps: int = option(3, "steps of the ODE from the view to its noise", ge=1, le=1000)
        warm_up_steps: int = option(0, "training steps with random noise before", ge=0)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the guided score and the coupled noise."""
        noise = x.noise if x.step < self.config.warm_up_steps else self._coupled(x, scores)
        xt = add_noise(x.z, noise, self.model.alphas_cumprod, x.t)
        return score_difference(x.weight, scores.guided(self.config.guidance_scale)(xt, x.t), noise)

    def _coupled(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the noise at the end of the ODE through the view."""
        bars = self.model.alphas_cumprod
        end = torch.full_like(x.t, len(bars) - 1)
        there = inverted(scores.cond, x.z, end, self.config.coupling_steps, bars)
        return eps_from_x0(there, x.z, bars, end)
