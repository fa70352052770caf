"""Occupancy grid: which cells of a cube may hold anything, remembered between steps so that rays skip the rest.

As in Instant-NGP (arXiv 2201.05989, appendix C) and nerfacc: each cell keeps a decaying maximum of the opacity that one
marching step had there, and counts as occupied above a threshold. All state is in two tensors: a module that
owns a grid registers both as buffers, and a resumed run continues exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Occupancy:
    """Cells over [-radius, radius]^3, indexed x, y, z: ``value`` (step opacity, a decaying maximum) and ``binary``."""

    value: Float[Tensor, "G G G"]
    binary: Bool[Tensor, "G G G"]
    radius: float

    @property
    def resolution(self) -> int:
        """G: cells per axis."""
        return self.binary.shape[0]

    @property
    def fraction(self) -> float:
        """Share of occupied cells, for logs."""
        return float(self.binary.float().mean())


def occupied_everywhere(resolution: int, radius: float, device: torch.device | str = "cpu") -> Occupancy:
    """Return a grid that knows nothing yet: every cell occupied."""
    shape = (resolution,) * 3
    ones = torch.ones(shape, dtype=torch.bool, device=device)
    return Occupancy(torch.zeros(shape, device=device), ones, radius)


def cell_index(occupancy: Occupancy, x: Float[Tensor, "N 3"]) -> Int[Tensor, "N 3"]:
    """Return the cell of each point; points outside get the nearest cell."""
    # Multiplied in the order of the kernels, so that both find the same cell at a border.
    scale = 0.5 * occupancy.resolution / occupancy.radius
    return ((x + occupancy.radius) * scale).floor().long().clamp(0, occupancy.resolution - 1)


def is_occupied(occupancy: Occupancy, x: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
    """Return whether each point lies in an occupied cell."""
    i, j, k = cell_index(occupancy, x).unbind(-1)
    return occupancy.binary[i, j, k]


def update(
    occupancy: Occupancy,
    step_opacity: Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]],
    generator: torch.Generator | None,
    every_cell: bool = False,
    decay: float = 0.95,
    threshold: float = 0.01,
) -> Occupancy:
    """Return the grid after one look at a random point of some cells.

    ``step_opacity`` maps world points to density times the marching step (about the opacity of one step). Visited are
    all cells (``every_cell``, for the first few hundred steps), else a quarter of them drawn from all and as many
    drawn from the occupied. A cell is occupied above min(``threshold``, mean over the grid).
    """
    # A random point in a cell, not its middle: thin things are found sooner or later.
    index = _cells_to_visit(occupancy, generator, every_cell)
    with torch.no_grad():
        seen = step_opacity(_points_in(occupancy, index, generator)).to(occupancy.value.dtype)
    value = occupancy.value.flatten()
    # What was seen decays, so that a cell can become empty again; what is seen now counts at once.
    value = value.index_copy(0, index, value[index] * decay).scatter_reduce(0, index, seen, "amax")
    # While all is thin the mean decides, else nothing would be occupied at the start.
    binary = value > value.mean().clamp(max=threshold)
    return replace(occupancy, value=value.view_as(occupancy.value), binary=binary.view_as(occupancy.binary))


def _cells_to_visit(
    occupancy: Occupancy, generator: torch.Generator | None, every_cell: bool
) -> Int[Tensor, "N"]:
    device, n_cells = occupancy.binary.device, occupancy.binary.numel()
    if every_cell:
        return torch.arange(n_cells, device=device)
    # Half of the visits anywhere, to find what is new; half where something was, to keep it exact.
    n = max(n_cells // 4, 1)
    uniform = torch.randint(n_cells, (n,), generator=generator, device=device)
    occupied = occupancy.binary.flatten().nonzero().squeeze(1)
    # Drawn with replacement: cheaper than without, and a second look at a cell does no harm.
    if len(occupied) > n:
        occupied = occupied[torch.randint(len(occupied), (n,), generator=generator, device=device)]
    return torch.cat([uniform, occupied])


def _points_in(
    occupancy: Occupancy, index: Int[Tensor, "N"], generator: torch.Generator | None
) -> Float[Tensor, "N 3"]:
    """Return one uniformly random world point in each cell."""
    g = occupancy.resolution
    # Cells are numbered with x slowest, as the grid's tensor is.
    corner = torch.stack([index // (g * g), index // g % g, index % g], -1)
    jitter = torch.rand(len(index), 3, generator=generator, device=index.device)
    return ((corner + jitter) * (2 / g) - 1) * occupancy.radius


def step_size(radius: float, n_steps: int) -> float:
    """Return the marching step that crosses the cube's longest diagonal in ``n_steps``."""
    return 2 * math.sqrt(3) * radius / n_steps
