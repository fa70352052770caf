"""Ordinary sampling: pictures from noise, by DDIM, plain or rectified by a second model."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.progress import Work, counted
from usd.denoiser import (
    Denoiser,
    Embedding,
    EncodedReference,
    GroupConventions,
    TextDenoiser,
    TextGroupDenoiser,
    ViewDenoiser,
    check_shared_latents,
)
from usd.math.camera import Cameras
from usd.math.diffusion import EpsFn, add_noise, ddim_sample, ddim_timesteps, guided_fn


@dataclass(frozen=True)
class Sampler:
    """DDIM with ``steps`` steps, guidance ``scale``, and eta ``noise_share``.

    Of a model with expected latents (``ViewDenoiser.expected_latents``): below 1 ``start`` is the noise level, as a
    share of the schedule, that sampling starts at from them; ``expected_share`` is their share in what comes out. A
    sample guesses what cannot be known, and costs more squared error there than the mean of all guesses.
    """

    steps: int = 50
    scale: float = 3.0
    noise_share: float = 0.0
    start: float = 1.0
    expected_share: float = 0.0

    @classmethod
    def of(cls, conventions: GroupConventions) -> "Sampler":
        """Return the sampler that a model of view groups is published with."""
        return cls(**{each.name: getattr(conventions, each.name) for each in fields(cls)})


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
    eps = guided_fn(cond, uncond, sampler.scale)
    if sampler.start == 1 and sampler.expected_share == 0:
        return _sample(model, eps, rows, sampler, generator)
    expected = model.expected_latents(reading, cameras)
    if expected is None:
        raise UserError(
            f"'{model.name}' expects no views before it samples; expected a model with a view volume, or --start 1 "
            "and --expected 0"
        )
    return _sample(model, eps, rows, sampler, generator, expected)


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
    model: Denoiser,
    eps_fn: EpsFn,
    batch: int,
    sampler: Sampler,
    generator: torch.Generator | None,
    expected: Float[Tensor, "B c h w"] | None = None,
) -> Float[Tensor, "B 3 S S"]:
    """Return pictures from noise, or from expected latents with noise; their share is in what comes out."""
    space, device = model.latent, model.alphas_cumprod.device
    source = device if generator is None else generator.device
    shape = (batch, space.channels, space.height, space.width)
    noise = torch.randn(shape, generator=generator, device=source).to(device)
    bars = model.alphas_cumprod
    highest = round(sampler.start * (len(bars) - 1))
    times = ddim_timesteps(min(sampler.steps, highest + 1), highest)
    if expected is not None and sampler.start < 1:
        noise = add_noise(expected, noise, bars, torch.full((batch,), times[0], device=device))
    with Work("sampling, steps", len(times)) as work:
        predicted = counted(eps_fn, work, lambda *_: 1)
        z = ddim_sample(predicted, noise, times, bars, sampler.noise_share, generator)
    z = z if expected is None else torch.lerp(z, expected, sampler.expected_share)
    return model.decode(z)
