"""A surface as game engines and glTF describe it: base color, metallic, roughness, lit from all around.

    color = (1 - metallic) base diffuse(normal) + (f0 A + B) specular(reflection, roughness)
    f0 = 0.04 (1 - metallic) + metallic base

A and B are the split sum's second half (Karis 2013), in the closed form of Karis, "Physically Based Shading on Mobile".
Light is computed linear; colors come out as displayed.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.material import BakedSurface, Material
from usd.material.environment import Environment, prefilter, read_panorama, studio_panorama
from usd.math.color import srgb_from_linear
from usd.network.activation import ActivationName, activation

DIELECTRIC = 0.04


@register("pbr-material")
class PBRMaterial(Material["PBRMaterial.Config"]):
    """Features: base color (3), metallic, roughness and, with ``use_bump``, how the normal tilts (3)."""

    needs_normal = True

    @dataclass(frozen=True)
    class Config:
        material_activation: ActivationName = option("sigmoid", "activation that brings features into [0, 1]")
        environment_texture: Path | None = option(
            None, "panorama that lights the surface: .hdr, or a picture; null: a studio with soft lights"
        )
        environment_scale: float = option(2.0, "factor of the panorama's light", gt=0, le=10000)
        min_metallic: float = option(0.0, "lower bound of metallic", ge=0, le=1)
        max_metallic: float = option(0.9, "upper bound of metallic", ge=0, le=1)
        min_roughness: float = option(0.08, "lower bound of roughness", ge=0, le=1)
        max_roughness: float = option(0.9, "upper bound of roughness", ge=0, le=1)
        use_bump: bool = option(True, "let features tilt the normal")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_features = 8 if config.use_bump else 5
        self._activate = activation(config.material_activation)
        given = config.environment_texture
        light = prefilter(studio_panorama() if given is None else read_panorama(given))
        self.register_buffer("glossy", light.glossy, persistent=False)
        self.register_buffer("matt", light.matt, persistent=False)
        self.glossy: Tensor
        self.matt: Tensor

    @override
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Return colors in [0, 1], as displayed."""
        if normals is None:
            raise ValueError("pbr-material: needs normals")
        parts = self._activate(features)
        if self.config.use_bump:
            normals = tilt_normals(normals, 2 * parts[:, 5:8] - 1)
        light = self._reflected(parts, directions, normals)
        return srgb_from_linear((self.config.environment_scale * light).clamp(0, 1))

    def _reflected(
        self, parts: Float[Tensor, "N F"], directions: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """Return the environment's light that points send along their views: diffuse and specular."""
        base, (metallic, roughness) = parts[:, :3], self._finish(parts)
        light = Environment(self.glossy, self.matt)
        # The view's mirror direction meets the prefiltered panorama; the split sum weighs it by reflectance.
        cosine = -(normals * directions).sum(-1, keepdim=True)
        mirrored = directions + 2 * cosine * normals
        f0 = DIELECTRIC + metallic * (base - DIELECTRIC)
        a, b = environment_brdf(roughness, cosine.clamp(0, 1))
        matt = (1 - metallic) * base * light.diffuse(normals)
        shine = (f0 * a + b) * light.specular(mirrored, roughness[:, 0])
        return matt + shine

    def _finish(self, parts: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
        """Return metallic and roughness."""
        c = self.config
        metallic = c.min_metallic + parts[:, 3:4] * (c.max_metallic - c.min_metallic)
        return metallic, c.min_roughness + parts[:, 4:5] * (c.max_roughness - c.min_roughness)

    @override
    def bake(
        self, features: Float[Tensor, "N F"], positions: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> BakedSurface:
        """Return base color, metallic and roughness; tilted normals are not stored."""
        parts = self._activate(features)
        metallic, roughness = self._finish(parts)
        return BakedSurface(srgb_from_linear(parts[:, :3].clamp(0, 1)), metallic[:, 0], roughness[:, 0])


def environment_brdf(
    roughness: Float[Tensor, "N 1"], cosine: Float[Tensor, "N 1"]
) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
    """Return (A, B): a white environment seen in a surface of reflectance f0 has brightness f0 A + B."""
    x, y, z, w = (
        slope * roughness + start
        for slope, start in ((-1.0, 1.0), (-0.0275, 0.0425), (-0.572, 1.04), (0.022, -0.04))
    )
    grazing = torch.minimum(x * x, torch.exp2(-9.28 * cosine)) * x + y
    return -1.04 * grazing + z, 1.04 * grazing + w


def tilt_normals(normals: Float[Tensor, "N 3"], tilt: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Return unit normals leaning by ``tilt`` (two tangents, and along the normal, to which 1 is added)."""
    tangent, other = tangent_frame(normals)
    x, y, z = tilt.split(1, -1)
    return torch.nn.functional.normalize(x * tangent + y * other + (1 + z) * normals, dim=-1)


def tangent_frame(normals: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Return two directions in each surface: level, and uphill. Where the normal is vertical the first is +y."""
    x, y, _ = normals.unbind(-1)
    flat = (x.detach().square() + y.detach().square()) < 1e-8
    level = torch.stack([-y, torch.where(flat, torch.ones_like(x), x), torch.zeros_like(x)], -1)
    level = torch.nn.functional.normalize(level, dim=-1)
    return level, torch.linalg.cross(normals, level)
