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


def resized(
    image: Float[Tensor, "B C H W"], size: int, mode: str = "bilinear"
) -> Float[Tensor, "B C {size} {size}"]:
    """The picture at size x size, antialiased; untouched when it has that size already."""
    if image.shape[-2:] == (size, size):
        return image
    return torch.nn.functional.interpolate(
        image, (size, size), mode=mode, align_corners=False, antialias=True
    )


@dataclass(frozen=True)
class ClipPicture:
    """How a CLIP image tower wants its pictures: side in pixels, and mean and spread per color."""

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        """From [0, 1] to what the tower was trained on (bicubic, antialiased, then normalized)."""
        small = resized(image, self.size, "bicubic").clamp(0, 1)
        mean, std = small.new_tensor(self.mean), small.new_tensor(self.std)
        return (small - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    @classmethod
    def from_folder(cls, folder: Path, size: int) -> "ClipPicture":
        """``folder/preprocessor_config.json`` if it is there, else CLIP's constants at ``size``."""
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return cls(size)
        try:
            said = json.loads(path.read_text())
        except ValueError as problem:
            raise UserError(f"{path}: is not JSON ({problem})") from None
        mean, std = said.get("image_mean") or CLIP_MEAN, said.get("image_std") or CLIP_STD
        return cls(size, tuple(mean), tuple(std))
