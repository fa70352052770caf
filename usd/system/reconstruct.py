"""From views to an object or a scene: a field is rendered like a volume until it looks like them.

The field is a signed distance (NeuS, arXiv 2106.10689) or a density (NeRF, arXiv 2003.08934). A step renders random
rays of the given views and compares colors and, where the views have them, masks, normals and depths. The number of
rays follows the number of samples they take, so that a step costs the same throughout. No diffusion model is involved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import ranks
from usd.core.config import ConfigError, Schedule, Spec, component, option
from usd.core.console import say
from usd.core.registry import register
from usd.core.types import Mesh, Render
from usd.data.view_set import ViewSet, refuse_outside
from usd.data.views import RayBatch, ViewsData, views_summary
from usd.geometry import SignedDistance
from usd.losses import Loss, needs_of
from usd.losses.curvature import curvature
from usd.losses.eikonal import eikonal, eikonal_error, free_surface
from usd.losses.opacity import opaque, sparsity
from usd.losses.rays import (
    absolute_error,
    depth_error,
    mask_error,
    normal_error,
    normal_trust,
    squared_error,
    trusted_mean,
)
from usd.losses.samples import background_distortion, distortion, z_variance
from usd.math.rng import BatchShare, use_share
from usd.math.silhouette_hull import hull_surface
from usd.renderer import RayRenderer
from usd.renderer.neus_volume import NeusVolumeRenderer
from usd.renderer.occupancy_marcher import MarchOptions
from usd.system.scene import SceneConfig
from usd.system.view_corrections import Appearance, AppearanceConfig, PoseCorrections
from usd.system.view_evaluation import EvaluatedViews
from usd.system.weighted_losses import Weights, read_weights

PICTURE_LOSSES = {"rgb_l1": 1.0, "rgb_mse": 10.0, "mask": 0.1, "normal": 0.0, "depth": 0.0}
FIELD_LOSSES = {"eikonal": 0.1, "free_surface": 0.0, "surface_sparsity": 0.0}
RENDER_LOSSES: dict[str, Loss] = {
    "curvature": curvature,
    "sparsity": sparsity,
    "opaque": opaque,
    "z_variance": z_variance,
    "distortion": distortion,
    "background_distortion": background_distortion,
}
DEFAULT_WEIGHTS = {**PICTURE_LOSSES, **FIELD_LOSSES, **dict.fromkeys(RENDER_LOSSES, 0.0)}
LEAST_RAYS = 32
HULL_VIEWS = 64


@dataclass(frozen=True)
class OutlierConfig:
    """Shares of a step's rays, those with the largest error, that teach nothing; for views that contradict others.

    Numbers or schedules. Begin late: before the shape stands, what is still missing of it fits worst.
    """

    rgb: Schedule = option(0.0, "share of the rays whose colors are left out", ge=0, lt=1)
    mask: Schedule = option(0.0, "share of the rays whose masks are left out", ge=0, lt=1)
    normal: Schedule = option(0.0, "share of the rays whose normals are left out", ge=0, lt=1)


@dataclass(frozen=True)
class ReconstructConfig(SceneConfig):
    """Components, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule.

    NAME is rgb_l1, rgb_mse, mask, normal, depth (against the pictures), eikonal, curvature, free_surface,
    surface_sparsity (of the distance), sparsity, opaque, z_variance, distortion or background_distortion (of what is
    rendered).
    """

    geometry: Spec = component("geometry", "implicit-sdf", "surface of the object")
    renderer: Spec = component(
        "renderer", "neus-volume-renderer", "renderer that makes pictures of the object"
    )
    start: Literal["auto", "hull", "geometry"] = option(
        "geometry",
        "surface to start from; hull: what all silhouettes allow; geometry: as system.geometry.shape_init says; "
        "auto: hull where the views have masks and the geometry can start from it",
    )
    outliers: OutlierConfig = option({}, "shares of rays whose errors are left out as outliers")
    samples_per_step: int | None = option(
        16384,
        "samples of a step: rays are as many as take these, up to data.n_rays; null: always data.n_rays",
        ge=1,
    )
    first_rays: int = option(256, "rays of the first step, where their number changes", ge=1, le=2**24)
    field_points: int = option(
        1024, "number of points anywhere in the cube, for losses of the distance", ge=1, le=2**24
    )
    free_surface_decay: float = option(
        50.0, "decay of lambda_free_surface: distances far above its inverse count as empty", gt=0
    )
    surface_sparsity_scale: float = option(
        1.0, "decay of lambda_surface_sparsity, which is as lambda_free_surface at the samples of rays", gt=0
    )
    refine_poses: bool = option(False, "whether cameras are turned and shifted a little until views agree")
    appearance: AppearanceConfig = option({}, "look of each view of its own, where exposures differ")


@register("reconstruct-system", "reconstruct")
class ReconstructSystem(EvaluatedViews[ReconstructConfig, RayBatch]):
    """Reconstruction from ``views-datamodule``. Test views are scored against pictures kept from training."""

    transient: ClassVar[frozenset[str]] = frozenset()
    shares_batches: ClassVar[bool] = True
    renderer: RayRenderer
    n_rays: Tensor

    def build(self) -> None:
        """Build the scene. Raises ``ConfigError`` where its components do not fit each other."""
        super().build()
        self.register_buffer("n_rays", torch.tensor(self.config.first_rays))
        self.poses = PoseCorrections(self.config.refine_poses)
        self.appearance = Appearance(self.config.appearance)

    def build_renderer(self) -> RayRenderer:
        """Build the renderer. Raises ``ConfigError`` for one that follows no single rays."""
        config = self.config
        if self.material.n_features != self.geometry.n_features:
            raise ConfigError(
                f"system.geometry.n_feature_dims: is {self.geometry.n_features}; expected "
                f"{self.material.n_features}, what {config.material.name} takes"
            )
        renderer = super().build_renderer()
        if not isinstance(renderer, RayRenderer):
            raise ConfigError(
                f"system.renderer_type: {config.renderer.name} renders no single rays; "
                "expected neus-volume-renderer or nerf-volume-renderer"
            )
        self._refuse_losses_of_distances()
        return renderer

    def _refuse_losses_of_distances(self) -> None:
        """Raise ``ConfigError`` for a weight of a loss that only a signed distance has, where there is none."""
        if isinstance(self.geometry, SignedDistance):
            return
        for name in (*FIELD_LOSSES, "curvature"):
            if f"lambda_{name}" in self.config.loss and self.weights[name].maximum > 0:
                raise ConfigError(
                    f"system.loss.lambda_{name}: is a loss of distances, which {self.config.geometry.name} has not; "
                    "expected 0, or a signed distance such as implicit-sdf"
                )

    @property
    def radius(self) -> float:
        """Half the side of the cube that the object lies in."""
        options = self.renderer.config
        return options.radius if isinstance(options, MarchOptions) else self.geometry.radius

    def loss_weights(self) -> Weights:
        """Return the weights of the losses of pictures, distances and renders."""
        return read_weights(self.config.loss, DEFAULT_WEIGHTS)

    # ------------------------------------------------------------------------------------------------- training

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> object:
        """Take the weights of a checkpoint, and corrections of as many views as it has."""
        for name, part in (("poses", self.poses), ("appearance", self.appearance)):
            saved = [state_dict[key] for row in part.rows if (key := f"{name}.{row}") in state_dict]
            if saved:
                part.make_room(len(saved[0]))
        return super().load_state_dict(state_dict, strict, assign)

    def configure_model(self) -> None:
        """Give every training view its corrections."""
        if isinstance(self.data, ViewsData) and (self.poses.rows or self.appearance.rows):
            for part in (self.poses, self.appearance):
                part.make_room(len(self.data.train_views))

    def on_fit_start(self) -> None:
        """Print what was understood of the views, and take the shape to start from."""
        data = self.data
        if not isinstance(data, ViewsData):
            raise ConfigError("data_type: gives no rays of views; expected views-datamodule")
        if self.trainer.accumulate_grad_batches > 1:
            raise ConfigError(
                "trainer.batch_parts: a reconstruction takes as many rays as fit; expected 1, and a lower "
                "system.samples_per_step"
            )
        if self.global_rank == 0:
            say(f"views: {views_summary(data.train_views)}")
        if not data.train_views.masked and self.weights["mask"].maximum > 0:
            say("note: the views have no masks, so lambda_mask has nothing to say")
        if not self.background.is_scene:
            refuse_outside(data.train_views, self.radius)
        if self.trainer.ckpt_path is None:
            self._start(data.train_views)
        super().on_fit_start()

    def _start(self, views: ViewSet) -> None:
        """Start as the silhouettes' hull, or as the geometry's options say. Raises ``ConfigError``."""
        wanted = self.config.start
        if wanted == "hull" and not views.masked:
            raise ConfigError("system.start: is hull, and the views have no masks; expected auto or geometry")
        if wanted != "geometry" and views.masked and self._start_from_hull(views):
            return
        if wanted == "hull":
            raise ConfigError(
                f"system.start: is hull, from which {self.config.geometry.name} cannot start as it is configured; "
                "expected auto or geometry"
            )
        self.geometry.initialize()

    def _start_from_hull(self, views: ViewSet) -> bool:
        """Start from the silhouettes of some views; return whether there was a hull, and the geometry took it."""
        if not isinstance(self.geometry, SignedDistance):
            return False
        # More views than these hardly change a hull, and a large capture need not be read whole.
        chosen = range(0, len(views), -(-len(views) // HULL_VIEWS))
        alpha = torch.stack([views.alpha(i) for i in chosen])
        surface = Mesh(*hull_surface(alpha, views.cameras[list(chosen)], self.radius))
        if len(surface.faces) == 0:
            say(
                f"note: no point of the cube of {self.radius:g} is inside all silhouettes: no hull to start from"
            )
            return False
        return self.geometry.start_from_mesh(surface.to(self.device))

    def compute(self, batch: RayBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted losses of as many rays as are taken now, and of points anywhere."""
        active = self.active(step)
        wanted = len(batch) if self.config.samples_per_step is None else min(int(self.n_rays), len(batch))
        part = BatchShare.of(wanted, ranks.rank(), ranks.processes())
        with use_share(generator, part if ranks.processes() > 1 else None):
            losses, render = self._ray_losses(
                batch.rows(part.first, part.first + part.count), step, generator, active
            )
        losses |= self._field_losses(render, generator, active)
        self._count(render, wanted, len(batch))
        return {name: active[name] * loss for name, loss in losses.items()}

    def _ray_losses(
        self, rays: RayBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Render]:
        """Render along rays; return the losses against their pixels, those of the render itself, and the render."""
        extra = {name: loss for name, loss in RENDER_LOSSES.items() if name in active}
        needs = needs_of(extra.values()) | {"samples", "behind"}
        needs |= {"normal"} & set(active) | ({"depth"} if "depth" in active else set())
        rays = self.poses(rays)
        render = self.renderer.render_rays(rays.origins, rays.directions, needs, generator)
        losses = {
            **self._picture_losses(render, rays, active, step),
            **{name: loss(render) for name, loss in extra.items()},
        }
        return losses, render

    def _picture_losses(
        self,
        render: Render,
        rays: RayBatch,
        active: Mapping[str, float],
        step: int,
    ) -> dict[str, Tensor]:
        """Return the losses against the pictures, ray by ray."""
        assert render.behind is not None
        out, losses = self.config.outliers, {}
        rgb, truth = self.appearance(render.rgb[0, :, 0].T, rays.view), rays.over(render.behind.color)
        if "rgb_l1" in active:
            losses["rgb_l1"] = trusted_mean(absolute_error(rgb, truth), rays.weight, out.rgb(step))
        if "rgb_mse" in active:
            losses["rgb_mse"] = trusted_mean(squared_error(rgb, truth), rays.weight, out.rgb(step))
        if "mask" in active and rays.mask is not None:
            error = mask_error(render.opacity[0, 0, 0], rays.mask)
            losses["mask"] = trusted_mean(error, rays.weight, out.mask(step))
        if "normal" in active and rays.normals is not None and render.normal is not None:
            error = normal_error(render.normal[0, :, 0].T, rays.normals)
            trust = rays.weight * normal_trust(rays.normals, rays.directions)
            losses["normal"] = trusted_mean(error, trust, out.normal(step))
        if "depth" in active and rays.depth is not None:
            error = depth_error(scene_depth(render), rays.depth)
            losses["depth"] = trusted_mean(error, rays.weight * (rays.depth > 0))
        error = ranks.averaged(ranks.mean((rgb - truth).square()))
        self.figures["psnr"] = float(-10 * error.clamp_min(1e-10).log10())
        return losses

    def _field_losses(
        self, render: Render, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the losses of distances, at the samples and at points anywhere."""
        if not set(FIELD_LOSSES) & set(active):
            return {}
        if not isinstance(self.geometry, SignedDistance):
            return {}
        radius = self.radius
        x = torch.rand(self.config.field_points, 3, generator=generator, device=self.device)
        field = self.geometry.distance_field((2 * x - 1) * radius, frozenset({"gradient"}))
        along = None if render.samples is None else render.samples.distance
        assert field.gradient is not None and along is not None
        losses = {
            "eikonal": 0.5 * (eikonal(render) + eikonal_error(field.gradient)),
            "free_surface": free_surface(field.distance, self.config.free_surface_decay),
            "surface_sparsity": free_surface(along, self.config.surface_sparsity_scale),
        }
        return {name: loss for name, loss in losses.items() if name in active}

    def _count(self, render: Render, rays: int, most: int) -> None:
        """Note figures, and set how many rays the next step takes."""
        assert render.samples is not None
        behind = None if render.behind is None else render.behind.samples
        count = len(render.samples.t) + (0 if behind is None else len(behind.t))
        taken, wanted = (
            int(ranks.summed(torch.tensor(count, device=self.device))),
            self.config.samples_per_step,
        )
        self.figures |= {"rays": rays, "samples": taken}
        if isinstance(self.renderer, NeusVolumeRenderer):
            self.figures["sharpness"] = float(self.renderer.sharpness.detach())
        if wanted is not None:
            now = 0.9 * rays + 0.1 * rays * wanted / max(taken, 1)
            self.n_rays.fill_(int(min(max(now, LEAST_RAYS), 2 * rays, most)))


def scene_depth(render: Render) -> Float[Tensor, "R"]:
    """Return expected distances along rays, of the object and of a background that has any."""
    assert render.depth is not None
    depth, opacity = render.depth.flatten(), render.opacity.flatten()
    behind = None if render.behind is None else render.behind.depth
    return depth if behind is None else depth * opacity + behind * (1 - opacity)
