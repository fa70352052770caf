"""Pictures of latents without a model: a linear map from latents to colors, fitted to the model's own autoencoder.

One pixel of a latent says nearly its color (arXiv 2211.07600). The map is fitted by least squares when a training opens
its model, to colored rectangles over white: edges have latents that no even picture has. It is kept in the checkpoint,
so that testing and exporting load no model.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.types import Render
from usd.denoiser import Denoiser

SAMPLES = 64
RIDGE = 1e-3


class LatentPictures(torch.nn.Module):
    """An affine map from C latent channels to colors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.zeros(channels + 1, 3))

    @torch.no_grad()
    def fit(self, model: Denoiser, generator: torch.Generator) -> None:
        """Fit the map to pictures as the model encodes them."""
        matrix, size = self.get_buffer("matrix"), model.latent.image_size
        pictures = rectangles(SAMPLES, size, generator).to(matrix.device)
        latents = torch.cat([model.encode(picture[None]) for picture in pictures]).float()
        colors = torch.nn.functional.interpolate(pictures, latents.shape[2:], mode="area")
        rows = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).movedim(1, -1).flatten(0, 2)
        # ridge: latents need not span all channels
        normal = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], device=matrix.device)
        matrix.copy_(torch.linalg.solve(normal, rows.T @ colors.movedim(1, -1).flatten(0, 2)))

    def forward(self, latents: Float[Tensor, "B C H W"], opacity: Float[Tensor, "B 1 H W"]) -> Tensor:
        """Return colors (B, 3, H, W) in [0, 1] of latents premultiplied by ``opacity``, premultiplied."""
        rows = torch.cat([latents, opacity], 1)
        colors = torch.einsum("bchw,cd->bdhw", rows, self.get_buffer("matrix").to(rows))
        return colors.clamp_min(0).minimum(opacity)

    def decode(self, render: Render) -> Render:
        """Return a render of latents as one of colors."""
        foreground = None if render.foreground is None else self(render.foreground, render.opacity)
        return replace(render, rgb=self(render.rgb, torch.ones_like(render.opacity)), foreground=foreground)


def rectangles(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "N 3 S S"]:
    """Return square pictures of two rectangles each, of random places and colors, over white."""
    random = torch.rand(count, 2, 7, generator=generator, device=generator.device).cpu()
    place = torch.arange(size) / size
    pictures = torch.ones(count, 3, size, size)
    for corner, extent, color in zip(
        random[..., :2].unbind(1), random[..., 2:4].unbind(1), random[..., 4:].unbind(1)
    ):
        low = 0.8 * corner
        high = low + 0.15 + 0.5 * extent
        x, y = ((place >= low[:, [axis]]) & (place < high[:, [axis]]) for axis in (0, 1))
        covered = y[:, None, :, None] & x[:, None, None, :]
        pictures = torch.where(covered, color[:, :, None, None], pictures)
    return pictures
