"""What Zero-1-to-3 is conditioned on: the relative pose, and the projection of picture and pose into tokens."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.math.camera import Cameras

PoseConvention = Literal["distance", "input-polar"]


def relative_pose(
    cameras: Cameras, reference: Cameras, convention: PoseConvention = "distance"
) -> Float[Tensor, "B 4"]:
    """Return [polar, sin and cos of azimuth, distance] differences, target minus reference.

    Polar angles are measured from +z, so raising the camera is negative. Radians and world units (arXiv 2303.11328).
    ``convention="input-polar"`` is Stable-Zero123's form, whose last number is the reference's own polar angle.
    """
    moved = cameras.relative_to(reference)
    last = moved.distance
    if convention == "input-polar":
        last = (torch.pi / 2 - reference.spherical.elevation).expand_as(last)
    return torch.stack([-moved.elevation, torch.sin(moved.azimuth), torch.cos(moved.azimuth), last], -1)


@dataclass(frozen=True)
class CameraProjectionConfig:
    """The shape of the projection. The defaults are the original's: one linear layer, one token."""

    embedding_dim: int = option(768, "width of the image embedding", ge=1)
    width: int = option(768, "width of the tokens that the UNet attends to", ge=1)
    type: Literal["linear", "steered"] = option(
        "linear", "form of the layer: the original's, or steered by the pose"
    )
    tokens: int = option(1, "tokens that carry embedding and pose (steered)", ge=1)
    harmonics: int = option(
        3, "multiples of the azimuth difference by which features are turned (steered)", ge=1
    )
    channels: int = option(32, "pairs of features turned by each multiple (steered)", ge=1)
    hidden: int = option(512, "width of the hidden layer (steered)", ge=1)
    patch_dim: int = option(
        0, "width of the image tower's patch tokens to append; 0 for none (steered)", ge=0
    )
    time_width: int = option(
        0, "width of the vector for the UNet's time embedding; 0 for none (steered)", ge=0
    )

    @property
    def patch_tokens(self) -> bool:
        """Return whether the projection reads the image tower's patch tokens."""
        return self.patch_dim > 0


class CameraProjection(torch.nn.Module):
    """Image embedding and pose to cross-attention tokens.

    ``linear`` is the original: ``proj``, Linear(embedding_dim + 4 -> width). ``steered`` is for small models, which do
    not learn from one token to turn with the camera: linear features of the embedding are taken as pairs and turned by
    multiples of the azimuth difference. What reads the azimuth of the reference then says the azimuth of the target,
    by the addition theorem; unturned features keep the identity. A small network makes tokens of both.
    """

    def __init__(self, config: CameraProjectionConfig) -> None:
        super().__init__()
        self.config = config
        if config.type == "linear":
            self.proj = torch.nn.Linear(config.embedding_dim + 4, config.width)
            return
        turned = 2 * config.harmonics * config.channels
        self.norm = torch.nn.LayerNorm(config.embedding_dim)
        self.turn = torch.nn.Linear(config.embedding_dim, turned)
        self.mix = torch.nn.Sequential(
            torch.nn.Linear(config.embedding_dim + turned + 4, config.hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(config.hidden, config.hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(config.hidden, config.tokens * config.width + config.time_width),
        )
        if config.patch_dim:
            self.patches = torch.nn.Linear(config.patch_dim, config.width)

    def forward(
        self,
        image_embedding: Float[Tensor, "B D"],
        image_tokens: Float[Tensor, "B T E"] | None,
        pose: Float[Tensor, "B 4"],
    ) -> tuple[Float[Tensor, "B K W"], Float[Tensor, "B V"] | None]:
        """Return tokens for the cross attention, and what goes to the time embedding (None in the original)."""
        if self.config.type == "linear":
            return self.proj(torch.cat([image_embedding, pose.to(image_embedding)], -1))[:, None], None
        embedding = self.norm(image_embedding)
        pairs = self.turn(image_embedding).unflatten(-1, (self.config.harmonics, self.config.channels, 2))
        turned = rotate_pairs(pairs, pose[:, 1], pose[:, 2])
        out = self.mix(torch.cat([embedding, turned.flatten(1), pose.to(embedding)], -1))
        n = self.config.tokens * self.config.width
        tokens = out[:, :n].unflatten(-1, (self.config.tokens, self.config.width))
        if self.config.patch_dim and image_tokens is not None:
            tokens = torch.cat([tokens, self.patches(image_tokens).to(tokens)], 1)
        return tokens, out[:, n:] if self.config.time_width else None

    @torch.no_grad()
    def read_view_from(self, reader: dict[str, Tensor]) -> None:
        """Start the turned features from a linear map that reads the view off the embedding.

        ``reader`` holds ``weight`` (2 K + ..., D) and ``bias`` with rows sin and cos of the first K multiples of the
        azimuth. Every channel gets that reading at a phase of its own; together they spell the azimuth of the target.
        """
        k, c = self.config.harmonics, self.config.channels
        phase = torch.arange(c) * (2 * torch.pi / c)
        rows_each = []
        for rows in (reader["weight"].float()[: 2 * k], reader["bias"].float()[: 2 * k, None]):
            sin, cos = rows.unflatten(0, (k, 2)).unbind(1)
            x = cos[:, None] * phase.cos()[:, None] - sin[:, None] * phase.sin()[:, None]
            y = sin[:, None] * phase.cos()[:, None] + cos[:, None] * phase.sin()[:, None]
            rows_each.append(torch.stack([x, y], 2).flatten(0, 2))
        self.turn.weight.copy_(rows_each[0])
        self.turn.bias.copy_(rows_each[1][:, 0])


def rotate_pairs(
    pairs: Float[Tensor, "B K C 2"], sin: Float[Tensor, "B"], cos: Float[Tensor, "B"]
) -> Float[Tensor, "B K C 2"]:
    """Return the pairs of harmonic k (from 1) rotated by k times the angle with this ``sin`` and ``cos``."""
    k = torch.arange(1, pairs.shape[1] + 1, device=pairs.device)
    angle = torch.atan2(sin, cos)[:, None] * k
    c, s = torch.cos(angle)[..., None].to(pairs), torch.sin(angle)[..., None].to(pairs)
    x, y = pairs.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y], -1)
