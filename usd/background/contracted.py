"""Everything behind the object: a density and colors of all space outside of its cube, in contracted coordinates.

So views need no masks: what the object does not explain, this does (NeRF++, arXiv 2010.07492). A ray goes on where it
leaves the cube, or from the camera where it misses it, with steps that grow with the distance.

Letters: R rays, S samples of all rays in one packed axis, K steps a ray.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Backdrop, Background
from usd.core.config import option
from usd.core.registry import register
from usd.core.types import Behind, Samples
from usd.kernels import occupancy as grids
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples, composite_density, intersect_box, samples_between
from usd.math import rng
from usd.math.contraction import contract, contracted_step, distance_along, place_along
from usd.math.safe import trunc_exp
from usd.network.encoding import (
    DirectionEncoding,
    DirectionEncodingConfig,
    EncodingConfig,
    build_encoding,
)
from usd.network.mlp import MLPConfig, mlp

WARM_UP_STEPS = 256
"""Until this step every cell of the grid is visited at each update."""
LEAST_TRANSMITTANCE = 1e-3
"""What gets less light than this is not looked at."""
UNLIT = 0.5
"""Gray level of what no sample stops, outside of training."""


@register("contracted-background")
class ContractedBackground(Background["ContractedBackground.Config"]):
    """density, features = network(encoding(contract(x))); color = sigmoid(network(features, direction))."""

    @dataclass(frozen=True)
    class Config:
        radius: float = option(1.0, "the object lies in the cube [-radius, radius]^3", gt=0, le=10000)
        num_samples_per_ray: int = option(64, "steps of a ray from the cube to infinity", ge=2, le=65536)
        near_plane: float = option(
            0.05, "distance from the camera at which rays begin that miss the cube", ge=0, le=1e12
        )
        randomized: bool = option(True, "while training, every ray starts at a random part of a step")
        grid_resolution: int = option(
            64, "cells a side of the occupancy grid of contracted space", ge=1, le=256
        )
        grid_update_steps: int = option(16, "steps between updates of the occupancy grid", ge=1)
        n_feature_dims: int = option(15, "features of a point that its color is made of", ge=1, le=4096)
        pos_encoding_config: EncodingConfig = option(EncodingConfig(), "encoding of contracted positions")
        mlp_network_config: MLPConfig = option(MLPConfig(), "network that gives density and features")
        dir_encoding_config: DirectionEncodingConfig = option(
            DirectionEncodingConfig(), "encoding of directions"
        )
        color_network_config: MLPConfig = option(
            MLPConfig(n_neurons=32, n_hidden_layers=1), "network that gives colors"
        )
        density_bias: float = option(-1.0, "number added to the density before its activation, exp")
        eval_rays: int = option(16384, "rays worked on at once where no gradient is kept", ge=1)

    is_scene = True
    grid_value: Tensor
    grid_binary: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoding = build_encoding(config.pos_encoding_config)
        self.direction_encoding = DirectionEncoding(config.dir_encoding_config)
        features = config.n_feature_dims
        self.network = mlp(self.encoding.n_output, 1 + features, config.mlp_network_config)
        self.color_network = mlp(features + self.direction_encoding.n_output, 3, config.color_network_config)
        grid = grids.occupied_everywhere(config.grid_resolution, 2.0)
        self.register_buffer("grid_value", grid.value)
        self.register_buffer("grid_binary", grid.binary)

    @property
    def occupancy(self) -> Occupancy:
        """The cells of contracted space known to be empty, and those that may not be."""
        return Occupancy(self.grid_value, self.grid_binary, 2.0)

    def update(self, step: int, generator: torch.Generator) -> None:
        """Fade octaves of progressive encodings in, and bring the occupancy grid up to date."""
        self.encoding.update(step)
        self.direction_encoding.update(step)
        if step % self.config.grid_update_steps == 0:
            grid = grids.update(self.occupancy, self._step_opacity, generator, step < WARM_UP_STEPS)
            self.grid_value.copy_(grid.value)
            self.grid_binary.copy_(grid.binary)

    def _step_opacity(self, y: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return density times the length of a step, at contracted points; corners outside of the ball are empty."""
        length = contracted_step(y, self.config.radius, 1 / self.config.num_samples_per_ray)
        opacity = torch.cat([self._field(part)[0] for part in y.split(1 << 18)]) * length
        return torch.where(y.norm(dim=-1) < 2, opacity, torch.zeros_like(opacity))

    def _field(self, y: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N F"]]:
        """Return density (per world unit) and features of contracted points."""
        out = self.network(self.encoding(0.25 * y + 0.5))
        return trunc_exp(out[:, 0] + self.config.density_bias) / self.config.radius, out[:, 1:]

    # ------------------------------------------------------------------------------------------------- rendering

    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """Return what is seen from the origin."""
        return self.behind(torch.zeros_like(directions), directions, generator)(
            torch.ones_like(directions[:, 0])
        ).color

    def behind(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        generator: torch.Generator | None = None,
    ) -> Backdrop:
        """Return what rays meet once they have left the cube. In training mode the generator jitters their steps."""
        shift, rest = None, torch.full_like(directions, UNLIT)
        if self.training and generator is not None:
            # What no sample stops has a color that nothing can learn: so space ends somewhere along every ray.
            draw = rng.uniform((len(origins), 4), generator, dtype=origins.dtype).to(origins.device)
            rest, shift = draw[:, :3], draw[:, 3] if self.config.randomized else None

        def seen(transmittance: Float[Tensor, "R"]) -> Behind:
            lit = (transmittance.detach() > LEAST_TRANSMITTANCE).nonzero()[:, 0]
            moved = None if shift is None else shift[lit]
            found = self._along(origins[lit], directions[lit], moved, rest[lit])
            return _spread(found, lit, rest)

        return seen

    def _along(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], shift: Tensor | None, rest: Tensor
    ) -> Behind:
        """Return what rays meet, a part of them after the other where no gradient is kept."""
        if torch.is_grad_enabled() or len(o) <= self.config.eval_rays:
            return self._composite(o, d, shift, rest)
        pieces = zip(*(rays.split(self.config.eval_rays) for rays in (o, d, rest)))
        parts = [self._composite(o, d, None, rest) for o, d, rest in pieces]
        known = [part.depth for part in parts if part.depth is not None]
        return Behind(torch.cat([part.color for part in parts]), torch.cat(known))

    def _composite(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], shift: Tensor | None, rest: Tensor
    ) -> Behind:
        """Return the sums along rays, and their samples with places along the way to infinity."""
        near = self._first(o, d)
        samples = self._samples(o, d, near, shift)
        direction = d.index_select(0, samples.ray_index)
        density, features = self._field(contract(samples.positions(o, d), self.config.radius))
        encoded = self.direction_encoding(direction)
        color = torch.sigmoid(self.color_network(torch.cat([features, encoded], -1)))
        sums = composite_density(density, color, samples)
        start = near.index_select(0, samples.ray_index)
        begin, end = (place_along(t, start, self.config.radius) for t in (samples.t_start, samples.t_end))
        places = Samples(samples.ray_index, (begin + end) / 2, sums.weights, direction, length=end - begin)
        left = (1 - sums.opacity)[:, None]
        depth = sums.depth / sums.opacity.clamp_min(1e-6)
        return Behind(sums.color + left * rest, depth, places)

    def _first(self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"]) -> Float[Tensor, "R"]:
        """Return where rays leave the object's cube; ``near_plane`` where they miss it."""
        enter, leave = intersect_box(o, d, self.config.radius, self.config.near_plane, torch.inf)
        return torch.where(leave > enter, leave, torch.full_like(leave, self.config.near_plane))

    def _edges(self, near: Float[Tensor, "R"], shift: Tensor | None) -> Float[Tensor, "R E"]:
        """Return the ends of a ray's steps, all of them moved by ``shift`` of a step but the first."""
        count = self.config.num_samples_per_ray
        # The last step ends at a finite distance, 2 K radii away.
        places = torch.arange(count + 1, device=near.device, dtype=near.dtype) / (count + 0.5)
        if shift is not None:
            moved = places[1:] - (1 - shift[:, None]) / (count + 0.5)
            places = torch.cat([places.new_zeros(len(near), 1), moved], 1)
        return distance_along(places.expand(len(near), -1), near[:, None], self.config.radius)

    @torch.no_grad()
    def _samples(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], near: Tensor, shift: Tensor | None
    ) -> RaySamples:
        """Return steps in occupied cells that some light reaches."""
        samples = samples_between(self._edges(near, shift))
        y = contract(samples.positions(o, d), self.config.radius)
        occupied = grids.is_occupied(self.occupancy, y)
        samples, y = samples.select(occupied), y[occupied]
        density = self._field(y)[0]
        nothing = density.new_zeros(len(density), 0)
        return samples.select(composite_density(density, nothing, samples, LEAST_TRANSMITTANCE).weights > 0)


def _spread(found: Behind, rays: Tensor, rest: Float[Tensor, "R 3"]) -> Behind:
    """Return what some of the rays met as that of all of them; the others are given a color that no one sees."""
    depth = None if found.depth is None else rest.new_zeros(len(rest)).index_copy(0, rays, found.depth)
    samples = found.samples
    if samples is not None:
        samples = replace(samples, ray_index=rays[samples.ray_index])
    return Behind(rest.index_copy(0, rays, found.color), depth, samples)
