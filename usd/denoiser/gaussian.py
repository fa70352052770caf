"""The analytic denoiser: exact noise predictions when pictures are normally distributed around a known one.

Its latent is the picture itself, scaled to [-1, 1]. It needs no weights, so the whole path from camera to mesh runs
in seconds and has closed-form answers; choose it with the model name ``gaussian``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.core.types import LatentSpace
from usd.denoiser import Embedding, EncodedReference, TextDenoiser, ViewDenoiser
from usd.denoiser.picture import resize_square
from usd.math.camera import Cameras
from usd.math.diffusion import gaussian_eps, scaled_linear_alphas_cumprod

Mean = Callable[[Cameras], Tensor]


@dataclass(frozen=True)
class Normal(Embedding):
    """x0 ~ N(mean, std^2), independent per entry."""

    mean: Float[Tensor, "B 3 S S"]
    std: Float[Tensor, "B"]


@dataclass(frozen=True)
class MeanPicture(EncodedReference):
    """The reference picture, as latents, kept as the expected view from everywhere."""

    z: Float[Tensor, "1 3 S S"]


@register("gaussian")
class GaussianDenoiser(TextDenoiser["GaussianDenoiser.Config"], ViewDenoiser["GaussianDenoiser.Config"]):
    """N(mean, std^2) without a condition, N(condition, view_std^2) under a picture or a sentence."""

    @dataclass(frozen=True)
    class Config:
        size: int = option(32, "side of its square pictures, in pixels", ge=1, le=4096)
        mean: float = option(0.0, "mean of pictures without a condition, in [-1, 1]", ge=-1, le=1)
        std: float = option(1.0, "standard deviation of pictures without a condition", gt=0, le=1000)
        text_mean: float = option(0.2, "mean of pictures under any sentence", ge=-1, le=1)
        view_std: float = option(0.2, "standard deviation of pictures under a condition", gt=0, le=1000)

    embedding = Normal

    def __init__(self, config: Config, view_mean: Mean | None = None, name: str = "gaussian") -> None:
        """Take ``view_mean``, the expected latents of cameras; without it every view expects the reference."""
        super().__init__(config, name)
        self.view_mean = view_mean
        self.latent = LatentSpace(3, config.size, config.size, config.size, 1.0)
        self.register_buffer("alphas_cumprod", scaled_linear_alphas_cumprod(), persistent=False)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        """Return pictures at the model's size, in [-1, 1]. Differentiable."""
        return resize_square(image, self.config.size) * 2 - 1

    def decode(self, z: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Return pictures in [0, 1]."""
        return (z * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def eps(
        self, xt: Float[Tensor, "B 3 S S"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B 3 S S"]:
        """Return the exact expectation of the noise in x_t."""
        assert isinstance(embedding, Normal)
        mean, std = embedding.mean.to(xt), embedding.std.to(xt)
        return gaussian_eps(xt, mean.expand_as(xt), std, self.alphas_cumprod, t).float()

    def unconditional(self, batch: int) -> Normal:
        """Return N(mean, std^2)."""
        return self._flat([self.config.mean] * batch, self.config.std)

    def embed_text(self, prompts: Sequence[str]) -> Normal:
        """Return N(text_mean, view_std^2) for any sentence; N(mean, std^2) for the empty one."""
        flat = self._flat(
            [self.config.text_mean if p else self.config.mean for p in prompts], self.config.view_std
        )
        empty = torch.tensor([not p for p in prompts], device=flat.std.device)
        return Normal(flat.mean, torch.where(empty, self.config.std, flat.std))

    @override
    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> MeanPicture:
        """Return the reference picture as the expected view."""
        return MeanPicture(self.encode(rgb))

    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> Normal:
        """Return N(expected view, view_std^2) for each camera."""
        assert isinstance(reference, MeanPicture)
        mean = (
            reference.z.expand(len(cameras), -1, -1, -1)
            if self.view_mean is None
            else self.view_mean(cameras)
        )
        return Normal(mean, mean.new_full((len(cameras),), self.config.view_std))

    def expected_latents(
        self, reference: EncodedReference, cameras: Cameras
    ) -> Float[Tensor, "B 3 S S"] | None:
        """Return the mean view for each camera."""
        return self.embed_view(reference, cameras).mean

    def _flat(self, means: Sequence[float], std: float) -> Normal:
        size, like = self.config.size, self.alphas_cumprod
        mean = like.new_tensor(list(means)).view(-1, 1, 1, 1).expand(-1, 3, size, size)
        return Normal(mean, like.new_full((len(means),), std))
