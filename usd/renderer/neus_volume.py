"""Volume rendering of a signed distance (NeuS, arXiv 2106.10689): the surface is a layer that grows thin by itself.

Letters: R rays, S samples of all rays in one packed axis (see ``usd.kernels.ray_march``). ``usd.math.neus`` says how
opacity follows from distances.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from usd.background import Background
from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Render, Samples
from usd.geometry import DistanceField, Geometry, SignedDistance
from usd.kernels.ray_march import RaySamples, composite
from usd.material import Material
from usd.math.camera import Cameras, Window
from usd.math.neus import crossing, laplace_density, neus_alpha, ray_slope, unseen_opacity
from usd.math.volume import alpha_from_density
from usd.renderer import Renderer, composited_values, pictures, view_rays
from usd.renderer.occupancy_marcher import MarchOptions, OccupancyMarcher

LEAST_TRANSMITTANCE = 1e-3
DECAY = 0.8  # how much a cell remembers: distances bound what their surroundings hold, so little is needed
LIMITS = (1e-6, 1e6)  # of the sharpness


@register("neus-volume-renderer")
class NeusVolumeRenderer(Renderer["NeusVolumeRenderer.Config"]):
    """Needs a geometry that is a signed distance. ``variance`` is trained: the sharpness is exp(10 variance)."""

    @dataclass(frozen=True)
    class Config(MarchOptions):
        """Options of the march, and of the surface's layer."""

        learned_variance_init: float = option(
            0.3, "the variance v at the start; sharpness is exp(10 v)", ge=-2, le=2
        )
        trainable_variance: bool = option(True, "train the variance; otherwise it stays as it starts")
        cos_anneal_end_steps: int = option(
            0, "step by which surfaces that face away count as nothing; 0: from the beginning", ge=0
        )
        use_volsdf: bool = option(False, "VolSDF's density instead of NeuS's opacity")
        grid_resolution: int = option(64, "cells a side of the occupancy grid", ge=1, le=256)

    outputs = Renderer.outputs | {"samples", "distance", "gradient", "laplacian"}

    def __init__(
        self, config: Config, geometry: Geometry, material: Material, background: Background
    ) -> None:
        super().__init__(config, geometry, material, background)
        if not isinstance(geometry, SignedDistance):
            raise UserError(
                f"neus-volume-renderer: needs a signed distance (implicit-sdf), got {type(geometry).__name__}"
            )
        self.marcher = OccupancyMarcher(config, self)
        self.register_buffer("anneal", torch.tensor(1.0 if config.cos_anneal_end_steps == 0 else 0.0))
        self.variance = torch.nn.Parameter(
            torch.tensor(config.learned_variance_init), requires_grad=config.trainable_variance
        )
        self.anneal: Tensor

    @property
    def field(self) -> SignedDistance:
        """The signed distance that is rendered."""
        assert isinstance(self.scene.geometry, SignedDistance)
        return self.scene.geometry

    @property
    def sharpness(self) -> Float[Tensor, ""]:
        """s, per world unit."""
        return (10 * self.variance).exp().clamp(*LIMITS)

    def update(self, step: int, generator: torch.Generator) -> None:
        """Sharpen the surface's opacity by the step, and bring the occupancy grid up to date."""
        end = self.config.cos_anneal_end_steps
        self.anneal.fill_(min(1.0, step / end) if end else 1.0)
        self.marcher.update(step, self._step_opacity, generator, DECAY)

    def _step_opacity(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the most that a step near each point may meet: a distance changes by no more than one walks."""
        reach = 3**0.5 * self.config.radius / self.config.grid_resolution
        near = (self._distance(x).abs() - reach).relu()
        if self.config.use_volsdf:
            return laplace_density(near, self.sharpness) * self.marcher.step_size
        return crossing(near, self.marcher.step_size, self.sharpness)

    def _distance(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return distances without gradient."""
        return self.marcher.evaluate(self.field.distance, x)

    # ------------------------------------------------------------------------------------------------- rendering

    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """See ``Renderer.render``. Samples' ``ray_index`` counts rays of all cameras, row by row."""
        view = view_rays(cameras, window)
        o, d = view.origins, view.directions
        background = self.scene.background.color(d, generator)
        whole = torch.is_grad_enabled() or "samples" in needs
        rays = len(o) if whole else self.marcher.rays_at_once
        values, samples = zip(
            *(self._along(*piece, needs, generator) for piece in zip(o.split(rays), d.split(rays)))
        )
        render = pictures(torch.cat(values), background, needs, view.shape)
        return replace(render, samples=samples[0]) if "samples" in needs else render

    def render_rays(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        background: Float[Tensor, "R C"],
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
    ) -> Render:
        """Render any rays as one picture of height 1 and width R over given colors; ``needs`` as for ``render``."""
        values, samples = self._along(origins, directions, needs, generator)
        render = pictures(values, background, needs, (1, 1, len(origins)))
        return replace(render, samples=samples) if "samples" in needs else render

    def _along(
        self, o: Tensor, d: Tensor, needs: frozenset[str], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "R C"], Samples]:
        """Return sums along rays of weight times (color, 1, distance, normal), and the samples they were made of."""
        samples = self._samples(o, d, generator if self.training and self.config.randomized else None)
        x, direction = samples.positions(o, d), d.index_select(0, samples.ray_index)
        curved = {"laplacian"} if "laplacian" in needs else set()
        field = self.field.distance_field(x, frozenset({"gradient", "features"} | curved))
        assert field.gradient is not None and field.features is not None
        normal = normalize(field.gradient, dim=-1)
        color = self.scene.material.color(field.features, x, direction, normal)
        alpha = self._alpha(field, (normal * direction).sum(-1), samples)
        features = torch.cat([color, normal], 1) if "normal" in needs else color
        sums = composite(alpha, features, samples)
        seen = Samples(
            samples.ray_index,
            samples.t,
            sums.weights,
            direction,
            normal,
            field.distance,
            field.gradient,
            field.laplacian,
        )
        return composited_values(sums, color.shape[1]), seen

    def _alpha(
        self, field: DistanceField, cosine: Float[Tensor, "S"], samples: RaySamples
    ) -> Float[Tensor, "S"]:
        if self.config.use_volsdf:
            return alpha_from_density(laplace_density(field.distance, self.sharpness), samples.lengths)
        slope = ray_slope(cosine, self.anneal)
        return neus_alpha(field.distance, slope, samples.lengths, self.sharpness)

    @torch.no_grad()
    def _samples(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], generator: torch.Generator | None
    ) -> RaySamples:
        """Return samples in cells that the surface may pass, without those that are hidden behind others."""
        samples = self.marcher.march(o, d, generator)
        if not self.config.prune_alpha_threshold or len(samples) == 0:
            return samples
        return samples.select(self._is_reached(samples.positions(o, d), samples))

    def _is_reached(self, x: Float[Tensor, "S 3"], samples: RaySamples) -> Bool[Tensor, "S"]:
        """Return which samples some light reaches. The least opacity keeps apart what is clear and what is hidden."""
        distance = self._distance(x)
        if self.config.use_volsdf:
            alpha = alpha_from_density(laplace_density(distance, self.sharpness), samples.lengths)
        else:
            alpha = unseen_opacity(distance, samples.ray_index, self.sharpness)
        alpha = alpha.clamp_min(1e-6)
        return composite(alpha, alpha.new_zeros(len(alpha), 0), samples, LEAST_TRANSMITTANCE).weights > 0
