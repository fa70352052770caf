"""When another model's unconditional prediction is the better one: quadratic forms in the errors of predictions.

At x_t of a picture that is known, three predictions have errors against the noise that was added: e_c of the
conditional one, e_u of the same model's unconditional one, e_b of the base model's. Classifier-free guidance with the
mixture a e_u + (1 - a) e_b errs by

    s e_c - (s - 1) (a e_u + (1 - a) e_b),        a = 1: plain;  a = 0: rectified (arXiv 2312.06198, supplement 1).

A distillation formula with lambda errs by s e_c - (s - lambda) times that mixture (usd/math/distill.py); lambda = 1 is
guidance. Its square has the inner products of the three errors as its only data: a 3 x 3 matrix for each noise level,
here called *moments*, in the order (conditional, own, base). Rectification helps where the form is smaller at a = 0
than at a = 1, which is not where |e_u| > |e_b|: what e_u shares with e_c cancels.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from usd.math.diffusion import EpsFn, alpha_sigma


def error_moments(
    cond: Float[Tensor, "... K"],
    own: Float[Tensor, "... K"],
    base: Float[Tensor, "... K"],
    noise: Float[Tensor, "... K"],
) -> Float[Tensor, "... 3 3"]:
    """Return the mean products of the errors of three predictions, over the K entries of each."""
    errors = torch.stack([cond - noise, own - noise, base - noise], -2).double()
    return errors @ errors.transpose(-1, -2) / errors.shape[-1]


def guided_error(
    moments: Float[Tensor, "... 3 3"],
    scale: float,
    own_share: Float[Tensor, "..."] | float,
    lambda_: float = 1.0,
) -> Float[Tensor, "..."]:
    """Return the mean square error of guidance at ``scale``, with this share of the model's own prediction.

    With ``lambda_`` it is that of the distillation formula, s e_c - (s - lambda) e_r.
    """
    share = torch.as_tensor(own_share, dtype=moments.dtype, device=moments.device).expand(moments.shape[:-2])
    rest = lambda_ - scale
    weights = torch.stack([torch.full_like(share, scale), rest * share, rest * (1 - share)], -1)
    return torch.einsum("...i,...ij,...j->...", weights, moments, weights)


def rectification_gain(
    moments: Float[Tensor, "... 3 3"], scale: float, lambda_: float = 1.0
) -> Float[Tensor, "..."]:
    """Return how much less rectified guidance errs than plain guidance (mean square); above zero, rectify."""
    return guided_error(moments, scale, 1.0, lambda_) - guided_error(moments, scale, 0.0, lambda_)


def crossing_scale(moments: Float[Tensor, "3 3"], lambda_: float = 1.0) -> float | None:
    """Return the scale above lambda at which ``rectification_gain`` changes its sign; None where it has one sign there.

    The gain is (s - lambda) [(s - lambda) A - 2 s C] with A = |e_u|^2 - |e_b|^2 and C = <e_c, e_u - e_b>, zero at
    lambda A / (A - 2 C).
    """
    larger = float(moments[1, 1] - moments[2, 2])
    shared = float(moments[0, 1] - moments[0, 2])
    slope = larger - 2 * shared
    scale = lambda_ * larger / slope if slope else 0.0
    return scale if scale > lambda_ else None


def best_own_share(
    moments: Float[Tensor, "... 3 3"], scale: float, lambda_: float = 1.0, limit: bool = True
) -> Float[Tensor, "..."]:
    """Return the share a that makes ``guided_error`` smallest; with ``limit`` the best one in [0, 1].

    With d = e_u - e_b it is <s e_c - (s - lambda) e_b, d> / ((s - lambda) |d|^2). Where no share is better than
    another (scale lambda, equal predictions) it is 1, the model's own.
    """
    _, own, base = moments.unbind(-1)
    with_d, rest = own - base, scale - lambda_  # inner products of each error with d
    size = with_d[..., 1] - with_d[..., 2]
    towards = scale * with_d[..., 0] - rest * with_d[..., 2]
    decides = (size > 1e-12 * moments.diagonal(dim1=-2, dim2=-1).sum(-1)) & (rest != 0)
    share = torch.where(decides, towards / (size * (rest or 1.0)).where(decides, 1.0), 1.0)
    return share.clamp(0, 1) if limit else share


def picture_weight(alphas_cumprod: Float[Tensor, "T"], times: Tensor) -> Float[Tensor, "N"]:
    """Return sigma^2 / alpha^2 at these times: what turns a square error of noise into one of clean pictures."""
    alpha, sigma = alpha_sigma(alphas_cumprod, times)
    return (sigma / alpha).square().flatten()


def mixed_fn(own: EpsFn, base: EpsFn, own_share: Callable[[Tensor], Tensor]) -> EpsFn:
    """Return a own + (1 - a) base with a = ``own_share(t)``, as a predictor; one that has no share is not evaluated."""

    def eps(xt: Float[Tensor, "B c h w"], t: Tensor) -> Float[Tensor, "B c h w"]:
        share = own_share(t).to(xt).view(-1, 1, 1, 1)
        if bool((share == 1).all()):
            return own(xt, t)
        if bool((share == 0).all()):
            return base(xt, t)
        return torch.lerp(base(xt, t), own(xt, t), share)

    return eps
