"""How far a picture is from the truth. Pure functions; pictures are ``B c H W`` in [0, 1].

PSNR and SSIM are taken over white, one number a picture; the mean over pictures is the caller's (the published protocol
averages per-picture values). Mask IoU binarizes both alphas at one half. ``sharpness`` and ``speckle`` compare with
nothing: they say how fine and how grainy a picture is, true or not, so they mean something only beside another measure.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def psnr(picture: Float[Tensor, "B c H W"], truth: Float[Tensor, "B c H W"]) -> Float[Tensor, "B"]:
    """Return the peak signal-to-noise ratio in dB, 10 log10(1 / mse); infinite for equal pictures."""
    mse = (picture - truth).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(mse)


def ssim(
    picture: Float[Tensor, "B c H W"], truth: Float[Tensor, "B c H W"], window: int = 11, sigma: float = 1.5
) -> Float[Tensor, "B"]:
    """Return the structural similarity (Wang et al. 2004): Gaussian window, K1 = .01, K2 = .03, whole windows only.

    Pictures smaller than the window get the largest odd window that fits.
    """
    # Odd, so that the window has a middle pixel.
    window = min(window, (min(picture.shape[-2:]) - 1) // 2 * 2 + 1)
    bell = _bell(window, sigma).to(picture)
    maps = [picture, truth, picture.square(), truth.square(), picture * truth]
    mean_a, mean_b, square_a, square_b, product = _blurred(torch.cat(maps, 1), bell).chunk(5, 1)
    # Variance as mean of squares minus square of mean: one convolution a term.
    var_a, var_b = square_a - mean_a.square(), square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    # C1 = (K1 L)^2 and C2 = (K2 L)^2 with L = 1; both keep dark or flat windows from dividing by nothing.
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a.square() + mean_b.square() + 1e-4)
    structure = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blurred(x: Float[Tensor, "B c H W"], bell: Float[Tensor, "n"]) -> Float[Tensor, "B c h w"]:
    """Return averages over whole windows, weighted by ``bell`` along both axes."""
    # The Gaussian separates: n + n products a pixel instead of n n.
    for kernel in (bell[:, None], bell[None]):
        x = torch.nn.functional.conv2d(x, kernel.expand(x.shape[1], 1, *kernel.shape), groups=x.shape[1])
    return x


def _bell(window: int, sigma: float) -> Float[Tensor, "n"]:
    """Return the weights of a Gaussian window along one axis."""
    x = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    # In double precision: weights must add up to 1 for flat pictures to have no variance.
    bell = torch.exp(-0.5 * (x / sigma).square())
    return bell / bell.sum()


def mask_iou(alpha: Float[Tensor, "B 1 H W"], truth: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B"]:
    """Return the intersection over union of the silhouettes; 1 where both are empty."""
    a, b = alpha > 0.5, truth > 0.5
    union = (a | b).sum(dim=(1, 2, 3))
    both = (a & b).sum(dim=(1, 2, 3))
    return torch.where(union > 0, both / union.clamp_min(1), torch.ones_like(both, dtype=torch.float32)).to(
        alpha
    )


def sharpness(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B"]:
    """Return how fine the visible detail is: root mean square slope over standard deviation of its colors, in 1 / px.

    Slopes are those of the straight colors smoothed by a Gaussian of 1 px (inside the object only), so that grain
    counts for little. Sums run over the three colors and over the pixels that are at least 2 px inside (alpha above
    one half), so that silhouettes do not count. Dividing by the deviation makes it blind to contrast and brightness.
    For a pattern of one wavelength l, many pixels long, it is 2 pi / l; blurring lowers it; 0 where all is of one
    color or there is no inside. Only the same views at the same size can be compared.
    """
    inside = _inside(rgba[:, 3:])
    count = inside.sum(dim=(1, 2, 3)).clamp_min(1)
    mean = (rgba[:, :3] * inside).sum(dim=(2, 3), keepdim=True) / count.view(-1, 1, 1, 1)
    variance = ((rgba[:, :3] - mean).square() * inside).sum(dim=(1, 2, 3)) / count
    # Smoothed first: a slope of single pixels would measure noise.
    slope = (_slopes(_smoothed(rgba)).square().sum(dim=2) * inside).sum(dim=(1, 2, 3)) / count
    return torch.where(variance > 1e-6, slope / variance.clamp_min(1e-6), torch.zeros_like(slope)).sqrt()


def speckle(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B"]:
    """Return how grainy a picture is: what a median of 3 x 3 pixels changes at the typical pixel inside the object.

    The median over pixels, so that true edges, which are few, do not count: 0 for flat or evenly shaded surfaces with
    sharp borders between them, about half the standard deviation for independent noise. Straight colors in [0, 1], the
    mean of the three channels; pixels at least 2 px inside; nan where there are none.
    """
    inside = _inside(rgba[:, 3:])[:, 0] > 0
    windows = (
        torch.nn.functional.pad(rgba[:, :3], (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    )
    changed = (rgba[:, :3] - windows.flatten(4).median(-1).values).abs().mean(1)
    found = [each[mask].median() for each, mask in zip(changed, inside, strict=True)]
    return torch.stack(found)


def _inside(alpha: Float[Tensor, "B 1 H W"], away: int = 2) -> Float[Tensor, "B 1 H W"]:
    """Return 1 where all pixels up to ``away`` steps away (also diagonal ones) are object.

    0 along the picture's border.
    """
    # Pooling the background spreads it by ``away`` pixels: a dilation, so its complement is an erosion.
    gap = torch.nn.functional.pad((alpha <= 0.5).to(alpha), (away,) * 4, value=1.0)
    return 1 - torch.nn.functional.max_pool2d(gap, 2 * away + 1, 1)


def _smoothed(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Return straight colors averaged by a Gaussian of 1 px over what is object."""
    # Normalized convolution: background neither bleeds in nor darkens the rim.
    object_ = (rgba[:, 3:] > 0.5).to(rgba)
    padded = torch.nn.functional.pad(torch.cat([rgba[:, :3] * object_, object_], 1), (3,) * 4)
    sums = _blurred(padded, _bell(7, 1.0).to(rgba))
    return sums[:, :3] / sums[:, 3:].clamp_min(1e-6)


def _slopes(x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c 2 H W"]:
    """Return the change per pixel along rows and along columns, by central differences; 0 on the border."""
    along = torch.nn.functional.pad((x[..., 2:] - x[..., :-2]) / 2, (1, 1))
    down = torch.nn.functional.pad((x[..., 2:, :] - x[..., :-2, :]) / 2, (0, 0, 1, 1))
    return torch.stack([along, down], 2)
