"""How far a picture is from the truth. Pure functions; pictures are ``B c H W`` in [0, 1].

PSNR and SSIM are taken over white, one number a picture; the mean over pictures is the caller's (the published protocol
averages per-picture values). Mask IoU binarises both alphas at one half. ``sharpness`` compares with nothing: it says
how fine a picture is, true or not, so it means something only beside one of the others.
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


def sharpness(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B"]:
    """How fine what an object shows is: root mean square gradient over standard deviation, inside the object; 1 / px.

    Sums run over the pixels whose 3 x 3 neighbourhood is object (alpha above one half), so silhouettes do not count,
    and over the three colours. The gradient is Scharr's (a plane of slope g has gradient g). By dividing by the
    deviation of the colours, contrast and brightness do not count either: for a pattern of one wavelength l it is 2 pi
    / l, as long as l is many pixels; blurring lowers it. 0 where all is of one colour, or there is no inside. Noise
    raises it.
    """
    inside = _inside(rgba[:, 3:])
    colors = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    count = inside.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (colors * inside).sum(dim=(2, 3), keepdim=True) / count
    variance = ((colors - mean).square() * inside).sum(dim=(1, 2, 3))
    slope = (_scharr(colors).square() * inside[:, :, None]).sum(dim=(1, 2, 3, 4))
    return torch.where(
        variance > 1e-8 * count.flatten(), (slope / variance.clamp_min(1e-12)).sqrt(), 0 * slope
    )


def _inside(alpha: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """1 where a pixel and its eight neighbours are object; 0 along the border of the picture."""
    gap = (alpha <= 0.5).to(alpha)
    return 1 - torch.nn.functional.max_pool2d(torch.nn.functional.pad(gap, (1, 1, 1, 1), value=1.0), 3, 1)


def _scharr(x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c 2 H W"]:
    """Gradient along columns and rows, per pixel; 0 differences beyond the border."""
    row = torch.tensor([[-3.0, 0, 3], [-10, 0, 10], [-3, 0, 3]], dtype=x.dtype, device=x.device) / 32
    kernel = torch.stack([row, row.T])[:, None].repeat(x.shape[1], 1, 1, 1)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(padded, kernel, groups=x.shape[1]).unflatten(1, (x.shape[1], 2))
