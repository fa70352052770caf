"""Materials: from a geometry's features to colors in [0, 1], as displayed."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.module import C, Module


@dataclass(frozen=True)
class BakedSurface:
    """A surface without its light, as model files store it: values as displayed, in [0, 1].

    ``metallic`` and ``roughness`` are None where a material has none: a file then says 0 and 1.
    """

    color: Float[Tensor, "N 3"]
    metallic: Float[Tensor, "N"] | None = None
    roughness: Float[Tensor, "N"] | None = None


class Material(Module[C]):
    """Colors of points, seen from a direction."""

    n_features: int
    n_channels: int = 3
    needs_normal: bool = False

    @abstractmethod
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N C"]:
        """Return colors in [0, 1], or ``n_channels`` latents. ``directions`` are unit vectors from camera to point."""

    def lit_color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
        light_positions: Float[Tensor, "N 3"] | None,  # noqa: ARG002 - for overrides
    ) -> Float[Tensor, "N _"]:
        """Return ``color`` under the lamps that were drawn with the cameras, where a material has a lamp of its own."""
        return self.color(features, positions, directions, normals)

    def displayed(self, colors: Float[Tensor, "N C"]) -> Float[Tensor, "N 3"]:
        """Return display colors of what ``color`` gives: here its first three channels."""
        return colors[:, :3].clamp(0, 1)

    def bake(
        self, features: Float[Tensor, "N F"], positions: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> BakedSurface:
        """Return what a model file stores of points with outward normals: here the colors seen straight on."""
        return BakedSurface(self.displayed(self.color(features, positions, -normals, normals)))
