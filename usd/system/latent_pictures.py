"""Pictures of rendered latents, as the autoencoder that they belong to decodes them (Latent-NeRF, arXiv 2211.07600).

One pixel of a latent says roughly its color, and its neighbors say the rest: a map of single pixels, which is all that
a mesh or a window of a picture can have, loses the hue of the embedded models.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from usd.core.errors import ConfigError
from usd.core.types import LatentSpace, Render
from usd.denoiser import Denoiser
from usd.material import Material


class LatentPictures:
    """Decodes renders of latents with a model's autoencoder."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        size = model.latent.image_size
        with torch.no_grad():
            self.white = model.encode(torch.ones(1, 3, size, size, device=model.alphas_cumprod.device))

    @torch.no_grad()
    def decode(self, render: Render) -> Render:
        """Return a render of latents as one of colors, of the same size and on the CPU."""
        if render.foreground is None:
            return replace(render, rgb=self._pictures(render.rgb))
        clear = 1 - render.opacity
        # The autoencoder has seen whole pictures: the object is decoded over white, and white taken away again.
        white = interpolate(self.white.cpu().float(), clear.shape[-2:], mode="nearest")
        over_white = self._pictures(render.foreground + clear * white)
        foreground = (over_white - clear).clamp_min(0).minimum(render.opacity)
        return replace(render, rgb=self._pictures(render.rgb), foreground=foreground)

    def _pictures(self, latents: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
        """Return colors in [0, 1], each picture decoded at the size that the model works in."""
        device, size = self.model.alphas_cumprod.device, latents.shape[-2:]
        inputs = fit_latents(latents.to(device), self.model.latent).split(1)
        pictures = torch.cat([self.model.decode(one).cpu().float() for one in inputs])
        return interpolate(pictures, size, mode="bilinear", antialias=True).clamp(0, 1)


def rough_pictures(render: Render, material: Material) -> Render:
    """Return a render of latents as one of the colors that ``material`` displays pixel by pixel."""

    def displayed(latents: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
        batch, _, *size = latents.shape
        return (
            material.displayed(latents.movedim(1, -1).flatten(0, 2))
            .unflatten(0, (batch, *size))
            .movedim(-1, 1)
        )

    if render.foreground is None:
        return replace(render, rgb=displayed(render.rgb))
    straight = render.foreground / render.opacity.clamp_min(1e-6)
    return replace(render, rgb=displayed(render.rgb), foreground=displayed(straight) * render.opacity)


def fit_latents(latents: Float[Tensor, "B C H W"], space: LatentSpace) -> Float[Tensor, "B C h w"]:
    """Return latents at the size of ``space``. Raises ``ConfigError`` where their channels are others."""
    require_channels(latents.shape[1], space)
    size = (space.height, space.width)
    return (
        latents if latents.shape[-2:] == size else interpolate(latents, size, mode="bilinear", antialias=True)
    )


def require_channels(channels: int, space: LatentSpace) -> None:
    """Raise ``ConfigError`` where as many channels are no latents of a space."""
    if channels != space.channels:
        raise ConfigError(
            f"system.material.n_output_dims: what is rendered has {channels} channels; expected the "
            f"{space.channels} of the guidance's latents"
        )
