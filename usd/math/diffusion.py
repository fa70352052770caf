"""Diffusion as plain functions: schedules, conversions between parameterisations, DDIM, guidance.

A picture (or latent) x0 is noised to ``x_t = alpha * x0 + sigma * eps`` with ``alpha = sqrt(alphabar_t)`` and
``sigma = sqrt(1 - alphabar_t)``. ``alphas_cumprod`` (T,) holds alphabar for the integer times t in [0, T).
``B`` counts pictures, ``C H W`` is one of them; ``t`` is (B,) long. An ``eps_fn(x_t, t)`` returns the noise it sees.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.math import rng

EpsFn = Callable[[Tensor, Tensor], Tensor]


def scaled_linear_alphas_cumprod(
    count: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Float[Tensor, "T"]:
    """Return Stable Diffusion's schedule: square roots of beta linear in t (CompVis latent-diffusion)."""
    root = torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=torch.float64, device="cpu")
    return torch.cumprod(1 - root**2, 0).float()


def linear_alphas_cumprod(
    count: int = 1000, beta_start: float = 0.0001, beta_end: float = 0.02
) -> Float[Tensor, "T"]:
    """Return the schedule of DDPM (arXiv 2006.11239): beta linear in t."""
    beta = torch.linspace(beta_start, beta_end, count, dtype=torch.float64, device="cpu")
    return torch.cumprod(1 - beta, 0).float()


def squared_cosine_alphas_cumprod(count: int = 1000, largest_beta: float = 0.999) -> Float[Tensor, "T"]:
    """Return the cosine schedule (arXiv 2102.09672, eq. 17): alphabar falls as cos^2, each beta at most 0.999."""
    ends = torch.linspace(0, 1, count + 1, dtype=torch.float64, device="cpu")
    wave = torch.cos((ends + 0.008) / 1.008 * torch.pi / 2).square()
    beta = (1 - wave[1:] / wave[:-1]).clamp_max(largest_beta)
    return torch.cumprod(1 - beta, 0).float()


def alpha_sigma(
    alphas_cumprod: Float[Tensor, "T"], t: Int[Tensor, "B"]
) -> tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
    """Return signal and noise amplitude at t; their squares sum to 1."""
    abar = alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
    return abar.sqrt(), (1 - abar).sqrt()


def add_noise(
    x0: Float[Tensor, "B C H W"],
    noise: Float[Tensor, "B C H W"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return x_t of x0 under this noise."""
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return alpha * x0 + sigma * noise


def x0_from_eps(
    xt: Float[Tensor, "B C H W"],
    eps: Float[Tensor, "B C H W"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return the picture that x_t shows when ``eps`` is its noise (inverse of ``add_noise``)."""
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return (xt - sigma * eps) / alpha


def eps_from_x0(
    xt: Float[Tensor, "B C H W"],
    x0: Float[Tensor, "B C H W"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return the noise that turns x0 into x_t."""
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return (xt - alpha * x0) / sigma


def eps_from_v(
    xt: Float[Tensor, "B C H W"],
    v: Float[Tensor, "B C H W"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return the noise of a v prediction, v = alpha eps - sigma x0 (arXiv 2202.00512)."""
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return alpha * v + sigma * xt


def v_from_eps(
    xt: Float[Tensor, "B C H W"],
    eps: Float[Tensor, "B C H W"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return v of a noise prediction (inverse of ``eps_from_v``)."""
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return (eps - sigma * xt) / alpha


def gaussian_eps(
    xt: Float[Tensor, "B C H W"],
    mean: Float[Tensor, "B C H W"],
    std: Float[Tensor, "B"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return the exact prediction for x0 ~ N(mean, std^2): sigma (x_t - alpha mean) / (alpha^2 std^2 + sigma^2)."""
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    variance = (alpha * std.view(-1, 1, 1, 1)) ** 2 + sigma**2
    return sigma * (xt - alpha * mean) / variance


def guided_eps(
    cond: Float[Tensor, "B C H W"], uncond: Float[Tensor, "B C H W"], scale: float
) -> Float[Tensor, "B C H W"]:
    """Return uncond + scale (cond - uncond), classifier-free guidance (arXiv 2207.12598).

    Scale 0 is unconditional, 1 conditional, above 1 exaggerates.

    With ``uncond`` taken from *another* model of the same latent space this is rectified guidance (arXiv
    2312.06198, supplement 1): Zero-1-to-3's condition against Stable Diffusion's unconditional prediction.
    """
    return uncond + scale * (cond - uncond)


def guided_fn(cond: EpsFn, uncond: EpsFn, scale: float) -> EpsFn:
    """Return ``guided_eps`` of two noise predictors, as a predictor; only what the scale needs is evaluated."""
    if scale == 0:
        return uncond
    if scale == 1:
        return cond
    return lambda xt, t: guided_eps(cond(xt, t), uncond(xt, t), scale)


def timestep_range(min_percent: float, max_percent: float, count: int = 1000) -> tuple[int, int]:
    """Return the first and last time (both included) of a range given as fractions of the schedule.

    Raises ValueError unless 0 <= min_percent <= max_percent <= 1.
    """
    if not 0 <= min_percent <= max_percent <= 1:
        raise ValueError(
            f"timestep range [{min_percent:g}, {max_percent:g}]; "
            "expected 0 <= min_step_percent <= max_step_percent <= 1"
        )
    return min(int(count * min_percent), count - 1), min(int(count * max_percent), count - 1)


def sample_timesteps(
    batch: int, low: int, high: int, generator: torch.Generator | None, device: "torch.device | str"
) -> Int[Tensor, "B"]:
    """Draw times uniform over the integers low..high, both included."""
    return rng.integers(low, high + 1, (batch,), generator, device).to(device)


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise of x's shape, dtype and device, drawn on the generator's own device."""
    return rng.normal(x.shape, generator, x.device, x.dtype).to(x.device)


def ddim_timesteps(steps: int, start: int = 999) -> list[int]:
    """Return ``steps`` falling times from ``start``, evenly spaced, the last one at least 0.

    Raises ValueError unless 1 <= steps <= start + 1.
    """
    if not 1 <= steps <= start + 1:
        raise ValueError(f"{steps} sampling steps from t = {start}; expected 1 to {start + 1}")
    return [round(start - i * (start + 1) / steps) for i in range(steps)]


def ddim_step(
    xt: Float[Tensor, "B C H W"],
    eps: Float[Tensor, "B C H W"],
    abar: "Float[Tensor, ''] | float",
    abar_next: "Float[Tensor, ''] | float",
    noise_share: float = 0.0,
    noise: "Float[Tensor, 'B C H W'] | None" = None,
) -> Float[Tensor, "B C H W"]:
    """Take one DDIM step from alphabar to alphabar_next (arXiv 2010.02502, eq. 12), down or up in time.

    ``noise_share`` is eta: 0 is deterministic, 1 is ancestral sampling and needs ``noise``.
    """
    now, after = (torch.as_tensor(a, device=xt.device, dtype=xt.dtype) for a in (abar, abar_next))
    x0 = (xt - (1 - now).sqrt() * eps) / now.sqrt()
    fresh = noise_share * ((1 - after) / (1 - now) * (1 - now / after)).clamp_min(0).sqrt()
    moved = after.sqrt() * x0 + (1 - after - fresh**2).clamp_min(0).sqrt() * eps
    return moved if noise is None else moved + fresh * noise


def ddim_walk(
    eps_fn: EpsFn,
    x: Float[Tensor, "B C H W"],
    times: Sequence[int],
    alphas_cumprod: Float[Tensor, "T"],
    noise_share: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """Run DDIM through ``times``, falling to denoise and rising to invert; a time below 0 is the clean picture."""
    bars = [1.0 if t < 0 else float(alphas_cumprod[t]) for t in times]
    for now, abar, abar_next in zip(times, bars, bars[1:], strict=False):
        at = torch.full((len(x),), max(now, 0), device=x.device, dtype=torch.long)
        fresh = normal_like(x, generator) if noise_share > 0 else None
        x = ddim_step(x, eps_fn(x, at), abar, abar_next, noise_share, fresh)
    return x


def ddim_sample(
    eps_fn: EpsFn,
    x: Float[Tensor, "B C H W"],
    times: Sequence[int],
    alphas_cumprod: Float[Tensor, "T"],
    noise_share: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """Sample clean pictures from noise ``x``: DDIM down the falling ``times`` and on to the clean picture."""
    return ddim_walk(eps_fn, x, [*times, -1], alphas_cumprod, noise_share, generator)


def ddim_invert(
    eps_fn: EpsFn, x0: Float[Tensor, "B C H W"], times: Sequence[int], alphas_cumprod: Float[Tensor, "T"]
) -> Float[Tensor, "B C H W"]:
    """Return the noise that ``ddim_sample`` over the same falling ``times`` turns back into x0 (nearly)."""
    return ddim_walk(eps_fn, x0, [-1, *reversed(times)], alphas_cumprod)
