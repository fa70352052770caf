"""Rectified flows: a velocity predicted in a mix of picture and noise, as noise predicted in x_t (usd/math/flow.py)."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.denoiser.pipeline import P, PipelineDenoiser, PromptTokens, Transformer
from usd.math.flow import eps_from_velocity, flow_alphas_cumprod, flow_levels, flow_sample


class FlowDenoiser(PipelineDenoiser[P]):
    """A model of diffusers that was trained on rectified flow. Subclasses say how its network is asked.

    Schedules that are shifted towards noise only choose other levels to sample at; the network is asked by level.
    """

    def __init__(self, config: P, name: str = "") -> None:
        super().__init__(config, name)
        levels = flow_levels()
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("alphas_cumprod", flow_alphas_cumprod(levels), persistent=False)

    def level(self, t: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return the levels of timesteps, on their device."""
        return self.get_buffer("levels").to(t.device)[t]

    def eps_of(
        self,
        network: Transformer,
        xt: Float[Tensor, "B c h w"],
        t: Int[Tensor, "B"],
        embedding: PromptTokens,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise in x_t by way of the velocity at the level of the same noise."""
        level = self.level(t.to(xt.device))
        z = flow_sample(xt.float(), level)
        given = embedding.map(lambda _, x: x.to(xt.device, dtype if x.is_floating_point() else x.dtype))
        with torch.autocast(xt.device.type, enabled=False):
            velocity = self.velocity(network, z.to(dtype), level, given)
        return eps_from_velocity(z, velocity.float(), level)

    def noise_per_prediction(self, t: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return how much the noise grows with the velocity."""
        return 1 - self.level(t)

    @abstractmethod
    def velocity(
        self,
        network: Transformer,
        z: Float[Tensor, "B c h w"],
        level: Float[Tensor, "B"],
        given: PromptTokens,
    ) -> Float[Tensor, "B c h w"]:
        """Return the velocity, noise less picture, that the network predicts in z at a level in (0, 1)."""


def pack(latent: Float[Tensor, "B c h w"]) -> Float[Tensor, "B N D"]:
    """Return 2 x 2 latents as one token each, row by row."""
    b, c, h, w = latent.shape
    cells = latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: Float[Tensor, "B N D"], height: int, width: int) -> Float[Tensor, "B c h w"]:
    """Undo ``pack`` for latents of height x width."""
    cells = tokens.view(len(tokens), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(len(tokens), -1, height, width)
