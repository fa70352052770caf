"""Samples of rays through occupied space: what every volume renderer does before it shades."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.unread import ReadWith
from usd.kernels import occupancy as grids
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples, march

WARM_UP_STEPS = 256
"""Until this step every cell of the grid is visited at each update."""

DISPLACEMENT = 0.01
"""How far, in world units, ``normal_perturb`` is taken from a sample."""

Values = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]


@dataclass(frozen=True)
class MarchOptions:
    """Options of renderers that take samples along rays."""

    read_with: ClassVar[ReadWith] = {
        **dict.fromkeys(("grid_prune", "grid_resolution", "grid_update_steps"), ("estimator", ("occgrid",))),
        "num_samples_per_ray_importance": ("estimator", ("importance",)),
    }

    radius: float = option(
        1.0, "half the side of the cube that the object lies in: [-radius, radius]^3", gt=0, le=10000
    )
    num_samples_per_ray: int = option(
        512, "steps along the diagonal of the cube; without an occupancy grid: samples a ray", ge=1, le=65536
    )
    randomized: bool = option(True, "while training, every ray starts at a random part of a step")
    near_plane: float = option(
        0.0, "distance from the camera nearer than which nothing is rendered", ge=0, le=1e12
    )
    far_plane: float = option(
        1e10, "distance from the camera beyond which nothing is rendered", gt=0, le=1e12
    )
    eval_chunk_size: int = option(
        1 << 20, "steps or samples worked on at once where no gradient is kept", ge=1
    )
    train_chunk_size: int = option(
        1 << 24,
        "steps along rays that are searched for samples at once while training: fewer save memory",
        ge=1,
    )
    estimator: str = option(
        "occgrid",
        "choice of samples: in cells of an occupancy grid, or (importance) everywhere and once more where "
        "that pass was opaque",
        choices=("occgrid", "importance"),
    )
    num_samples_per_ray_importance: int = option(
        64, "samples of the second pass, with estimator importance", ge=1, le=65536
    )
    grid_prune: bool = option(True, "skip cells of the occupancy grid where nothing has been for long")
    grid_resolution: int = option(32, "cells a side of the occupancy grid", ge=1, le=256)
    grid_update_steps: int = option(16, "steps between updates of the occupancy grid", ge=1)
    prune_alpha_threshold: bool = option(True, "keep no gradient of samples that are hidden by others")


class OccupancyMarcher:
    """A march of rays through an occupancy grid that learns where the object is.

    It is part of the renderer ``owner``, whose buffers ``grid_value`` and ``grid_binary`` hold the grid: the names that
    checkpoints know.
    """

    def __init__(self, options: MarchOptions, owner: torch.nn.Module) -> None:
        self.options, self._owner = options, owner
        grid = grids.occupied_everywhere(options.grid_resolution, options.radius)
        owner.register_buffer("grid_value", grid.value)
        owner.register_buffer("grid_binary", grid.binary)

    @property
    def step_size(self) -> float:
        """Length of a step along a ray, in world units."""
        return grids.step_size(self.options.radius, self.options.num_samples_per_ray)

    @property
    def occupancy(self) -> Occupancy:
        """The cells known to be empty, and those that may not be."""
        value, binary = (self._owner.get_buffer(name) for name in ("grid_value", "grid_binary"))
        return Occupancy(value, binary, self.options.radius)

    def rays_at_once(self, training: bool) -> int:
        """Return the number of rays whose steps fill one chunk.

        Every chunk makes a GPU wait for the number of its samples, so that there are few of them while training.
        """
        size = self.options.train_chunk_size if training else self.options.eval_chunk_size
        return max(1, size // self.options.num_samples_per_ray)

    def update(
        self, step: int, step_opacity: Values, generator: torch.Generator, decay: float = 0.95
    ) -> None:
        """Bring the grid up to date every ``grid_update_steps``; ``decay`` is how much a cell remembers."""
        if self.options.grid_prune and step % self.options.grid_update_steps == 0:
            here = self.occupancy
            grid = grids.update(here, step_opacity, generator, step < WARM_UP_STEPS, decay)
            here.value.copy_(grid.value)
            here.binary.copy_(grid.binary)

    def march(
        self,
        o: Float[Tensor, "R 3"],
        d: Float[Tensor, "R 3"],
        shift: torch.Generator | Float[Tensor, "R"] | None,
    ) -> RaySamples:
        """Return samples in occupied cells; see ``usd.kernels.ray_march.march``."""
        near, far = self.options.near_plane, self.options.far_plane
        return march(o, d, self.occupancy, self.step_size, shift, near, far)


@torch.no_grad()
def evaluate_in_chunks(values: Values, x: Float[Tensor, "N 3"], chunk: int) -> Float[Tensor, "N"]:
    """Return a field's values without gradient, ``chunk`` points at once."""
    return torch.cat([values(part) for part in x.split(chunk)] or [x[:, 0]])


def displace(x: Float[Tensor, "S 3"], generator: torch.Generator | None) -> Float[Tensor, "S 3"]:
    """Return points a random little away: by a normal distribution of standard deviation ``DISPLACEMENT``.

    Without a generator always by the same.
    """
    source = torch.Generator().manual_seed(0) if generator is None else generator
    shift = torch.randn(x.shape, generator=source, device=source.device, dtype=x.dtype).to(x.device)
    return x + DISPLACEMENT * shift
