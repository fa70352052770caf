"""A signed distance on a lattice of 65^3 points, twice differentiable between them: what a field starts as."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.kernels.hash_grid import HashGridSpec, hash_grid
from usd.math.isosurface import grid_points

LATTICE = HashGridSpec(1, 1, 19, 64, 1.0)  # one dense level of 64^3 cells


def lattice_points(radius: float, like: Tensor) -> Float[Tensor, "N 3"]:
    """Return the lattice of the cube [-radius, radius]^3 in the order of the table's rows, x fastest."""
    n = LATTICE.base_resolution + 1
    points = grid_points(0, n, n, -radius, radius, like)
    return points.view(n, n, n, 3).transpose(0, 2).reshape(-1, 3)


def interpolate_lattice(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "T 1"], radius: float
) -> Float[Tensor, "N"]:
    """Return the lattice's values at points, those of its border outside."""
    return hash_grid((x / radius + 1) * 0.5, table, LATTICE)[:, 0]


def enclosed_distance(distance: Callable[[Tensor], Tensor], x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
    """Return a distance at lattice points. Raises ``UserError`` where nothing is inside: a sheet encloses nothing."""
    values = distance(x)
    if not bool((values < 0).any()):
        raise UserError(
            "the shape to start from encloses nothing: no point is inside; expected a closed surface, not a sheet or"
            " one thinner than a 64th of the object's cube"
        )
    return values
