"""From views to Gaussian splats: whole pictures are rendered and compared (arXiv 2308.04079). No diffusion model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from usd.core.config import ConfigError, Spec, component, option
from usd.core.console import say
from usd.core.random import generator as seeded
from usd.core.registry import register
from usd.core.types import Render
from usd.data.view_pictures import ViewPictures
from usd.data.view_set import ViewSet
from usd.data.views import ViewBatch, views_summary
from usd.geometry import SplatCloud
from usd.losses import Loss, needs_of
from usd.losses.splats import structural_dissimilarity
from usd.losses.table import REGULARIZERS
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
RENDER_LOSSES: dict[str, Loss] = {name: REGULARIZERS[name] for name in RENDERED}


@dataclass(frozen=True)
class ReconstructSplatsConfig(SceneConfig):
    """Components, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule.

    NAME is rgb_l1, dssim, rgb_mse, mask (against the pictures), position, scales, opacity, mean_scale, mean_opacity (of
    the Gaussians), tv_loss, depth_tv_loss, sparsity or opaque (of what is rendered).
    """

    geometry: Spec = component("geometry", "gaussian-splatting", "Gaussians of the object or scene")
    renderer: Spec = component("renderer", "splat-renderer", "how pictures of the Gaussians are made")
    start: Literal["auto", "hull", "geometry"] = option(
        "auto",
        "Gaussians to start from; hull: on what all silhouettes allow; geometry: as system.geometry.shape_init says; "
        "auto: hull where the views have masks and shape_init is null",
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
        """Start on the silhouettes' hull, or as the geometry's options say."""
        chosen, given = self.config.start, getattr(geometry.config, "shape_init", None)
        if chosen == "hull" and not views.masked:
            raise ConfigError("system.start: is hull, and the views have no masks; expected geometry")
        if chosen == "geometry" or (chosen == "auto" and (given is not None or not views.masked)):
            geometry.initialize()
            return
        count = int(getattr(geometry.config, "n_splats", 4096))
        draws = seeded("cpu", self.seed, "hull")
        points, colors = hull_points(views.rgba.float(), views.cameras, geometry.radius, count, draws)
        if len(points) == 0:
            raise ConfigError(
                f"system.geometry.radius: no point of the cube of {geometry.radius:g} is inside all silhouettes; "
                "expected a larger one, or system.start: geometry"
            )
        geometry.start_at(points, colors)

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
        error = picture - truth
        losses: dict[str, Tensor] = {}
        if "rgb_l1" in active:
            losses["rgb_l1"] = error.abs().mean()
        if "rgb_mse" in active:
            losses["rgb_mse"] = error.square().mean()
        if "dssim" in active:
            losses["dssim"] = structural_dissimilarity(picture, truth)
        if "mask" in active and views.masked:
            losses["mask"] = (render.opacity - mask).abs().mean()
        self.figures["psnr"] = float(-10 * error.detach().square().mean().clamp_min(1e-10).log10())
        return losses
