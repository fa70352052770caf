"""Ordinary sampling: pictures from noise, by DDIM, plain or rectified by a second model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.denoiser import (
    Denoiser,
    Embedding,
    EncodedReference,
    TextDenoiser,
    TextGroupDenoiser,
    ViewDenoiser,
    check_shared_latents,
)
from usd.math.camera import Cameras
from usd.math.diffusion import EpsFn, ddim_sample, ddim_timesteps, guided_fn


@dataclass(frozen=True)
class Sampler:
    """DDIM with ``steps`` steps, guidance ``scale``, and eta ``noise_share``."""

    steps: int = 50
    scale: float = 3.0
    noise_share: float = 0.0


def sample_views(
    model: ViewDenoiser,
    reading: EncodedReference,
    cameras: Cameras,
    sampler: Sampler,
    generator: torch.Generator | None,
    prior: TextDenoiser | None = None,
) -> Float[Tensor, "R 3 S S"]:
    """Sample novel views in [0, 1], a row for each camera and domain.

    With ``prior`` its unconditional prediction replaces the model's own.
    """
    if prior is not None:
        check_shared_latents(model, prior, "sampling")
    base = model if prior is None else prior
    cond = conditional_eps(model, model.embed_view(reading, cameras))
    rows = len(cameras) * len(model.domains)
    uncond = conditional_eps(base, base.with_cameras(base.unconditional(rows), cameras, reading))
    return _sample(model, guided_fn(cond, uncond, sampler.scale), rows, sampler, generator)


def sample_group(
    model: TextGroupDenoiser,
    prompt: str,
    cameras: Cameras,
    sampler: Sampler,
    generator: torch.Generator | None,
    prior: TextDenoiser | None = None,
) -> Float[Tensor, "R 3 S S"]:
    """Sample a sentence's views from the cameras of a group, in [0, 1]; see ``sample_views`` for ``prior``."""
    rows, base = len(cameras), model if prior is None else prior
    if prior is not None:
        check_shared_latents(model, prior, "sampling")
    given = model.with_cameras(model.embed_text([prompt] * rows), cameras)
    nothing = base.with_cameras(base.unconditional(rows), cameras)
    cond, uncond = conditional_eps(model, given), conditional_eps(base, nothing)
    return _sample(model, guided_fn(cond, uncond, sampler.scale), rows, sampler, generator)


def sample_text(
    model: TextDenoiser, prompts: Sequence[str], sampler: Sampler, generator: torch.Generator | None
) -> Float[Tensor, "B 3 S S"]:
    """Sample one picture in [0, 1] per prompt."""
    embeddings = model.embed_text(prompts), model.unconditional(len(prompts))
    cond, uncond = (conditional_eps(model, embedding) for embedding in embeddings)
    return _sample(model, guided_fn(cond, uncond, sampler.scale), len(prompts), sampler, generator)


def conditional_eps(model: Denoiser, embedding: Embedding) -> EpsFn:
    """Return the noise predictor of a model under one condition."""
    return lambda xt, t: model.eps(xt, t, embedding)


@torch.no_grad()
def _sample(
    model: Denoiser, eps_fn: EpsFn, batch: int, sampler: Sampler, generator: torch.Generator | None
) -> Float[Tensor, "B 3 S S"]:
    space, device = model.latent, model.alphas_cumprod.device
    source = device if generator is None else generator.device
    shape = (batch, space.channels, space.height, space.width)
    noise = torch.randn(shape, generator=generator, device=source).to(device)
    times = ddim_timesteps(sampler.steps, len(model.alphas_cumprod) - 1)
    z = ddim_sample(eps_fn, noise, times, model.alphas_cumprod, sampler.noise_share, generator)
    return model.decode(z)
