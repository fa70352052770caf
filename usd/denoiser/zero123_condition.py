"""What Zero-1-to-3 is conditioned on: the relative pose, and the projection of picture and pose into tokens."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.math.camera import Cameras

FourthNumber = Literal["distance", "input-polar"]


def relative_pose(
    cameras: Cameras, reference: Cameras, fourth: FourthNumber = "distance"
) -> Float[Tensor, "B 4"]:
    """[polar difference, sin and cos of the azimuth difference, distance difference], target minus reference.

    Polar angles are measured from +z, so raising the camera is negative. Radians and world units (arXiv 2303.11328).
    ``fourth="input-polar"`` is Stable-Zero123's form, whose last number is the reference's own polar angle.
    """
    moved = cameras.relative_to(reference)
    last = moved.distance
    if fourth == "input-polar":
        last = (torch.pi / 2 - reference.spherical.elevation).expand_as(last)
    return torch.stack([-moved.elevation, torch.sin(moved.azimuth), torch.cos(moved.azimuth), last], -1)


@dataclass(frozen=True)
class CameraProjectionConfig:
    """The shape of the projection. The defaults are the original: one linear layer, one token."""

    embedding_dim: int = option(768, "width of the image embedding", ge=1)
    width: int = option(768, "width of the tokens that the UNet attends to", ge=1)
    type: Literal["linear", "mlp"] = option("linear", "form of the layer")
    harmonics: int = option(0, "extra sines and cosines of multiples of the azimuth difference", ge=0)
    tokens: int = option(1, "tokens that carry embedding and pose", ge=1)
    patch_tokens: bool = option(False, "append the image tower's patch tokens")
    time_embedding: bool = option(False, "also give the pose to the UNet's time embedding")


class CameraProjection(torch.nn.Module):
    """Image embedding and pose to cross-attention tokens: ``proj``, Linear(embedding_dim + 4 -> width)."""

    def __init__(self, config: CameraProjectionConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = torch.nn.Linear(config.embedding_dim + 4, config.width)

    def forward(
        self,
        image_embedding: Float[Tensor, "B D"],
        image_tokens: Float[Tensor, "B T E"] | None,
        pose: Float[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B K W"], Float[Tensor, "B V"] | None]:
        """Tokens for the cross attention, and what is added to the time embedding (None in the original)."""
        return self.proj(torch.cat([image_embedding, pose.to(image_embedding)], -1))[:, None], None
