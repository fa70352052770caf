"""Pictures on their way into a network: square resizing and CLIP's normalization, in plain torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_square(
    image: Float[Tensor, "B C H W"], size: int, mode: str = "bilinear"
) -> Float[Tensor, "B C {size} {size}"]:
    """Return the picture at size x size, antialiased; untouched when it has that size already."""
    if image.shape[-2:] == (size, size):
        return image
    return torch.nn.functional.interpolate(
        image, (size, size), mode=mode, align_corners=False, antialias=True
    )


@dataclass(frozen=True)
class ClipPicture:
    """The input format of a CLIP image tower: side in pixels, and mean and spread per color.

    ``source_size`` selects the resizing of Zero-1-to-3's training code: from that many pixels, by interpolation between
    pixel centers at the corners, neither antialiased nor clamped. Without it pictures are resized as the CLIP processor
    of transformers does.
    """

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    source_size: int | None = None

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        """Resize pictures in [0, 1] to S x S, bicubic, and normalize them."""
        small = self._resize(image)
        mean, std = small.new_tensor(self.mean), small.new_tensor(self.std)
        return (small - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def _resize(self, image: Tensor) -> Tensor:
        if self.source_size is None:
            return resize_square(image, self.size, "bicubic").clamp(0, 1)
        # The original resizes with kornia at its 2023 settings, and the tower's embedding was learned from that.
        source = resize_square(image, self.source_size)
        return torch.nn.functional.interpolate(
            source, (self.size, self.size), mode="bicubic", align_corners=True
        )

    @classmethod
    def from_folder(cls, folder: Path, size: int, source_size: int | None = None) -> "ClipPicture":
        """Read ``folder/preprocessor_config.json`` if it is there, else take CLIP's constants at ``size``."""
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return cls(size, source_size=source_size)
        try:
            options = json.loads(path.read_text())
        except ValueError as problem:
            raise UserError(f"{path}: is not JSON ({problem})") from None
        mean, std = options.get("image_mean") or CLIP_MEAN, options.get("image_std") or CLIP_STD
        return cls(size, tuple(mean), tuple(std), source_size)
