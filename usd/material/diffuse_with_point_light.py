"""A diffuse surface and a point light: shading shows shape to a diffusion model (DreamFusion, arXiv 2209.14988).

color = albedo * (ambient + diffuse * max(0, normal . direction to the light))

While training, each step is drawn to show the albedo alone, the shading alone (textureless), or both, and the light's
position is drawn around the camera, unless it came with the camera (``data.light_sample_strategy``). Otherwise the
light is at the camera.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.material import BakedSurface, Material
from usd.network.activation import ActivationName, activation

Shading = Literal["albedo", "textureless", "diffuse"]


@dataclass(frozen=True)
class PointLight:
    """A light ``distance`` from the origin; ``offset`` (3) moves it off the line of sight."""

    offset: Tensor
    distance: float
    diffuse: Tensor
    ambient: Tensor

    def toward(
        self, positions: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """Return unit vectors from points to the light, which follows the camera that sees along ``directions``."""
        place = self.distance * torch.nn.functional.normalize(self.offset.to(positions) - directions, dim=-1)
        return torch.nn.functional.normalize(place - positions, dim=-1)


@register("diffuse-with-point-light-material")
class DiffuseWithPointLight(Material["DiffuseWithPointLight.Config"]):
    """Lambertian shading. Needs normals."""

    needs_normal = True
    n_features = 3

    @dataclass(frozen=True)
    class Config:
        ambient_light_color: tuple[float, float, float] = option(
            (0.1, 0.1, 0.1), "color of the ambient light", ge=0, le=1000
        )
        diffuse_light_color: tuple[float, float, float] = option(
            (0.9, 0.9, 0.9), "color of the point light", ge=0, le=1000
        )
        ambient_only_steps: int = option(1000, "first steps, in which only the albedo is shown", ge=0)
        diffuse_prob: float = option(0.75, "probability of shading after ambient_only_steps", ge=0, le=1)
        textureless_prob: float = option(
            0.5, "probability that shading is shown without the albedo", ge=0, le=1
        )
        albedo_activation: ActivationName = option("sigmoid", "activation that brings the albedo into [0, 1]")
        ambient_only_on_test: bool = option(False, "show the albedo, without shading, outside training")
        soft_shading: bool = option(False, "while training, make a random share of the light ambient")
        light_position_perturb: float = option(
            1.0, "standard deviation of the light's position around the line of sight", ge=0, le=10000
        )
        light_distance_range: tuple[float, float] = option(
            (0.8, 1.5), "range of the light's distance from the origin", gt=0, le=10000
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._activate = activation(config.albedo_activation)
        self.shading: Shading = "albedo"
        self.light: PointLight | None = None

    def update(self, step: int, generator: torch.Generator) -> None:
        """Draw this step's shading and light."""
        draw = torch.rand(4, generator=generator, device=generator.device)
        offset = torch.randn(3, generator=generator, device=generator.device)
        shaded, textureless, far, soft = draw.tolist()
        lit: Shading = "textureless" if textureless < self.config.textureless_prob else "diffuse"
        plain = step < self.config.ambient_only_steps or shaded >= self.config.diffuse_prob
        self.shading = "albedo" if plain else lit
        low, high = self.config.light_distance_range
        diffuse, ambient = self._light()
        if self.config.soft_shading:
            diffuse, ambient = torch.full((3,), soft), torch.full((3,), 1 - soft)
        offset = self.config.light_position_perturb * offset
        self.light = PointLight(offset, low + far * (high - low), diffuse, ambient)

    def _light(self) -> tuple[Tensor, Tensor]:
        """Return the configured colors of diffuse and ambient light."""
        return torch.tensor(self.config.diffuse_light_color), torch.tensor(self.config.ambient_light_color)

    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Return colors in [0, 1]."""
        return self.lit_color(features, positions, directions, normals, None)

    def lit_color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
        light_positions: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Return colors in [0, 1], while training under the given lights instead of this step's."""
        albedo = self._activate(features[:, :3])
        shading = self.shading if self.training else self._test_shading
        if shading == "albedo":
            return albedo
        if normals is None:
            raise ValueError("diffuse-with-point-light-material: needs normals")
        light = self._shade(positions, directions, normals, light_positions)
        return (light if shading == "textureless" else albedo * light).clamp(0, 1)

    @property
    def _test_shading(self) -> Shading:
        """Shading outside training."""
        return "albedo" if self.config.ambient_only_on_test else "diffuse"

    def _shade(
        self, positions: Tensor, directions: Tensor, normals: Tensor, light_positions: Tensor | None
    ) -> Float[Tensor, "N 3"]:
        """Return how much light points send back."""
        if self.training and self.light is not None:
            toward = self.light.toward(positions, directions)
            if light_positions is not None:
                toward = torch.nn.functional.normalize(light_positions - positions, dim=-1)
            diffuse, ambient = self.light.diffuse, self.light.ambient
        else:
            toward, (diffuse, ambient) = -directions, self._light()
        cosine = (normals * toward).sum(-1, keepdim=True).clamp_min(0)
        return cosine * diffuse.to(cosine) + ambient.to(cosine)

    @override
    def bake(
        self, features: Float[Tensor, "N F"], positions: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> BakedSurface:
        """Return the albedo."""
        return BakedSurface(self._activate(features[:, :3]).clamp(0, 1))
