"""Volume rendering of a density field: march through occupied cells, forget what cannot be seen, composite.

Letters: R rays of all cameras, S samples of all rays in one packed axis (see ``usd.kernels.ray_march``).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from usd.background import Background
from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Render, Samples
from usd.geometry import Geometry, Volumetric
from usd.kernels import occupancy as grids
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples, composite_density, march, packed_info
from usd.material import Material
from usd.math import rng
from usd.math.camera import Cameras
from usd.renderer import Renderer, Window, pictures

LEAST_TRANSMITTANCE = 1e-4
PROBE_STRIDE, PROBE_SHARE = 16, 0.6  # every 16th ray; below this visible share it pays to leave the rest out
WARM_UP_STEPS = 256


@register("nerf-volume-renderer")
class NerfVolumeRenderer(Renderer["NerfVolumeRenderer.Config"]):
    """Emission and absorption along rays, with an occupancy grid that learns where the object is."""

    @dataclass(frozen=True)
    class Config:
        radius: float = option(1.0, "the object lies in the cube [-radius, radius]^3", gt=0, le=10000)
        num_samples_per_ray: int = option(512, "steps along the diagonal of the cube", ge=1, le=65536)
        randomized: bool = option(True, "while training, every ray starts at a random part of a step")
        near_plane: float = option(0.0, "nothing nearer is rendered", ge=0, le=1e12)
        far_plane: float = option(1e10, "nothing further is rendered", gt=0, le=1e12)
        eval_chunk_size: int = option(
            1 << 20, "steps or samples worked on at once where no gradient is kept", ge=1
        )
        estimator: str = option("occgrid", "how empty space is found", choices=("occgrid",))
        grid_prune: bool = option(True, "skip cells where the density has been negligible")
        grid_resolution: int = option(32, "cells a side of the occupancy grid", ge=1, le=256)
        grid_update_steps: int = option(16, "steps between updates of the occupancy grid", ge=1)
        prune_alpha_threshold: bool = option(True, "keep no gradient of samples that are hidden by others")

    outputs = Renderer.outputs | {"samples"}

    def __init__(
        self, config: Config, geometry: Geometry, material: Material, background: Background
    ) -> None:
        super().__init__(config, geometry, material, background)
        if not isinstance(geometry, Volumetric):
            raise UserError(
                f"nerf-volume-renderer: needs a volumetric geometry, got {type(geometry).__name__}"
            )
        grid = grids.occupied_everywhere(config.grid_resolution, config.radius)
        self.register_buffer("grid_value", grid.value)
        self.register_buffer("grid_binary", grid.binary)
        self.grid_value: Tensor
        self.grid_binary: Tensor

    @property
    def step_size(self) -> float:
        """Length of a step along a ray."""
        return grids.step_size(self.config.radius, self.config.num_samples_per_ray)

    @property
    def occupancy(self) -> Occupancy:
        """What is known about empty space."""
        return Occupancy(self.grid_value, self.grid_binary, self.config.radius)

    def update(self, step: int, generator: torch.Generator) -> None:
        """Bring the occupancy grid up to date, every ``grid_update_steps``."""
        if self.config.grid_prune and step % self.config.grid_update_steps == 0:
            grid = grids.update(
                self.occupancy, self._step_opacity, generator, every_cell=step < WARM_UP_STEPS
            )
            self.grid_value.copy_(grid.value)
            self.grid_binary.copy_(grid.binary)

    def _step_opacity(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        return self._density(x) * self.step_size

    def _density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Density without gradient, in chunks."""
        geometry = self.scene.geometry
        assert isinstance(geometry, Volumetric)
        with torch.no_grad():
            return torch.cat(
                [geometry.density(part) for part in x.split(self.config.eval_chunk_size)] or [x[:, 0]]
            )

    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """See ``Renderer.render``. Samples' ``ray_index`` counts rays of all cameras, row by row."""
        part = window or Window(0, 0, cameras.height, cameras.width)
        o, d = (
            rays.reshape(-1, 3) for rays in cameras.crop_rays(part.top, part.left, part.height, part.width)
        )
        background = self.scene.background.color(d, generator)
        samples = self._visible_samples(o, d, generator if self.training and self.config.randomized else None)
        direction = d.index_select(0, samples.ray_index)
        x = o.index_select(0, samples.ray_index).addcmul_(direction, samples.t[:, None])
        values, weights, normal = self._composite(x, direction, samples, "normal" in needs)
        shape = (len(cameras), part.height, part.width)
        render = pictures(values, background, needs, shape)
        if "samples" not in needs:
            return render
        return replace(render, samples=Samples(samples.ray_index, samples.t, weights, direction, normal))

    @torch.no_grad()
    def _visible_samples(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], generator: torch.Generator | None
    ) -> RaySamples:
        """Samples in occupied cells that are not hidden behind others; as many rays at once as one chunk allows."""
        rays = max(1, self.config.eval_chunk_size // self.config.num_samples_per_ray)
        shift = None if generator is None else rng.uniform((len(o),), generator, dtype=o.dtype).to(o.device)
        shifts = [None] * len(o.split(rays)) if shift is None else shift.split(rays)
        pieces = [self._march(*piece) for piece in zip(o.split(rays), d.split(rays), shifts)]
        return pieces[0] if len(pieces) == 1 else _joined(pieces, rays)

    def _march(self, o: Tensor, d: Tensor, shift: Tensor | None) -> RaySamples:
        """One chunk of rays. Looking for hidden samples costs a density each: a few rays tell whether that pays."""
        samples = self._in_occupied_cells(o, d, shift)
        if not self.config.prune_alpha_threshold or len(samples) == 0:
            return samples
        if len(samples) <= self.config.eval_chunk_size:
            some = slice(None, None, PROBE_STRIDE)
            seen = self._is_visible(o[some], d[some], self._in_occupied_cells(o[some], d[some], None))
            if float(seen.float().mean()) > PROBE_SHARE:
                return samples
        return samples.select(self._is_visible(o, d, samples))

    def _in_occupied_cells(self, o: Tensor, d: Tensor, shift: Tensor | None) -> RaySamples:
        near, far = self.config.near_plane, self.config.far_plane
        return march(o, d, self.occupancy, self.step_size, shift, near, far)

    def _is_visible(self, o: Tensor, d: Tensor, samples: RaySamples) -> Bool[Tensor, "S"]:
        density = self._density(samples.positions(o, d))
        nothing = density.new_zeros(len(density), 0)
        return composite_density(density, nothing, samples, LEAST_TRANSMITTANCE).weights > 0

    def _composite(
        self,
        x: Float[Tensor, "S 3"],
        direction: Float[Tensor, "S 3"],
        samples: RaySamples,
        wants_normal: bool,
    ) -> tuple[Float[Tensor, "R C"], Float[Tensor, "S"], Float[Tensor, "S 3"] | None]:
        """Sums along rays of weight times (color, 1, distance, normal), the weights, and the samples' normals."""
        shade = _Shading(self.scene.geometry, self.scene.material, wants_normal)
        chunk = len(samples) + 1 if torch.is_grad_enabled() else self.config.eval_chunk_size
        parts = [shade(*piece) for piece in zip(x.split(chunk), direction.split(chunk))]
        density, color, normal = (_cat(each) for each in zip(*parts))
        assert density is not None and color is not None
        features = color if normal is None else torch.cat([color, normal], 1)
        sums = composite_density(density, features, samples)
        values = torch.cat(
            [sums.color[:, :3], sums.opacity[:, None], sums.depth[:, None], sums.color[:, 3:]], 1
        )
        return values, sums.weights, normal


@dataclass(frozen=True)
class _Shading:
    """Density, color and, where wanted, normal of points seen along directions."""

    geometry: Geometry
    material: Material
    wants_normal: bool

    def __call__(
        self, x: Float[Tensor, "S 3"], direction: Float[Tensor, "S 3"]
    ) -> tuple[Float[Tensor, "S"], Float[Tensor, "S 3"], Float[Tensor, "S 3"] | None]:
        needs = {"features"} | ({"normal"} if self.wants_normal or self.material.needs_normal else set())
        field = self.geometry.query(x, frozenset(needs))
        assert field.features is not None
        color = self.material.color(field.features, x, direction, field.normal)
        return field.density, color, field.normal if self.wants_normal else None


def _cat(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def _joined(pieces: list[RaySamples], rays: int) -> RaySamples:
    """Samples of successive chunks of ``rays`` rays (the last may be shorter) as those of one set of rays."""
    ray_index = torch.cat([piece.ray_index + rays * i for i, piece in enumerate(pieces)])
    start, end = (torch.cat(each) for each in zip(*((piece.t_start, piece.t_end) for piece in pieces)))
    return RaySamples(ray_index, start, end, packed_info(ray_index, sum(piece.n_rays for piece in pieces)))
