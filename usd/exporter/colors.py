"""Colors that vertices and texels get: those that a camera close by sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.geometry import Geometry, Volumetric
from usd.material import Material
from usd.math.volume import alpha_from_density

RAY_STEPS, STRIDE = 16, 4
ABOVE = 2.0  # steps above the surface at which rays start
CLEAR = 1e-3  # a ray through which less light passes is not followed further


@dataclass(frozen=True)
class SurfaceColors:
    """Values that a file stores of surface points, seen straight on.

    In a volume color lies a little below the surface: a ray of ``RAY_STEPS`` steps, each ``spacing`` long, is
    composited there.
    """

    geometry: Geometry
    material: Material
    spacing: float
    chunk: int = 1 << 18

    def __call__(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        """Return what ``Material.bake`` gives for points with outward normals, all in [0, 1], as columns.

        These are display colors and, of materials that have them, metallic and roughness.
        """
        volume = isinstance(self.geometry, Volumetric)
        evaluate = self._composite if volume else self._query
        # A ray holds as many points as a stride has steps: chunks are equally large for both ways.
        rows = max(1, self.chunk // (STRIDE if volume else 1))
        return torch.cat([evaluate(*part) for part in zip(x.split(rows), normal.split(rows))])

    def _query(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        """Return values at the points themselves: a surface has its colors there."""
        field = self.geometry.query(x, frozenset({"features"}))
        assert field.features is not None
        return self._bake(field.features, x, normal)

    def _bake(self, features: Tensor, x: Tensor, normal: Tensor) -> Float[Tensor, "N C"]:
        """Return the material's values as columns."""
        found = self.material.bake(features, x, normal)
        more = [part[:, None] for part in (found.metallic, found.roughness) if part is not None]
        return torch.cat([found.color, *more], 1)

    def _composite(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        """Return values composited along rays against the normals, ``STRIDE`` steps at a time."""
        light, weight = torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1])
        total: Tensor | None = None
        rows = torch.arange(len(x), device=x.device)
        for first in range(0, RAY_STEPS, STRIDE):
            share, value = self._ray_steps(x[rows], normal[rows], first)
            # Transmittance within the stride; the tiny share keeps rays through empty space from dividing by zero.
            passing = torch.cat([torch.ones_like(share[:, :1]), (1 - share).cumprod(1)], 1)
            part = light[rows] * share * passing[:, :-1] + 1e-6
            total = value.new_zeros(len(x), value.shape[2]) if total is None else total
            total.index_add_(0, rows, (part[..., None] * value).sum(1))
            weight.index_add_(0, rows, part.sum(1, keepdim=True))
            light[rows] = light[rows] * passing[:, -1:]
            # Rays that hit something are done: most end after the first stride.
            rows = rows[light[rows, 0] > CLEAR]
            if len(rows) == 0:
                break
        assert total is not None
        return total / weight

    def _ray_steps(
        self, x: Tensor, normal: Tensor, first: int
    ) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S C"]]:
        """Return opacities and values of a few successive steps."""
        # A ray starts outside and ends inside, so that the level of the mesh need not be exact.
        depth = (torch.arange(first, first + STRIDE, device=x.device) - ABOVE) * self.spacing
        points = (x[:, None] - depth[:, None] * normal[:, None]).view(-1, 3)
        points = points.clamp(-self.geometry.radius, self.geometry.radius)
        field = self.geometry.query(points, frozenset({"features"}))
        assert field.features is not None
        # Colors that change with the view are those seen straight on, along the normal.
        value = self._bake(field.features, points, normal.repeat_interleave(STRIDE, 0))
        alpha = alpha_from_density(field.density, x.new_tensor(self.spacing))
        return alpha.view(len(x), STRIDE), value.view(len(x), STRIDE, -1)
