"""Score distillation as plain functions.

Most distillation gradients are one formula on noise predictions at the same x_t,

    grad = w(t) * [ s * (eps_cond - eps_ref) + lambda * (eps_ref - noise) ],

with eps_ref the unconditional prediction of the same model (lambda = 1: SDS, arXiv 2209.14988; lambda = 0: CSD,
arXiv 2310.19415) or of another model that shares the latent space (lambda = 0: USD, arXiv 2312.06198).

The others are differences of two predictions (``score_difference``), made at points that they choose: the reference
picture under the same noise (DDS), the inversion of the view (``inverted``: SDI, ISM), or by a model that learns the
renders (VSD). Noise-free distillation (NFSD) adds a term of its own.
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.math.diffusion import EpsFn, add_noise, alpha_sigma, normal_like, x0_from_eps

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sds": lambda abar: 1 - abar,
    "dreamfusion": lambda abar: 1 - abar,
    "uniform": torch.ones_like,
    "fantasia3d": lambda abar: abar.sqrt() * (1 - abar),
    "x0": lambda abar: ((1 - abar) / abar).sqrt(),
    "flow": lambda abar: 1 + ((1 - abar) / abar).sqrt(),
}


def time_weight(
    name: str, alphas_cumprod: Float[Tensor, "T"], t: Int[Tensor, "B"]
) -> Float[Tensor, "B 1 1 1"]:
    """Return w(t): "sds", "dreamfusion" 1 - abar, "uniform" 1, "fantasia3d" sqrt(abar) (1 - abar), "x0" sigma / alpha.

    With "x0" w (eps - n) is the difference of clean pictures, z - x0(eps). "flow" is 1 + sigma / alpha, or 1 / (1 - s)
    of the rectified flow of the same noise: w (eps - n) is the difference of velocities (RFDS, arXiv 2406.03293).
    """
    return WEIGHTS[name](alphas_cumprod.to(t.device)[t]).view(-1, 1, 1, 1)


def predictions_needed(scale: float, lambda_: float) -> frozenset[str]:
    """Return which of "cond" and "ref" have a non-zero coefficient in the formula: s and lambda - s."""
    return frozenset(name for name, factor in (("cond", scale), ("ref", lambda_ - scale)) if factor != 0)


def distillation_gradient(
    weight: Float[Tensor, "B 1 1 1"],
    noise: Float[Tensor, "B C H W"],
    cond: "Float[Tensor, 'B C H W'] | None",
    ref: "Float[Tensor, 'B C H W'] | None",
    scale: float,
    lambda_: float,
) -> Float[Tensor, "B C H W"]:
    """Return w(t) [s (cond - ref) + lambda (ref - noise)].

    A prediction that ``predictions_needed`` leaves out may be None.
    """
    total = -lambda_ * noise
    for factor, prediction in ((scale, cond), (lambda_ - scale, ref)):
        if factor != 0:
            if prediction is None:
                raise ValueError(f"a prediction with factor {factor:g} is missing")
            total = total + factor * prediction
    return weight * total


def perp_neg(
    cond: Float[Tensor, "B C H W"],
    ref: Float[Tensor, "B C H W"],
    negatives: Float[Tensor, "K B C H W"],
    weights: Float[Tensor, "K B"],
) -> Float[Tensor, "B C H W"]:
    """Return the conditional prediction with negative prompts that cannot undo it (Perp-Neg, arXiv 2304.04968, eq. 6).

    ``cond`` plus the sum of weight (not positive) times the part of each (negative - ref) that is perpendicular to
    (cond - ref), picture by picture.
    """
    main = cond - ref
    towards = negatives - ref
    along = (towards * main).sum((-3, -2, -1)) / main.square().sum((-3, -2, -1)).clamp_min(1e-12)
    across = towards - along[..., None, None, None] * main
    return cond + (weights[..., None, None, None] * across).sum(0)


def score_difference(
    weight: Float[Tensor, "B 1 1 1"], rendered: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """Return w(t) (eps of the render - eps of the reference), as in the published code's reference-view term."""
    return weight * (rendered - reference)


def noise_free_gradient(
    weight: Float[Tensor, "B 1 1 1"],
    clean: Bool[Tensor, "B"],
    cond: Float[Tensor, "B C H W"],
    ref: Float[Tensor, "B C H W"],
    bad: Float[Tensor, "B C H W"],
    scale: float,
) -> Float[Tensor, "B C H W"]:
    """Return w(t) [delta + s (cond - ref)], delta = ref where ``clean``, else ref - bad (arXiv 2310.17590, equation 9).

    ``bad`` is what is predicted for pictures that are not wanted; ``clean`` marks small noise levels.
    """
    delta = torch.where(clean.view(-1, 1, 1, 1), ref, ref - bad)
    return weight * (delta + scale * (cond - ref))


def inverted(
    eps_fn: EpsFn,
    z: Float[Tensor, "B C H W"],
    t: Int[Tensor, "B"],
    steps: int,
    alphas_cumprod: Float[Tensor, "T"],
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    stride: int | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return x_t on the deterministic path through the clean picture z, each to its own t, in ``steps`` DDIM steps.

    With ``stride`` the steps end at its multiples and at t itself, as many as it takes.

    DDIM (arXiv 2010.02502) run backwards. As steps grow, x_t of z ~ N(mu, s^2) under exact predictions tends to
    alpha mu + sqrt(alpha^2 s^2 + sigma^2) (z - mu) / s. With ``eta`` every step adds this share of DDIM's own noise.
    """
    x0, xt = z, z
    if stride is None:
        times = [(t * i) // steps for i in range(steps + 1)]
    else:  # whoever has arrived stays: a step of no length changes nothing
        times = [(t * 0 + i * stride).minimum(t) for i in range(max(1, -(-int(t.max()) // stride)) + 1)]
    for number, (now, after) in enumerate(itertools.pairwise(times)):
        eps = eps_fn(xt, now)
        x0 = z if number == 0 else x0_from_eps(xt, eps, alphas_cumprod, now)
        xt = add_noise(x0, eps, alphas_cumprod, after)
        if eta > 0:
            xt = xt + eta * _step_noise(alphas_cumprod, now, after) * normal_like(xt, generator)
    return xt


def _step_noise(
    alphas_cumprod: Float[Tensor, "T"], low: Int[Tensor, "B"], high: Int[Tensor, "B"]
) -> Float[Tensor, "B 1 1 1"]:
    """Return the standard deviation of ancestral sampling between two noise levels (DDIM's sigma at eta = 1)."""
    below, above = (alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1) for t in (low, high))
    return ((1 - below) / (1 - above) * (1 - above / below)).clamp_min(0).sqrt()


def denoised(
    eps_fn: EpsFn,
    xt: Float[Tensor, "B C H W"],
    t: Int[Tensor, "B"],
    steps: int,
    alphas_cumprod: Float[Tensor, "T"],
) -> Float[Tensor, "B C H W"]:
    """Return the clean pictures at the end of the deterministic path from x_t, each from its own t (DDIM)."""
    times = [(t * i) // steps for i in range(steps, -1, -1)]
    for now, after in itertools.pairwise(times):
        eps = eps_fn(xt, now)
        x0 = x0_from_eps(xt, eps, alphas_cumprod, now)
        xt = add_noise(x0, eps, alphas_cumprod, after)
    return x0


def solved(
    eps_fn: EpsFn,
    xt: Float[Tensor, "B C H W"],
    t: Int[Tensor, "B"],
    steps: int,
    alphas_cumprod: Float[Tensor, "T"],
) -> Float[Tensor, "B C H W"]:
    """Return the clean pictures at the end of the way from x_t by DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2).

    One step is DDIM's; from the second on, the change of the predicted picture is carried on.
    """
    times = [(t * i) // steps for i in range(steps, -1, -1)]
    before: tuple[Tensor, Tensor] | None = None  # the last predicted picture, and the length of the last step
    for now, after in itertools.pairwise(times):
        alpha, sigma = alpha_sigma(alphas_cumprod, now)
        low, little = alpha_sigma(alphas_cumprod, after)
        length = (low / little).log() - (alpha / sigma).log()
        x0 = x0_from_eps(xt, eps_fn(xt, now), alphas_cumprod, now)
        ahead = x0 if before is None else x0 + 0.5 * length / before[1] * (x0 - before[0])
        xt = little / sigma * xt - low * torch.expm1(-length) * ahead
        before = x0, length.clamp_min(1e-6)
    return ahead


def image_gradient(
    rendered: Float[Tensor, "B C H W"],
    wanted: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "B 1 1 1"],
    alphas_cumprod: Float[Tensor, "T"],
    t: Int[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    """Return w alpha / sigma (rendered - wanted): the gradient w (eps - noise), said of clean pictures.

    Of latents they are equal, with z and the latents that eps sees in x_t; HiFA (arXiv 2305.18766, equation 10) takes
    the render and the decoded latents.
    """
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return weight * alpha / sigma * (rendered - wanted)


def surrogate_loss(z: Float[Tensor, "B C H W"], grad: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Return 0.5 |z - sg(z - grad)|^2 / B, a loss whose derivative by z is grad / B."""
    return 0.5 * (z - (z - grad).detach()).square().sum() / len(z)


def clip_gradient(grad: Float[Tensor, "B C H W"], limit: float) -> Float[Tensor, "B C H W"]:
    """Return ``grad`` with every entry limited to [-limit, limit]."""
    return grad.clamp(-limit, limit)
