"""How far a picture is from the truth. Pure functions; pictures are ``B c H W`` in [0, 1].

PSNR and SSIM are taken over white, one number a picture; the mean over pictures is the caller's (the published protocol
averages per-picture values). Mask IoU binarises both alphas at one half.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def psnr(picture: Float[Tensor, "B c H W"], truth: Float[Tensor, "B c H W"]) -> Float[Tensor, "B"]:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mse); infinite for equal pictures."""
    mse = (picture - truth).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(mse)


def ssim(
    picture: Float[Tensor, "B c H W"], truth: Float[Tensor, "B c H W"], window: int = 11, sigma: float = 1.5
) -> Float[Tensor, "B"]:
    """Structural similarity (Wang et al. 2004): Gaussian window, K1 = .01, K2 = .03, whole windows only.

    Pictures smaller than the window get the largest odd window that fits.
    """
    window = min(window, (min(picture.shape[-2:]) - 1) // 2 * 2 + 1)
    channels = picture.shape[1]
    kernel = _gaussian(window, sigma).to(picture).expand(channels, 1, window, window)

    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, kernel, groups=channels)

    mean_a, mean_b = mean(picture), mean(truth)
    var_a, var_b = mean(picture.square()) - mean_a.square(), mean(truth.square()) - mean_b.square()
    covariance = mean(picture * truth) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a.square() + mean_b.square() + 1e-4)
    structure = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _gaussian(window: int, sigma: float) -> Tensor:
    x = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    bell = torch.exp(-0.5 * (x / sigma).square())
    bell = bell / bell.sum()
    return bell[:, None] * bell[None]


def mask_iou(alpha: Float[Tensor, "B 1 H W"], truth: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B"]:
    """Intersection over union of the silhouettes; 1 where both are empty."""
    a, b = alpha > 0.5, truth > 0.5
    union = (a | b).sum(dim=(1, 2, 3))
    both = (a & b).sum(dim=(1, 2, 3))
    return torch.where(union > 0, both / union.clamp_min(1), torch.ones_like(both, dtype=torch.float32)).to(
        alpha
    )
