"""Volume rendering of a density field: march through occupied cells, forget what cannot be seen, composite.

Letters: R rays, N the most steps along a ray, S packed samples (all rays' samples one after the other).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.background import Background
from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Render, Samples
from usd.geometry import Geometry, Volumetric
from usd.material import Material
from usd.math.camera import Cameras
from usd.renderer import Renderer, Window

MIN_TRANSMITTANCE = 1e-4
OCCUPANCY_DECAY = 0.95
OCCUPANCY_ALPHA = 0.01


@dataclass(frozen=True)
class Packed:
    """Samples in the order of their rays: ``slot`` is ray * N + step, ``t`` the distance of the middle of the step."""

    slot: Int[Tensor, "S"]
    t: Float[Tensor, "S"]

    def __getitem__(self, keep: Bool[Tensor, "S"]) -> "Packed":
        return Packed(self.slot[keep], self.t[keep])


@register("nerf-volume-renderer")
class NerfVolumeRenderer(Renderer):
    """Emission and absorption along rays, with an occupancy grid that learns where the object is."""

    @dataclass(frozen=True)
    class Config:
        radius: float = option(1.0, "the object lies in the cube [-radius, radius]^3", gt=0)
        num_samples_per_ray: int = option(512, "steps along the diagonal of the cube", ge=1)
        randomized: bool = option(True, "while training, every ray starts at a random part of a step")
        near_plane: float = option(0.0, "nothing nearer is rendered", ge=0)
        far_plane: float = option(1e10, "nothing further is rendered", gt=0)
        eval_chunk_size: int = option(1 << 20, "steps or samples worked on at once where no gradient is kept", ge=1)
        estimator: str = option("occgrid", "how empty space is found", choices=("occgrid",))
        grid_prune: bool = option(True, "skip cells where the density has been negligible")
        grid_resolution: int = option(32, "cells a side of the occupancy grid", ge=1, le=256)
        grid_update_steps: int = option(16, "steps between updates of the occupancy grid", ge=1)
        prune_alpha_threshold: bool = option(True, "keep no gradient of samples that are hidden by others")

    config: Config

    def __init__(self, config: Config, geometry: Geometry, material: Material, background: Background) -> None:
        super().__init__(config, geometry, material, background)
        if not isinstance(geometry, Volumetric):
            raise UserError(f"nerf-volume-renderer: needs a volumetric geometry, got {type(geometry).__name__}")
        side = (config.grid_resolution,) * 3
        self.register_buffer("alpha", torch.zeros(side))
        self.register_buffer("occupied", torch.ones(side, dtype=torch.bool))
        self.alpha: Tensor
        self.occupied: Tensor

    @property
    def step_size(self) -> float:
        """Length of a step along a ray: the cube's diagonal over the number of samples."""
        return 2 * 3**0.5 * self.config.radius / self.config.num_samples_per_ray

    def update(self, step: int, generator: torch.Generator) -> None:
        """Bring the occupancy grid up to date, every ``grid_update_steps``."""
        if self.config.grid_prune and step % self.config.grid_update_steps == 0:
            self._update_occupancy(generator)

    @torch.no_grad()
    def _update_occupancy(self, generator: torch.Generator) -> None:
        """A cell's alpha is the largest met lately, at a random point of it each time; old ones fade."""
        n = self.config.grid_resolution
        cell = torch.stack(torch.meshgrid(*[torch.arange(n, device=self.alpha.device)] * 3, indexing="ij"), -1)
        inside = torch.rand(n**3, 3, generator=generator, device=generator.device).to(self.alpha)
        x = ((cell.view(-1, 3) + inside) * (2 / n) - 1) * self.config.radius
        new = self._in_chunks(self._density, x).view(n, n, n) * self.step_size
        self.alpha.copy_(torch.maximum(self.alpha * OCCUPANCY_DECAY, new))
        self.occupied.copy_(self.alpha > self.alpha.mean().clamp(max=OCCUPANCY_ALPHA))

    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """See ``Renderer.render``. Samples' ``ray_index`` counts rays of all cameras, row by row."""
        part = window or Window(0, 0, cameras.height, cameras.width)
        origins, directions = cameras.crop_rays(part.top, part.left, part.height, part.width)
        o, d = origins.reshape(-1, 3), directions.reshape(-1, 3)
        background = self.scene.background.color(d, generator)
        samples = self._march(o, d, self._jitter(len(o), o, generator))
        return self._composite(o, d, samples, background, needs, (len(cameras), part.height, part.width))

    def _jitter(self, n: int, like: Tensor, generator: torch.Generator | None) -> Float[Tensor, "R"]:
        """The part of a step at which each ray starts."""
        if generator is None or not (self.training and self.config.randomized):
            return like.new_zeros(n)
        return torch.rand(n, generator=generator, device=generator.device).to(like)

    @torch.no_grad()
    def _march(self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], jitter: Float[Tensor, "R"]) -> Packed:
        """Samples in occupied cells that are not hidden behind others, rays in chunks."""
        n, n_rays = self.config.num_samples_per_ray, max(1, self.config.eval_chunk_size // self.config.num_samples_per_ray)
        parts = []
        for first in range(0, len(o), n_rays):
            chunk = slice(first, first + n_rays)
            found = self._march_chunk(o[chunk], d[chunk], jitter[chunk])
            parts.append(Packed(found.slot + first * n, found.t))
        return Packed(torch.cat([part.slot for part in parts]), torch.cat([part.t for part in parts]))

    def _march_chunk(self, o: Tensor, d: Tensor, jitter: Tensor) -> Packed:
        n, config = self.config.num_samples_per_ray, self.config
        near, far = cube_crossing(o, d, config.radius)
        near, far = near.clamp_min(config.near_plane), far.clamp_max(config.far_plane)
        t = near[:, None] + (torch.arange(n, device=o.device) + 0.5 + (jitter[:, None] - 0.5)) * self.step_size
        slot = (t < far[:, None]).flatten().nonzero().squeeze(1)
        samples = Packed(slot, t.flatten()[slot])
        if config.grid_prune:
            samples = samples[self._is_occupied(o[slot // n] + samples.t[:, None] * d[slot // n])]
        if not config.prune_alpha_threshold:
            return samples
        ray = samples.slot // n
        density = self._in_chunks(self._density, o[ray] + samples.t[:, None] * d[ray])
        return samples[transmittance(density * self.step_size, samples.slot, len(o), n) > MIN_TRANSMITTANCE]

    def _is_occupied(self, x: Float[Tensor, "S 3"]) -> Bool[Tensor, "S"]:
        n = self.config.grid_resolution
        cell = ((x / self.config.radius + 1) * (0.5 * n)).long().clamp(0, n - 1)
        return self.occupied.flatten()[cell @ torch.tensor([n * n, n, 1], device=x.device)]

    def _density(self, x: Float[Tensor, "S 3"]) -> Float[Tensor, "S"]:
        geometry = self.scene.geometry
        assert isinstance(geometry, Volumetric)
        return geometry.density(x)

    def _in_chunks(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        parts = zip(*(each.split(self.config.eval_chunk_size) for each in inputs))
        return torch.cat([function(*part) for part in parts]) if len(inputs[0]) else function(*inputs)

    def _composite(
        self,
        o: Tensor,
        d: Tensor,
        packed: Packed,
        background: Tensor,
        needs: frozenset[str],
        shape: tuple[int, int, int],
    ) -> Render:
        n = self.config.num_samples_per_ray
        ray = packed.slot // n
        direction = d[ray]
        density, color, normal = self._shade(o[ray] + packed.t[:, None] * direction, direction, needs)
        depth = density * self.step_size
        weight = transmittance(depth, packed.slot, len(o), n) * -torch.expm1(-depth)

        def total(values: Tensor | None) -> Tensor:
            each = weight[:, None] if values is None else weight[:, None] * values
            return o.new_zeros(len(o), each.shape[1]).index_add(0, ray, each)

        def picture(values: Tensor) -> Tensor:
            return values.view(*shape, -1).permute(0, 3, 1, 2)

        opacity, foreground = total(None), total(color)
        wants_normal = normal is not None and "normal" in needs
        return Render(
            rgb=picture(foreground + (1 - opacity) * background),
            opacity=picture(opacity),
            foreground=picture(foreground) if "foreground" in needs else None,
            depth=picture(total(packed.t[:, None]) / opacity.clamp_min(1e-6)) if "depth" in needs else None,
            normal=picture(torch.nn.functional.normalize(total(normal), dim=-1)) if wants_normal else None,
            samples=Samples(ray, packed.t, weight, direction, normal) if "samples" in needs else None,
        )

    def _shade(
        self, x: Float[Tensor, "S 3"], direction: Float[Tensor, "S 3"], needs: frozenset[str]
    ) -> tuple[Float[Tensor, "S"], Float[Tensor, "S 3"], Float[Tensor, "S 3"] | None]:
        """Density, colour and, where needed, normal of samples; in chunks where no gradient is kept."""
        material = self.scene.material
        wanted = {"features"} | ({"normal"} if "normal" in needs or material.needs_normal else set())
        if torch.is_grad_enabled() or len(x) <= self.config.eval_chunk_size:
            field = self.scene.geometry.query(x, frozenset(wanted))
            assert field.features is not None
            return field.density, material.color(field.features, x, direction, field.normal), field.normal
        pieces = zip(x.split(self.config.eval_chunk_size), direction.split(self.config.eval_chunk_size))
        density, color, normal = zip(*(self._shade(*piece, needs) for piece in pieces))
        return torch.cat(density), torch.cat(color), None if normal[0] is None else torch.cat(normal)


def cube_crossing(
    o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], radius: float
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"]]:
    """Distances at which rays enter and leave the cube [-radius, radius]^3; entry is not below 0, and beyond exit on a miss."""
    inverse = 1 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    a, b = (-radius - o) * inverse, (radius - o) * inverse
    return torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)


def transmittance(depth: Float[Tensor, "S"], slot: Int[Tensor, "S"], n_rays: int, n: int) -> Float[Tensor, "S"]:
    """The part of the light that reaches each sample past those before it, from each one's optical depth."""
    dense = depth.new_zeros(n_rays * n).index_put((slot,), depth).view(n_rays, n)
    before = dense.cumsum(1) - dense
    return torch.exp(-before.view(-1)[slot])
