"""Volume rendering of a density field: march through occupied cells, forget what cannot be seen, composite.

Letters: R rays of all cameras, S samples of all rays in one packed axis (see ``usd.kernels.ray_march``).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from usd.background import Background
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Render, Samples
from usd.geometry import Geometry, Volumetric
from usd.kernels.ray_march import RaySamples, composite_density, join_samples
from usd.material import Material
from usd.math import rng
from usd.math.camera import Cameras, Window
from usd.renderer import Renderer, composited_values, pictures, view_rays
from usd.renderer.occupancy_marcher import MarchOptions, OccupancyMarcher

LEAST_TRANSMITTANCE = 1e-4
PROBE_STRIDE, PROBE_SHARE = 16, 0.6  # every 16th ray; below this visible share it pays to leave the rest out


@register("nerf-volume-renderer")
class NerfVolumeRenderer(Renderer["NerfVolumeRenderer.Config"]):
    """Emission and absorption along rays, with an occupancy grid that learns where the object is."""

    @dataclass(frozen=True)
    class Config(MarchOptions):
        """Options of the march alone."""

    outputs = Renderer.outputs | {"samples"}

    def __init__(
        self, config: Config, geometry: Geometry, material: Material, background: Background
    ) -> None:
        super().__init__(config, geometry, material, background)
        if not isinstance(geometry, Volumetric):
            raise UserError(
                f"nerf-volume-renderer: needs a volumetric geometry, got {type(geometry).__name__}"
            )
        self.marcher = OccupancyMarcher(config, self)

    def update(self, step: int, generator: torch.Generator) -> None:
        """Bring the occupancy grid up to date."""
        self.marcher.update(step, lambda x: self._density(x) * self.marcher.step_size, generator)

    def _density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return density without gradient."""
        geometry = self.scene.geometry
        assert isinstance(geometry, Volumetric)
        return self.marcher.evaluate(geometry.density, x)

    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """See ``Renderer.render``. Samples' ``ray_index`` counts rays of all cameras, row by row."""
        rays = view_rays(cameras, window)
        background = self.scene.background.color(rays.directions, generator)
        shift = generator if self.training and self.config.randomized else None
        samples = self._visible_samples(rays.origins, rays.directions, shift)
        direction = rays.directions.index_select(0, samples.ray_index)
        x = rays.origins.index_select(0, samples.ray_index).addcmul_(direction, samples.t[:, None])
        values, weights, normal = self._composite(x, direction, samples, "normal" in needs)
        render = pictures(values, background, needs, rays.shape)
        if "samples" not in needs:
            return render
        return replace(render, samples=Samples(samples.ray_index, samples.t, weights, direction, normal))

    @torch.no_grad()
    def _visible_samples(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], generator: torch.Generator | None
    ) -> RaySamples:
        """Return samples in occupied cells that are not hidden behind others, found a chunk of rays at once."""
        rays = self.marcher.rays_at_once
        # One draw for all rays, so that the size of chunks changes no picture.
        shift = None if generator is None else rng.uniform((len(o),), generator, dtype=o.dtype).to(o.device)
        shifts = [None] * len(o.split(rays)) if shift is None else shift.split(rays)
        pieces = [self._march(*piece) for piece in zip(o.split(rays), d.split(rays), shifts)]
        return pieces[0] if len(pieces) == 1 else join_samples(pieces, rays)

    def _march(self, o: Tensor, d: Tensor, shift: Tensor | None) -> RaySamples:
        """Return the visible samples of one chunk of rays.

        Looking for hidden samples costs a density each: a few rays tell whether that pays.
        """
        samples = self.marcher.march(o, d, shift)
        if not self.config.prune_alpha_threshold or len(samples) == 0:
            return samples
        if len(samples) <= self.config.eval_chunk_size:
            some = slice(None, None, PROBE_STRIDE)
            seen = self._is_visible(o[some], d[some], self.marcher.march(o[some], d[some], None))
            if float(seen.float().mean()) > PROBE_SHARE:
                return samples
        return samples.select(self._is_visible(o, d, samples))

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
        """Return sums along rays (color, 1, distance, normal; all times weights), weights, and the samples' normals."""
        shade = _Shading(self.scene.geometry, self.scene.material, wants_normal)
        chunk = len(samples) + 1 if torch.is_grad_enabled() else self.config.eval_chunk_size
        parts = [shade(*piece) for piece in zip(x.split(chunk), direction.split(chunk))]
        density, color, normal = (_cat(each) for each in zip(*parts))
        assert density is not None and color is not None
        features = color if normal is None else torch.cat([color, normal], 1)
        sums = composite_density(density, features, samples)
        return composited_values(sums, color.shape[1]), sums.weights, normal


@dataclass(frozen=True)
class _Shading:
    """Density, color and, where wanted, normal of points seen along directions."""

    geometry: Geometry
    material: Material
    wants_normal: bool

    def __call__(
        self, x: Float[Tensor, "S 3"], direction: Float[Tensor, "S 3"]
    ) -> tuple[Float[Tensor, "S"], Float[Tensor, "S C"], Float[Tensor, "S 3"] | None]:
        needs = {"features"} | ({"normal"} if self.wants_normal or self.material.needs_normal else set())
        field = self.geometry.query(x, frozenset(needs))
        assert field.features is not None
        color = self.material.color(field.features, x, direction, field.normal)
        return field.density, color, field.normal if self.wants_normal else None


def _cat(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Return the parts in one tensor, None where there are none."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
