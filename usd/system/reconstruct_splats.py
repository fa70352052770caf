"""From views to Gaussian splats: whole pictures are rendered and compared (arXiv 2308.04079). No diffusion model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, Spec, component, option
from usd.core.console import say
from usd.core.random import generator as seeded
from usd.core.registry import register
from usd.core.types import Render
from usd.data.view_pictures import ViewPictures
from usd.data.view_points import tracked_cloud
from usd.data.view_set import ViewSet
from usd.data.views import ViewBatch, spread_indices, views_summary
from usd.geometry import SplatCloud
from usd.losses import Loss, needs_of
from usd.losses.splats import structural_dissimilarity
from usd.losses.table import REGULARIZERS
from usd.math.camera import Cameras
from usd.math.depth_sweep import swept_points
from usd.math.point_cloud import PointCloud
from usd.math.silhouette_hull import hull_points
from usd.system.scene import SceneConfig
from usd.system.view_evaluation import EvaluatedViews
from usd.system.weighted_losses import Weights, read_weights

PICTURE_LOSSES = {"rgb_l1": 0.8, "dssim": 0.2, "rgb_mse": 0.0, "mask": 0.1}
RENDERED = (
    "position",
    "scales",
    "opacity",
    "mean_scale",
    "mean_opacity",
    "tv_loss",
    "depth_tv_loss",
    "sparsity",
    "opaque",
)
SWEPT_VIEWS, SWEPT_ROWS = 96, 96
NEAREST = 0.2
RENDER_LOSSES: dict[str, Loss] = {name: REGULARIZERS[name] for name in RENDERED}


@dataclass(frozen=True)
class ReconstructSplatsConfig(SceneConfig):
    """Components, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule.

    NAME is rgb_l1, dssim, rgb_mse, mask (against the pictures), position, scales, opacity, mean_scale, mean_opacity (of
    the Gaussians), tv_loss, depth_tv_loss, sparsity or opaque (of what is rendered).
    """

    geometry: Spec = component("geometry", "gaussian-splatting", "Gaussians of the object or scene")
    renderer: Spec = component("renderer", "splat-renderer", "how pictures of the Gaussians are made")
    start: Literal["auto", "hull", "points", "sweep", "geometry"] = option(
        "auto",
        "Gaussians to start from; hull: on what all silhouettes allow; points: at the capture's points (COLMAP's); "
        "sweep: where neighboring pictures agree; geometry: as system.geometry.shape_init says; auto: that where it is "
        "given, else hull where the views have masks, points where there are some, and sweep",
    )


@register("reconstruct-splats-system", "reconstruct-splats")
class ReconstructSplatsSystem(EvaluatedViews[ReconstructSplatsConfig, ViewBatch]):
    """Reconstruction from ``view-pictures-datamodule``. Test views are scored against pictures kept from training."""

    transient: ClassVar[frozenset[str]] = frozenset()

    def loss_weights(self) -> Weights:
        """Return the weights of the losses of pictures, Gaussians and renders."""
        return read_weights(self.config.loss, {**PICTURE_LOSSES, **dict.fromkeys(RENDER_LOSSES, 0.0)})

    def on_fit_start(self) -> None:
        """Print what was understood of the views, and take the Gaussians to start from."""
        data = self.data
        if not isinstance(data, ViewPictures):
            raise ConfigError("data_type: gives no whole pictures; expected view-pictures-datamodule")
        if not isinstance(self.geometry, SplatCloud):
            raise ConfigError(
                f"system.geometry_type: {self.config.geometry.name} has no Gaussians; expected gaussian-splatting"
            )
        say(f"views: {views_summary(data.train_views)}")
        if not data.train_views.masked and self.weights["mask"].maximum > 0:
            say("note: the views have no masks, so lambda_mask has nothing to say")
        if self.trainer.ckpt_path is None:
            self._start(self.geometry, data.train_views)
        super().on_fit_start()

    def _start(self, geometry: SplatCloud, views: ViewSet) -> None:
        """Start on what the views say of the object or scene, or as the geometry's options say."""
        kind = self._chosen_start(geometry, views)
        if kind == "geometry":
            geometry.initialize()
            return
        start = START_POINTS[kind](geometry, views, seeded("cpu", self.seed, "hull"))
        say(f"start: {len(start)} Gaussians ({kind})")
        geometry.start_at(start)

    def _chosen_start(self, geometry: SplatCloud, views: ViewSet) -> str:
        """Return where to start from. Raises ``ConfigError`` for a choice that the views know nothing of."""
        chosen, known = self.config.start, views.points is not None and len(views.points) > 0
        if chosen == "hull" and not views.masked:
            raise ConfigError(
                "system.start: is hull, and the views have no masks; expected points, sweep or geometry"
            )
        if chosen == "points" and not known:
            raise ConfigError(
                "system.start: is points, and the views come without any; expected sweep or geometry"
            )
        if chosen != "auto":
            return chosen
        if getattr(geometry.config, "shape_init", None) is not None:
            return "geometry"
        return "hull" if views.masked else ("points" if known else "sweep")

    @override
    def preview_cameras(self, count: int, size: int) -> Cameras:
        """Return cameras around the object; of a scene those that took its pictures, evenly chosen."""
        data = self.data
        if not isinstance(data, ViewPictures) or data.train_views.masked:
            return super().preview_cameras(count, size)
        cameras = data.train_views.cameras
        shown = cameras[spread_indices(len(cameras), count)].to("cpu")
        return shown.resize(size, max(1, round(size * shown.width / shown.height)))

    def compute(self, batch: ViewBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted losses of some pictures."""
        active = self.active(step)
        extra = {name: loss for name, loss in RENDER_LOSSES.items() if name in active}
        render = self.renderer.render(batch.cameras, needs_of(extra.values()) | {"foreground"}, generator)
        losses = {
            **self._picture_losses(render, batch.views, active, generator),
            **{name: loss(render) for name, loss in extra.items()},
        }
        self.figures["splats"] = len(self.geometry.state_dict()["means"])
        return {name: active[name] * loss for name, loss in losses.items()}

    def _picture_losses(
        self, render: Render, views: ViewSet, active: Mapping[str, float], draws: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the losses against the pictures; where they have masks, both over a color drawn anew each step."""
        assert render.foreground is not None
        picture, truth, mask = render.rgb, views.rgba[:, :3], views.rgba[:, 3:]
        if views.masked:
            behind = torch.rand(len(mask), 3, 1, 1, generator=draws, device=mask.device)
            picture = render.foreground + (1 - render.opacity) * behind
            truth = truth * mask + behind * (1 - mask)
        if views.valid is not None:  # a pixel without a source teaches nothing
            truth = torch.where(_valid_pixels(views), truth, picture.detach())
        error, weights = picture - truth, views.weights.to(picture)[:, None, None, None]
        losses: dict[str, Tensor] = {}
        if "rgb_l1" in active:
            losses["rgb_l1"] = (weights * error.abs()).mean()
        if "rgb_mse" in active:
            losses["rgb_mse"] = (weights * error.square()).mean()
        if "dssim" in active:
            losses["dssim"] = structural_dissimilarity(picture, truth, weights)
        if "mask" in active and views.masked:
            losses["mask"] = (weights * (render.opacity - mask).abs()).mean()
        self.figures["psnr"] = float(-10 * error.detach().square().mean().clamp_min(1e-10).log10())
        return losses


def _valid_pixels(views: ViewSet) -> Bool[Tensor, "B 1 H W"]:
    """Return which pixels of the views show something."""
    assert views.valid is not None
    return torch.stack([views.valid.view(i)[..., 0] for i in range(len(views))])[:, None].to(
        views.weights.device
    )


# ------------------------------------------------------------------------------------------------------------ starts


def start_on_hull(geometry: SplatCloud, views: ViewSet, draws: torch.Generator) -> PointCloud:
    """Return points on the silhouettes' hull. Raises ``ConfigError`` where there is none."""
    found = hull_points(views.rgba.float(), views.cameras, geometry.radius, start_count(geometry), draws)
    if len(found) == 0:
        raise ConfigError(
            f"system.geometry.radius: no point of the cube of {geometry.radius:g} is inside all silhouettes; "
            "expected a larger one, or system.start: geometry"
        )
    return found


def start_at_points(geometry: SplatCloud, views: ViewSet, draws: torch.Generator) -> PointCloud:
    """Return the capture's points inside the geometry's cube. Raises ``ConfigError`` where none are."""
    found = tracked_cloud(views)
    inside = (found.points.abs().amax(1) <= geometry.radius).nonzero()[:, 0]
    if len(inside) == 0:
        raise ConfigError(
            f"system.geometry.radius: none of {len(found)} points of the capture are in the cube of "
            f"{geometry.radius:g}; expected a larger one, or system.start: sweep"
        )
    most = getattr(getattr(geometry.config, "density", None), "most", len(inside))
    return found.select(inside[torch.randperm(len(inside), generator=draws)[:most]])


def start_by_sweep(geometry: SplatCloud, views: ViewSet, draws: torch.Generator) -> PointCloud:
    """Return points where neighboring pictures agree."""
    chosen = views.select(spread_indices(len(views), SWEPT_VIEWS))
    zoom = min(1.0, SWEPT_ROWS / chosen.height)
    small = chosen.resized(max(1, round(zoom * chosen.height)), max(1, round(zoom * chosen.width)))
    away = float(small.cameras.position.norm(dim=1).median())
    # From well ahead of what the cameras look at to the far wall.
    reach = (NEAREST * away, away + geometry.radius)
    return swept_points(small.rgba[:, :3], small.cameras, reach, start_count(geometry), draws)


def start_count(geometry: SplatCloud) -> int:
    """Return how many Gaussians to start from, where the views do not say."""
    return int(getattr(geometry.config, "n_splats", 4096))


START_POINTS: dict[str, Callable[[SplatCloud, ViewSet, torch.Generator], PointCloud]] = {
    "hull": start_on_hull,
    "points": start_at_points,
    "sweep": start_by_sweep,
}
