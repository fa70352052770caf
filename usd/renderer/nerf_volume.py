"""Volume rendering of a density field: march through occupied cells, forget what cannot be seen, composite.

Letters: R rays of all cameras, S samples of all rays in one packed axis (see ``usd.kernels.ray_march``).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.core.types import Render, Samples
from usd.core.unread import ReadWith
from usd.geometry import Geometry, Volumetric
from usd.kernels.ray_march import RaySamples, composite_density, join_samples
from usd.material import Material
from usd.math import rng
from usd.math.volume import alpha_from_density
from usd.renderer import RayRenderer, RayRequest, behind_values, composited_values, pictures
from usd.renderer.importance import ImportanceSampler
from usd.renderer.occupancy_marcher import MarchOptions, OccupancyMarcher, displace, evaluate_in_chunks
from usd.renderer.proposal import (
    ProposalField,
    ProposalNetworkConfig,
    ProposalOptimizerConfig,
    ProposalSampler,
)

LEAST_TRANSMITTANCE = 1e-4
PROBE_STRIDE, PROBE_SHARE = 16, 0.6  # every 16th ray; below this visible share it pays to leave the rest out


@register("nerf-volume-renderer")
class NerfVolumeRenderer(RayRenderer["NerfVolumeRenderer.Config"]):
    """Emission and absorption along rays, sampled where the estimator finds the object."""

    @dataclass(frozen=True)
    class Config(MarchOptions):
        """Options of samples along rays, and of the proposal network."""

        read_with: ClassVar[ReadWith] = {
            **MarchOptions.read_with,
            "num_samples_per_ray_proposal": ("estimator", ("proposal",)),
            "proposal_network_config": ("estimator", ("proposal",)),
            "prop_optimizer_config": ("estimator", ("proposal",)),
        }

        estimator: str = option(
            "occgrid",
            "choice of samples: in cells of an occupancy grid, (importance) everywhere and once more where "
            "that pass was opaque, or (proposal) where a small network that is trained beside expects opacity",
            choices=("occgrid", "importance", "proposal"),
        )
        num_samples_per_ray_proposal: int = option(
            64, "samples of the proposal network, with estimator proposal", ge=2, le=65536
        )
        proposal_network_config: ProposalNetworkConfig = option(
            ProposalNetworkConfig(), "shape of the proposal network"
        )
        gradient_distance: float = option(
            0.0,
            "distance from the camera within which the gradients of samples fall with its square, so that no "
            "floaters grow where rays of few views are dense (arXiv 2305.02756); 0: all gradients as they are",
            ge=0,
        )
        prop_optimizer_config: ProposalOptimizerConfig = option(
            ProposalOptimizerConfig(), "optimizer of the proposal network"
        )

    outputs = RayRenderer.outputs | {"normal_perturb"}
    marcher: OccupancyMarcher | None = None
    proposal: ProposalSampler | None = None
    importance: ImportanceSampler | None = None
    _step = 0

    def configure(self) -> None:
        """Make the estimator. Raises ``UserError`` for a geometry that is no density."""
        config = self.config
        self.require_geometry(Volumetric, "nerf-volume-renderer: needs a volumetric geometry")
        if config.estimator == "occgrid":
            self.marcher = OccupancyMarcher(config, self)
        elif config.estimator == "importance":
            self.importance = ImportanceSampler(config, self._opacity)
        else:
            optimizer = config.prop_optimizer_config.args
            self.proposal_field = ProposalField(config.proposal_network_config, optimizer, config.radius)
            self.proposal = ProposalSampler(config, self.proposal_field, config.num_samples_per_ray_proposal)

    def update(self, step: int, generator: torch.Generator) -> None:
        """Bring the occupancy grid, or the proposal network's progressive levels, up to date."""
        self._step = step
        if self.proposal is not None:
            self.proposal.field.encoding.update(step)
        if (marcher := self.marcher) is not None:
            marcher.update(step, lambda x: self._density(x) * marcher.step_size, generator)

    def _density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return density without gradient."""
        geometry = self.scene.geometry
        assert isinstance(geometry, Volumetric)
        return evaluate_in_chunks(geometry.density, x, self.config.eval_chunk_size)

    def _opacity(self, x: Float[Tensor, "S 3"], samples: RaySamples) -> Float[Tensor, "S"]:
        """Return the opacity of samples without gradient."""
        return alpha_from_density(self._density(x), samples.lengths)

    def follow(self, request: RayRequest) -> Render:
        """Render by sampling, shading and compositing."""
        o, d, needs = request.rays.origins, request.rays.directions, request.needs
        backdrop = self.scene.background.behind(o, d, request.generator)
        shift = request.generator if self.training and self.config.randomized else None
        proposal = None if self.proposal is None else self.proposal.propose(o, d, shift)
        samples = self._samples(o, d, shift) if proposal is None else proposal.samples
        direction = d.index_select(0, samples.ray_index)
        x = o.index_select(0, samples.ray_index).addcmul_(direction, samples.t[:, None])
        values, weights, normal = self._composite(x, direction, samples, request)
        learns = self.training and torch.is_grad_enabled()
        if proposal is not None and self.proposal is not None and learns:
            self.proposal.learn(proposal, weights, self._step)
        render = pictures(values, behind_values(values, backdrop, self.scene), needs, request.rays.shape)
        if "samples" not in needs:
            return render
        seen = Samples(samples.ray_index, samples.t, weights, direction, normal, length=samples.lengths)
        if "normal_perturb" in needs:
            field = self.scene.geometry.query(displace(x, request.generator), frozenset({"normal"}))
            seen = replace(seen, normal_perturb=field.normal)
        return replace(render, samples=seen)

    def _samples(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], generator: torch.Generator | None
    ) -> RaySamples:
        """Return the samples of an estimator that is not trained."""
        if self.importance is not None:
            return self.importance.sample(o, d, generator)
        assert self.marcher is not None
        return self._visible_samples(self.marcher, o, d, generator)

    @torch.no_grad()
    def _visible_samples(
        self,
        marcher: OccupancyMarcher,
        o: Float[Tensor, "R 3"],
        d: Float[Tensor, "R 3"],
        generator: torch.Generator | None,
    ) -> RaySamples:
        """Return samples in occupied cells that are not hidden behind others, found a chunk of rays at once."""
        rays = marcher.rays_at_once(self.training)
        # One draw for all rays, so that the size of chunks changes no picture.
        shift = None if generator is None else rng.uniform((len(o),), generator, dtype=o.dtype).to(o.device)
        shifts = [None] * len(o.split(rays)) if shift is None else shift.split(rays)
        pieces = [self._march(marcher, *piece) for piece in zip(o.split(rays), d.split(rays), shifts)]
        return pieces[0] if len(pieces) == 1 else join_samples(pieces, rays)

    def _march(self, marcher: OccupancyMarcher, o: Tensor, d: Tensor, shift: Tensor | None) -> RaySamples:
        """Return the visible samples of one chunk of rays.

        Looking for hidden samples costs a density each: a few rays tell whether that pays.
        """
        samples = marcher.march(o, d, shift)
        if not self.config.prune_alpha_threshold or len(samples) == 0:
            return samples
        if len(samples) <= self.config.eval_chunk_size:
            some = slice(None, None, PROBE_STRIDE)
            seen = self._is_visible(o[some], d[some], marcher.march(o[some], d[some], None))
            if float(seen.float().mean()) > PROBE_SHARE:
                return samples
        return samples.select(self._is_visible(o, d, samples))

    def _is_visible(self, o: Tensor, d: Tensor, samples: RaySamples) -> Bool[Tensor, "S"]:
        density = self._density(samples.positions(o, d))
        no_features = density.new_zeros(len(density), 0)
        return composite_density(density, no_features, samples, LEAST_TRANSMITTANCE).weights > 0

    def _composite(
        self,
        x: Float[Tensor, "S 3"],
        direction: Float[Tensor, "S 3"],
        samples: RaySamples,
        request: RayRequest,
    ) -> tuple[Float[Tensor, "R C"], Float[Tensor, "S"], Float[Tensor, "S 3"] | None]:
        """Return sums along rays (color, 1, distance, normal; all times weights), weights, and the samples' normals."""
        shade = _Shading(self.scene.geometry, self.scene.material, "normal" in request.needs, request)
        chunk = len(samples) + 1 if torch.is_grad_enabled() else self.config.eval_chunk_size
        pieces = (each.split(chunk) for each in (x, direction, samples.ray_index))
        parts = [shade(*piece) for piece in zip(*pieces)]
        density, color, normal = (_cat(each) for each in zip(*parts))
        assert density is not None and color is not None
        if self.config.gradient_distance and torch.is_grad_enabled():
            share = (samples.t / self.config.gradient_distance).clamp(max=1).square()
            density, color = scale_gradient(density, share), scale_gradient(color, share[:, None])
        features = color if normal is None else torch.cat([color, normal], 1)
        sums = composite_density(density, features, samples)
        return composited_values(sums, color.shape[1]), sums.weights, normal


@dataclass(frozen=True)
class _Shading:
    """Density, color and, where wanted, normal of points seen along directions."""

    geometry: Geometry
    material: Material
    wants_normal: bool
    request: RayRequest

    def __call__(
        self, x: Float[Tensor, "S 3"], direction: Float[Tensor, "S 3"], ray: Int[Tensor, "S"]
    ) -> tuple[Float[Tensor, "S"], Float[Tensor, "S C"], Float[Tensor, "S 3"] | None]:
        needs = {"features"} | ({"normal"} if self.wants_normal or self.material.needs_normal else set())
        field = self.geometry.query(x, frozenset(needs))
        assert field.features is not None
        lamps = self.request.light_positions(ray)
        color = self.material.lit_color(field.features, x, direction, field.normal, lamps)
        return field.density, color, field.normal if self.wants_normal else None


def scale_gradient(value: Float[Tensor, "S *C"], share: Float[Tensor, "S *#C"]) -> Float[Tensor, "S *C"]:
    """Return the value, of whose gradient a share goes on."""
    return value.detach().addcmul(value - value.detach(), share)


def _cat(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Return the parts in one tensor, None where there are none."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
