"""Pictures of latents without a model: a linear map from latents to colors, fitted to the model's own autoencoder.

One pixel of a latent says nearly its color: over patches of one color the decoder is almost affine (arXiv 2211.07600).
The map is fitted by least squares when a training opens its model, and kept in the checkpoint, so that testing and
exporting load none.
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
        """Fit the map to pictures of one color each, as the model encodes them."""
        device = self.get_buffer("matrix").device
        colors = torch.rand(SAMPLES, 3, generator=generator, device=generator.device).to(device)
        size = model.latent.image_size
        latents = torch.cat(
            [model.encode(color.view(1, 3, 1, 1).expand(-1, -1, size, size)) for color in colors]
        )
        # the middle of a picture, where its rim does not reach
        h, w = latents.shape[2] // 4, latents.shape[3] // 4
        mean = latents[:, :, h : latents.shape[2] - h, w : latents.shape[3] - w].mean(dim=(2, 3)).float()
        rows = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
        # ridge: latents of one color need not span all channels
        normal = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], device=device)
        self.get_buffer("matrix").copy_(torch.linalg.solve(normal, rows.T @ colors))

    def forward(self, latents: Float[Tensor, "B C H W"], opacity: Float[Tensor, "B 1 H W"]) -> Tensor:
        """Return colors (B, 3, H, W) in [0, 1] of latents premultiplied by ``opacity``, premultiplied."""
        rows = torch.cat([latents, opacity], 1)
        colors = torch.einsum("bchw,cd->bdhw", rows, self.get_buffer("matrix").to(rows))
        return colors.clamp_min(0).minimum(opacity)

    def decode(self, render: Render) -> Render:
        """Return a render of latents as one of colors."""
        foreground = None if render.foreground is None else self(render.foreground, render.opacity)
        return replace(render, rgb=self(render.rgb, torch.ones_like(render.opacity)), foreground=foreground)
