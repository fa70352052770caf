"""Gaussian splats: an object, or a whole scene, as Gaussians in space (arXiv 2308.04079)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from typing_extensions import override

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Field, Mesh
from usd.geometry import CubeConfig, Geometry, Level, SplatCloud
from usd.geometry.splat_density import DensityConfig, DensityControl, SplatRows
from usd.geometry.splat_fusion import FusionConfig, fuse_surface, nearest_colors
from usd.geometry.splat_start import StartConfig, blob, cloud, splat_start, surface_start
from usd.kernels.splat import Projection
from usd.math.point_cloud import PointCloud
from usd.math.safe import logit
from usd.math.spherical_harmonics import CONSTANT
from usd.math.splats import ColoredSplats, Splats


@register("gaussian-splatting", "gaussian-splats")
class GaussianSplatting(SplatCloud["GaussianSplatting.Config"]):
    """Weights: a row for each Gaussian; scales as logarithms, opacities as logits. Their number changes in training."""

    ragged: ClassVar[frozenset[str]] = frozenset(
        {"means", "scales", "rotations", "opacities", "constant", "harmonic", "slope", "count"}
    )

    @dataclass(frozen=True)
    class Config(StartConfig, CubeConfig):
        sh_degree: int = option(
            0, "degree of the spherical harmonics by which colors change with the direction", ge=0, le=3
        )
        sh_degree_steps: int = option(
            1000, "steps after which the colors' harmonics get a degree more, up to sh_degree", ge=1
        )
        least_scale: float = option(
            0.0,
            "smallest standard deviation of a Gaussian along any axis; about half a pixel of the training pictures, at "
            "the object, keeps larger pictures free of needles that training could not see",
            ge=0,
        )
        density: DensityConfig = option({}, "how the number of Gaussians changes in training")
        fusion: FusionConfig = option({}, "how a mesh is made of Gaussians")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.radius, self.least = config.radius, config.least_scale
        k = (config.sh_degree + 1) ** 2
        self.means, self.scales = Parameter(torch.zeros(1, 3)), Parameter(torch.zeros(1, 3))
        self.rotations, self.opacities = Parameter(torch.zeros(1, 4)), Parameter(torch.zeros(1))
        self.constant = Parameter(torch.zeros(1, 1, 3))
        self.harmonic = Parameter(torch.zeros(1, k - 1, 3)) if k > 1 else None
        # What training saw of each Gaussian since their number last changed.
        self.slope: Tensor
        self.count: Tensor
        self.register_buffer("slope", torch.zeros(1))
        self.register_buffer("count", torch.zeros(1))
        self._degree = config.sh_degree
        self._seen: list[Projection] = []
        self.density = DensityControl(config.density, config.radius)
        self.register_load_state_dict_pre_hook(_fit_to_state)
        self.take(blob(config, config.radius))

    # --------------------------------------------------------------------------------------------- the Gaussians

    def splats(self) -> Splats:
        """Return the Gaussians as they are now."""
        # Below the least one a scale changes nothing, smoothly: variances add up, as under a filter of that width.
        scales = self.scales.exp() if self.least == 0 else (2 * self.scales).exp().add(self.least**2).sqrt()
        return Splats(self.means, scales, self.rotations, self.opacities.sigmoid())

    def harmonics(self) -> Float[Tensor, "N K 3"]:
        """Return the coefficients of the colors, of the degrees that are trained by now."""
        if self.harmonic is None or self._degree == 0:
            return self.constant
        return torch.cat([self.constant, self.harmonic[:, : (self._degree + 1) ** 2 - 1]], 1)

    def __len__(self) -> int:
        return len(self.means)

    @torch.no_grad()
    def take(self, start: ColoredSplats) -> None:
        """Take the Gaussians of a start in the place of those that there are."""
        if len(start.means) == 0:
            raise UserError("system.geometry: there is no Gaussian to start from; expected at least one")
        self.make_room(len(start.means))
        self.means.copy_(start.means)
        own = start.scales if self.least == 0 else self._without_least(start.scales)
        self.scales.copy_(own.log())
        self.rotations.copy_(start.rotations)
        self.opacities.copy_(logit(start.opacities))
        given = start.harmonics[:, : 1 + (0 if self.harmonic is None else self.harmonic.shape[1])]
        self.constant.copy_(given[:, :1])
        if self.harmonic is not None:
            self.harmonic.zero_()
            self.harmonic[:, : given.shape[1] - 1] = given[:, 1:]

    def _without_least(self, scales: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the scales that ``splats`` turns into these; a hundredth of the least one where there are none."""
        return (scales.square() - self.least**2).clamp_min((0.01 * self.least) ** 2).sqrt()

    def start_at(self, start: PointCloud) -> None:
        """Take a Gaussian at each point, as large as its neighbors are far, flat where the points have normals."""
        self.take(cloud(start.points, start.colors, self.config, start.normals))

    def make_room(self, count: int) -> None:
        """Have rows for ``count`` Gaussians; the parameters stay those that an optimizer knows."""
        for name in self.ragged:
            old = getattr(self, name)
            if old is not None and len(old) != count:
                old.data = old.new_zeros(count, *old.shape[1:])

    def paint(self, colors: Float[Tensor, "N 3"]) -> None:
        """Give the Gaussians colors, the same from everywhere."""
        with torch.no_grad():
            self.constant.copy_((colors[:, None] - 0.5) / CONSTANT)
            if self.harmonic is not None:
                self.harmonic.zero_()

    # -------------------------------------------------------------------------------------------------- training

    def initialize(self) -> Mesh | None:
        """Take the Gaussians that a new training starts from, with their colors."""
        self.take(splat_start(self.config, self.radius))
        return None

    @classmethod
    @override
    def convert(cls, config: object, source: Geometry) -> "GaussianSplatting":
        """Return Gaussians on the surface of ``source``; its own where it has any."""
        assert isinstance(config, cls.Config)
        made = cls(config).to(next(iter(source.state_dict().values())).device)
        if isinstance(source, GaussianSplatting):
            made.take(source.splats().colored(source.harmonics()))
        else:
            made.take(surface_start(source.export_mesh(), config))
        return made

    @override
    def update(self, step: int, generator: torch.Generator) -> None:
        """Let colors change with the direction by one degree more every ``sh_degree_steps``."""
        self._degree = min(self.config.sh_degree, step // self.config.sh_degree_steps)
        self._seen = []

    def watch(self, seen: Projection) -> None:
        """Keep how far each center in the picture is pulled: what is pulled far wants to be two."""
        if self.training and seen.ellipse.requires_grad:
            seen.ellipse.retain_grad()
            self._seen.append(seen)

    @override
    def after_step(self, step: int, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Add up what was seen; now and then clone, split, move and drop Gaussians."""
        if self.density.wants_slopes(step):
            for seen in self._seen:
                self._note(seen)
        self._seen = []
        rows = SplatRows(self._parameters_by_name(), optimizer, {"slope": self.slope, "count": self.count})
        self.density(rows, step, generator)
        if len(self.means) == 0:
            raise UserError(
                f"step {step}: no Gaussian is left; expected a lower system.geometry.density.prune_opacity, or losses "
                "that keep them"
            )
        self.slope, self.count = rows.records["slope"], rows.records["count"]

    def _note(self, seen: Projection) -> None:
        """Add the lengths of the centers' gradients, in halves of the picture, where a Gaussian was seen."""
        if seen.ellipse.grad is None:
            return
        half = seen.ellipse.new_tensor([0.5 * seen.width, 0.5 * seen.height]) * len(seen.ellipse)
        visible = seen.box[..., 1] > seen.box[..., 0]
        self.slope += ((seen.ellipse.grad[..., :2] * half).norm(dim=-1) * visible).sum(0)
        self.count += visible.sum(0)

    def _parameters_by_name(self) -> dict[str, Parameter]:
        """Return the parameters that have a row for each Gaussian."""
        return {name: own for name, own in self.named_parameters() if name in self.ragged}

    # --------------------------------------------------------------------------------------------------- surface

    @torch.no_grad()
    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        """Return densities (zero: only pictures of Gaussians have any), and as features logits of the colors nearby."""
        zero = torch.zeros_like(x[:, 0])
        if "features" not in needs:
            return Field(zero)
        return Field(zero, logit(nearest_colors(self.splats(), self.harmonics(), x)))

    @torch.no_grad()
    @override
    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        """Return the surface that depth pictures from all around agree on. Raises ``UserError`` where there is none."""
        if threshold is not None:
            raise UserError(
                "exporter.threshold: expected null: Gaussians have no density to compare with one"
            )
        return fuse_surface(self.splats(), self.radius, self.config.fusion, resolution)


def _fit_to_state(geometry: torch.nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Let a state hold any number of Gaussians."""
    assert isinstance(geometry, GaussianSplatting)
    if (means := state.get(f"{prefix}means")) is not None:
        geometry.make_room(len(means))
