"""Materials of fields that are rendered as latents of an autoencoder, or refined from such a field.

Latents look like small pictures: a linear map of their four numbers is a rough color of the pixels they decode to.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.material import Material

Autoencoder = Literal["stable-diffusion", "toybox"]
N_LATENTS = 4
LATENT_TO_RGB: dict[Autoencoder, tuple[tuple[float, float, float], ...]] = {
    "stable-diffusion": (
        (0.298, 0.207, 0.208),
        (0.187, 0.286, 0.173),
        (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
    ),
    "toybox": (
        (-0.182, -0.259, -0.302),
        (-0.202, -0.291, -0.350),
        (0.276, 0.188, 0.102),
        (0.239, 0.216, 0.159),
    ),
}
"""Least-squares maps of latents, a row each, to colors in [-1, 1] of the picture they came from."""
BIAS: dict[Autoencoder, tuple[float, float, float]] = {
    "stable-diffusion": (0.0, 0.0, 0.0),
    "toybox": (0.749, 0.697, 0.679),
}
"""Colors of zero latents: the embedded autoencoder's pictures are mostly white."""


def rgb_from_latents(
    latents: Float[Tensor, "N 4"], autoencoder: Autoencoder = "stable-diffusion"
) -> Float[Tensor, "N 3"]:
    """Return rough display colors in [0, 1] of latents, without the autoencoder."""
    rgb = latents @ latents.new_tensor(LATENT_TO_RGB[autoencoder]) + latents.new_tensor(BIAS[autoencoder])
    return (0.5 * rgb + 0.5).clamp(0, 1)


@register("sd-latent-adapter-material")
class LatentAdapter(Material["LatentAdapter.Config"]):
    """color = (features adapter + 1) / 2: a field of latents becomes one of colors (Latent-NeRF, arXiv 2211.07600).

    Weights: ``adapter`` (4, 3); with the embedded autoencoder's start ``bias`` (3), too.
    """

    n_features = N_LATENTS

    @dataclass(frozen=True)
    class Config:
        initial_adapter: Autoencoder = option(
            "stable-diffusion", "autoencoder whose linear map from latents to colors is the start"
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        start, bias = LATENT_TO_RGB[config.initial_adapter], BIAS[config.initial_adapter]
        self.adapter = torch.nn.Parameter(torch.tensor(start))
        self.bias = torch.nn.Parameter(torch.tensor(bias)) if any(bias) else None

    @override
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Return colors in [0, 1]."""
        rgb = features[:, :N_LATENTS] @ self.adapter
        return (0.5 * (rgb if self.bias is None else rgb + self.bias) + 0.5).clamp(0, 1)
