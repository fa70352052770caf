"""PFD (arXiv 2605.09071): the view moves towards what the model makes of its inversion.

    x_t = inversion of the view z, guided by a negative scale,   grad = w [ z - x0(x_t) ],

x0(x_t) found in several guided steps of DPM-Solver++ back from t. With one step back it is SDI, weighted sigma / alpha.
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
from usd.math.distill import inverted, solved


@register("pfd-guidance")
class PfdGuidance(Guidance["PfdGuidance.Config"]):
    """The difference of the view and of what inversion and sampling turn it into."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the two ways; ``eta`` is the share of the difference that the view moves."""

        inversion_scale: float = option(-6.5, "scale of the guidance while inverting", ge=-10000, le=10000)
        inversion_steps: int = option(5, "DDIM steps from the view to x_t", ge=1, le=1000)
        sampling_steps: int = option(3, "steps of DPM-Solver++ back from x_t", ge=1, le=1000)
        eta: float = option(1.0, "share of the difference that the gradient is", gt=0, le=100)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the view and of its own sample, times eta."""
        options, levels = self.config, self.model.alphas_cumprod
        there = scores.guided(options.inversion_scale)
        xt = inverted(there, x.z, x.t, options.inversion_steps, levels)
        sample = solved(scores.guided(options.guidance_scale), xt, x.t, options.sampling_steps, levels)
        return torch.mul(x.weight * options.eta, x.z - sample)
