"""Texture coordinates of a mesh."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.math.mesh import face_cross


@dataclass(frozen=True)
class Atlas:
    """A mesh laid out flat: each corner of each face has one of T points (u right, v down, in [0, 1]).

    Faces lie side by side, none over another. A *chart* is a part of the mesh that is laid out in one piece.
    """

    uv: Float[Tensor, "T 2"]
    faces: Int[Tensor, "F 3"]
    charts: int
    method: Literal["xatlas", "boxes"]

    @property
    def corners(self) -> Float[Tensor, "F 3 2"]:
        """Texture coordinates at the corners of faces."""
        return self.uv[self.faces]


@dataclass(frozen=True)
class Density:
    """The texel density of a texture, per world unit. ``low`` is below all but a twentieth of the surface."""

    mean: float
    low: float
    used: float  # share of the texture that faces cover


def density(atlas: Atlas, vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], size: int) -> Density:
    """Return texels per world unit: the root of the texture's area over the surface's."""
    area = 0.5 * face_cross(vertices, faces).norm(dim=-1).double()
    a, b, c = atlas.corners.double().unbind(1)
    flat = 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs()
    each = (flat / area.clamp_min(1e-30)).sqrt() * size
    order = each.argsort()
    share = area[order].cumsum(0) / area.sum().clamp_min(1e-30)
    low = each[order][int(torch.searchsorted(share, 0.05).clamp_max(len(each) - 1))]
    mean = (flat.sum() / area.sum().clamp_min(1e-30)).sqrt() * size
    return Density(float(mean), float(low), float(flat.sum()))
