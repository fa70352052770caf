"""Points in space with colors, as Gaussians or a mesh may start from."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PointCloud:
    """N points and their colors in [0, 1]. ``normals`` are unit vectors; None where points are on no known surface."""

    points: Float[Tensor, "N 3"]
    colors: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"] | None = None

    def __len__(self) -> int:
        return self.points.shape[0]

    def select(self, index: Int[Tensor, "M"]) -> "PointCloud":
        """Return some of the points."""
        normals = None if self.normals is None else self.normals[index]
        return PointCloud(self.points[index], self.colors[index], normals)
