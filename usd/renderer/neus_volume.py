"""Volume rendering of a signed distance (NeuS, arXiv 2106.10689): the surface is a layer that grows thin by itself.

Letters: R rays, S samples of all rays in one packed axis (see ``usd.kernels.ray_march``). ``usd.math.neus`` says how
opacity follows from distances.
"""

import functools
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from usd.core.config import option
from usd.core.registry import register
from usd.core.types import Render, Samples
from usd.geometry import DistanceField, SignedDistance
from usd.kernels.ray_march import RaySamples, composite
from usd.math.neus import crossing, laplace_density, neus_alpha, ray_slope, unseen_opacity
from usd.math.volume import alpha_from_density
from usd.renderer import RayRenderer, RayRequest, behind_values, composited_values, pictures
from usd.renderer.importance import ImportanceSampler
from usd.renderer.occupancy_marcher import MarchOptions, OccupancyMarcher, displace, evaluate_in_chunks

LEAST_TRANSMITTANCE = 1e-3
DECAY = 0.8  # how much a cell remembers: distances bound what their surroundings hold, so little is needed
LIMITS = (1e-6, 1e6)  # of the sharpness


@register("neus-volume-renderer")
class NeusVolumeRenderer(RayRenderer["NeusVolumeRenderer.Config"]):
    """Needs a geometry that is a signed distance. ``variance`` is trained: the sharpness is exp(10 variance)."""

    @dataclass(frozen=True)
    class Config(MarchOptions):
        """Options of the march, and of the surface's layer."""

        learned_variance_init: float = option(
            0.3, "variance v at the start; sharpness is exp(10 v)", ge=-2, le=2
        )
        trainable_variance: bool = option(True, "train the variance; otherwise it stays as it starts")
        cos_anneal_end_steps: int = option(
            0, "step by which surfaces that face away count as nothing; 0: from the beginning", ge=0
        )
        use_volsdf: bool = option(False, "VolSDF's density instead of NeuS's opacity")
        grid_resolution: int = option(64, "cells a side of the occupancy grid", ge=1, le=256)

    outputs = RayRenderer.outputs | {"normal_perturb", "distance", "gradient", "laplacian"}
    marcher: OccupancyMarcher | None = None
    importance: ImportanceSampler | None = None

    def configure(self) -> None:
        """Make the estimator and the sharpness. Raises ``UserError`` for a geometry that is no signed distance."""
        config = self.config
        self.require_geometry(SignedDistance, "neus-volume-renderer: needs a signed distance (implicit-sdf)")
        if config.estimator == "occgrid":
            self.marcher = OccupancyMarcher(config, self)
        else:
            self.importance = ImportanceSampler(config, self._coarse_opacity)
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
        if self.marcher is not None:
            step_opacity = functools.partial(self._step_opacity, self.marcher.step_size)
            self.marcher.update(step, step_opacity, generator, DECAY)

    def _step_opacity(self, length: float, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the most that a step near each point may meet: a distance changes by no more than one walks."""
        reach = 3**0.5 * self.config.radius / self.config.grid_resolution
        near = (self._distance(x).abs() - reach).relu()
        if self.config.use_volsdf:
            return laplace_density(near, self.sharpness) * length
        return crossing(near, length, self.sharpness)

    def _distance(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return distances without gradient."""
        return evaluate_in_chunks(self.field.distance, x, self.config.eval_chunk_size)

    # ------------------------------------------------------------------------------------------------- rendering

    def follow(self, request: RayRequest) -> Render:
        """Render a chunk of rays after the other."""
        o, d, needs = request.rays.origins, request.rays.directions, request.needs
        backdrop = self.scene.background.behind(o, d, request.generator)
        whole = torch.is_grad_enabled() or "samples" in needs
        size = len(o) if whole else max(1, self.config.eval_chunk_size // self.config.num_samples_per_ray)
        index = torch.arange(len(o), device=o.device)
        lamps = [request.light_positions(part) for part in index.split(size)]
        pieces = zip(o.split(size), d.split(size), lamps)
        parts, samples = zip(*(self._along(*piece, needs, request.generator) for piece in pieces))
        values = torch.cat(parts)
        render = pictures(values, behind_values(values, backdrop, self.scene), needs, request.rays.shape)
        return replace(render, samples=samples[0]) if "samples" in needs else render

    def _along(
        self,
        o: Tensor,
        d: Tensor,
        lamps: Float[Tensor, "R 3"] | None,
        needs: frozenset[str],
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "R C"], Samples]:
        """Return sums along rays of weight times (color, 1, distance, normal), and the samples they were made of."""
        samples = self._samples(o, d, generator if self.training and self.config.randomized else None)
        x, direction = samples.positions(o, d), d.index_select(0, samples.ray_index)
        curved = {"laplacian"} if "laplacian" in needs else set()
        field = self.field.distance_field(x, frozenset({"gradient", "features"} | curved))
        assert field.gradient is not None and field.features is not None
        normal = normalize(field.gradient, dim=-1)
        lamp = None if lamps is None else lamps.index_select(0, samples.ray_index)
        color = self.scene.material.lit_color(field.features, x, direction, normal, lamp)
        alpha = self._alpha(field, (normal * direction).sum(-1), samples)
        features = torch.cat([color, normal], 1) if "normal" in needs else color
        sums = composite(alpha, features, samples)
        seen = Samples(
            ray_index=samples.ray_index,
            t=samples.t,
            weight=sums.weights,
            direction=direction,
            normal=normal,
            normal_perturb=self._perturbed_normal(x, generator) if "normal_perturb" in needs else None,
            distance=field.distance,
            gradient=field.gradient,
            laplacian=field.laplacian,
            length=samples.lengths,
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
        if self.importance is not None:
            return self.importance.sample(o, d, generator)
        assert self.marcher is not None
        samples = self.marcher.march(o, d, generator)
        if not self.config.prune_alpha_threshold or len(samples) == 0:
            return samples
        return samples.select(self._is_reached(samples.positions(o, d), samples))

    def _is_reached(self, x: Float[Tensor, "S 3"], samples: RaySamples) -> Bool[Tensor, "S"]:
        """Return which samples some light reaches. The least opacity keeps apart what is clear and what is hidden."""
        alpha = self._coarse_opacity(x, samples).clamp_min(1e-6)
        return composite(alpha, alpha.new_zeros(len(alpha), 0), samples, LEAST_TRANSMITTANCE).weights > 0

    def _coarse_opacity(self, x: Float[Tensor, "S 3"], samples: RaySamples) -> Float[Tensor, "S"]:
        """Return opacity from distances alone, without gradient."""
        distance = self._distance(x)
        if self.config.use_volsdf:
            return alpha_from_density(laplace_density(distance, self.sharpness), samples.lengths)
        return unseen_opacity(distance, samples.ray_index, self.sharpness)

    def _perturbed_normal(
        self, x: Float[Tensor, "S 3"], generator: torch.Generator | None
    ) -> Float[Tensor, "S 3"]:
        """Return unit normals a random little away from samples."""
        field = self.field.distance_field(displace(x, generator), frozenset({"gradient"}))
        assert field.gradient is not None
        return normalize(field.gradient, dim=-1)
