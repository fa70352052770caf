"""Materials: from a geometry's features to colours in [0, 1], as displayed."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from usd.core.module import Module


class Material(Module):
    """Colours of points, seen from a direction."""

    n_features: int
    needs_normal: bool = False

    @abstractmethod
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Colours in [0, 1]. ``directions`` point from the camera to the point, unit length."""
