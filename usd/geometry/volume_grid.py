"""A density field on a plain grid of numbers, interpolated between its points."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Field
from usd.geometry.distance_lattice import enclosed_distance
from usd.geometry.implicit_volume import density_bias
from usd.geometry.volume_start import Distance, ShapedVolume, VolumeConfig, raw_density
from usd.math import differences
from usd.network.activation import activation


@register("volume-grid")
class VolumeGrid(ShapedVolume["VolumeGrid.Config"]):
    """density = activation(grid(x) + bias(x)), features beside it; one weight, ``grid``: 1, 1 + features, z, y, x."""

    @dataclass(frozen=True)
    class Config(VolumeConfig):
        grid_size: tuple[int, int, int] = option(
            (100, 100, 100), "grid points along x, y and z", ge=2, le=512
        )
        density_bias: float | Literal["blob", "blob_magic3d", "blob_dreamfusion"] = option(
            "blob",
            "number added before the activation, or the blob that the object starts as; blob is blob_magic3d",
        )
        density_blob_scale: float = option(5.0, "height of the density's blob")
        normal_type: Literal["finite_difference"] | None = option(
            "finite_difference", "way in which normals are computed; null: no component can ask for them"
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_features = config.n_feature_dims
        self.grid = torch.nn.Parameter(torch.zeros(1, 1 + config.n_feature_dims, *reversed(config.grid_size)))
        self._activate = activation(config.density_activation)

    def feature_parameters(self) -> list[torch.nn.Parameter]:
        """Return the grid: features stand in it beside the density, which colors do not reach."""
        return [self.grid]

    def start_from(self, distance: Distance) -> None:
        """Make the density that of a signed distance, by the numbers at grid points."""
        nx, ny, nz = self.config.grid_size
        axes = [torch.linspace(-self.radius, self.radius, n).to(self.grid) for n in (nz, ny, nx)]
        x = torch.cartesian_prod(*axes).flip(1)
        raw = raw_density(enclosed_distance(distance, x), self.radius, self.config.density_activation)
        self.grid[0, 0] = (raw - self._bias(x)).view(nz, ny, nx)

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the optical depth per unit length."""
        return self._density(x, self._sample(x, 1)[:, 0])

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        """Return density, and what ``needs`` names of ``features`` and ``normal``."""
        numbers = self._sample(x, 1 + self.n_features if "features" in needs else 1)
        normal = self._normal(x) if "normal" in needs else None
        return Field(self._density(x, numbers[:, 0]), numbers[:, 1:] if "features" in needs else None, normal)

    def _sample(self, x: Float[Tensor, "N 3"], channels: int) -> Float[Tensor, "N C"]:
        """Return the first numbers of the grid, interpolated; outside the cube those of its border."""
        at = (x / self.radius).view(1, 1, 1, -1, 3)
        found = torch.nn.functional.grid_sample(
            self.grid[:, :channels], at, padding_mode="border", align_corners=True
        )
        return found.view(channels, -1).T

    def _density(self, x: Float[Tensor, "N 3"], raw: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """Return densities, of points and the grid's numbers there."""
        return self._activate(raw + self._bias(x))

    def _bias(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return what is added before the activation."""
        config = self.config
        kind = "blob_magic3d" if config.density_bias == "blob" else config.density_bias
        return density_bias(x, kind, config.density_blob_scale, config.density_blob_std)

    def _normal(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return unit vectors that point where the density falls fastest."""
        if self.config.normal_type is None:
            raise UserError(
                "system.geometry.normal_type: is null, but something needs the normals of this volume-grid; "
                "expected finite_difference"
            )
        eps = x.new_tensor(self.config.finite_difference_normal_eps)
        values = differences.corner_values(self.density, x, eps)
        return -torch.nn.functional.normalize(differences.gradient(values, eps), dim=-1)
