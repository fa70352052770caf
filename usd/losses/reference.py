"""Losses against a reference picture at the reference camera."""

from torch import Tensor

from usd.core.types import Render
from usd.losses import reference_loss


@reference_loss("foreground")
def reference_rgb(render: Render, picture: Tensor) -> Tensor:
    """Return the mean squared difference of the colors, both premultiplied by their opacity.

    That is the difference over a black background; with ``reference_mask`` it fixes the picture over any other.
    """
    if render.foreground is None:
        raise ValueError("reference loss: the renderer was not asked for 'foreground'")
    rgb, alpha = picture[:, :3], picture[:, 3:]
    return (render.foreground - rgb * alpha).square().mean()


@reference_loss("opacity")
def reference_mask(render: Render, picture: Tensor) -> Tensor:
    """Return the mean squared difference between opacity and the picture's alpha."""
    return (render.opacity - picture[:, 3:]).square().mean()
