"""From views to a surface: a signed distance is rendered like a volume until it looks like them (arXiv 2106.10689).

A step renders random rays of the given views and compares colors, masks and, where the views have them, normals. The
number of rays follows the number of samples they take, so that a step costs the same throughout. No diffusion model
is involved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core import ranks
from usd.core.config import ConfigError, Schedule, Spec, component, option
from usd.core.console import say
from usd.core.registry import register
from usd.core.types import Render
from usd.data.pictures import contact_sheet, write_picture
from usd.data.transforms import Frame, write_transforms
from usd.data.view_set import refuse_outside
from usd.data.views import RayBatch, ViewBatch, ViewsData, views_summary
from usd.evaluation.gallery import rendered_rgba, validation_grid, write_contact_sheet
from usd.evaluation.views import ViewScore, score_picture, write_metrics
from usd.geometry import SignedDistance
from usd.losses import Loss, needs_of
from usd.losses.curvature import curvature
from usd.losses.eikonal import eikonal, eikonal_error, free_surface
from usd.losses.opacity import opaque, sparsity
from usd.losses.rays import (
    absolute_error,
    mask_error,
    normal_error,
    normal_trust,
    squared_error,
    trusted_mean,
)
from usd.losses.samples import z_variance
from usd.math.rng import BatchShare, use_share
from usd.renderer.neus_volume import NeusVolumeRenderer
from usd.system.scene import SceneConfig, SceneSystem
from usd.system.weighted_losses import Weights, read_weights

PICTURE_LOSSES = {"rgb_l1": 1.0, "rgb_mse": 10.0, "mask": 0.1, "normal": 0.0}
FIELD_LOSSES = {"eikonal": 0.1, "free_surface": 0.0}
RENDER_LOSSES: dict[str, Loss] = {
    "curvature": curvature,
    "sparsity": sparsity,
    "opaque": opaque,
    "z_variance": z_variance,
}
DEFAULT_WEIGHTS = {**PICTURE_LOSSES, **FIELD_LOSSES, **dict.fromkeys(RENDER_LOSSES, 0.0)}
LEAST_RAYS = 32


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

    NAME is rgb_l1, rgb_mse, mask, normal (against the pictures), eikonal, curvature, free_surface (of the distance),
    sparsity, opaque or z_variance (of what is rendered).
    """

    geometry: Spec = component("geometry", "implicit-sdf", "surface of the object")
    renderer: Spec = component(
        "renderer", "neus-volume-renderer", "renderer that makes pictures of the object"
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


@register("reconstruct-system", "reconstruct")
class ReconstructSystem(SceneSystem[ReconstructConfig, RayBatch, ViewBatch]):
    """Reconstruction from ``views-datamodule``. Test views are scored against pictures kept from training."""

    transient: ClassVar[frozenset[str]] = frozenset()
    shares_batches: ClassVar[bool] = True
    renderer: NeusVolumeRenderer
    n_rays: Tensor

    def build(self) -> None:
        """Build the scene. Raises ``ConfigError`` where its components do not fit each other."""
        super().build()
        self.register_buffer("n_rays", torch.tensor(self.config.first_rays))
        self.test_views: list[tuple[ViewBatch, Float[Tensor, "4 H W"]]] = []

    def build_renderer(self) -> NeusVolumeRenderer:
        """Build the renderer. Raises ``ConfigError`` for one that renders no signed distance."""
        config = self.config
        if self.material.n_features != self.geometry.n_features:
            raise ConfigError(
                f"system.geometry.n_feature_dims: is {self.geometry.n_features}; expected "
                f"{self.material.n_features}, what {config.material.name} takes"
            )
        renderer = super().build_renderer()
        if not isinstance(renderer, NeusVolumeRenderer):
            raise ConfigError(
                f"system.renderer_type: {config.renderer.name} renders no signed distance; "
                "expected neus-volume-renderer"
            )
        return renderer

    def loss_weights(self) -> Weights:
        """Return the weights of the losses of pictures, distances and renders."""
        return read_weights(self.config.loss, DEFAULT_WEIGHTS)

    # ------------------------------------------------------------------------------------------------- training

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
        refuse_outside(data.train_views, self.renderer.config.radius)
        if self.trainer.ckpt_path is None:
            self.geometry.initialize()
        super().on_fit_start()

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
        background = self.background.color(rays.directions, generator)
        extra = {name: loss for name, loss in RENDER_LOSSES.items() if name in active}
        needs = needs_of(extra.values()) | {"samples"} | ({"normal"} if "normal" in active else set())
        render = self.renderer.render_rays(rays.origins, rays.directions, background, needs, generator)
        losses = {
            **self._picture_losses(render, rays, background, active, step),
            **{name: loss(render) for name, loss in extra.items()},
        }
        return losses, render

    def _picture_losses(
        self,
        render: Render,
        rays: RayBatch,
        background: Float[Tensor, "R 3"],
        active: Mapping[str, float],
        step: int,
    ) -> dict[str, Tensor]:
        """Return the losses against the pictures, ray by ray."""
        out, losses = self.config.outliers, {}
        rgb, truth = render.rgb[0, :, 0].T, rays.over(background)
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
        error = ranks.averaged(ranks.mean((rgb - truth).square()))
        self.figures["psnr"] = float(-10 * error.clamp_min(1e-10).log10())
        return losses

    def _field_losses(
        self, render: Render, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the losses of distances, at the samples and at points anywhere."""
        if not {"eikonal", "free_surface"} & set(active):
            return {}
        assert isinstance(self.geometry, SignedDistance)
        radius = self.renderer.config.radius
        x = torch.rand(self.config.field_points, 3, generator=generator, device=self.device)
        field = self.geometry.distance_field((2 * x - 1) * radius, frozenset({"gradient"}))
        assert field.gradient is not None
        losses = {
            "eikonal": 0.5 * (eikonal(render) + eikonal_error(field.gradient)),
            "free_surface": free_surface(field.distance, self.config.free_surface_decay),
        }
        return {name: loss for name, loss in losses.items() if name in active}

    def _count(self, render: Render, rays: int, most: int) -> None:
        """Note figures, and set how many rays the next step takes."""
        assert render.samples is not None
        counted = torch.tensor(len(render.samples.t), device=self.device)
        taken, wanted = int(ranks.summed(counted)), self.config.samples_per_step
        self.figures |= {"rays": rays, "samples": taken, "sharpness": float(self.renderer.sharpness.detach())}
        if wanted is not None:
            now = 0.9 * rays + 0.1 * rays * wanted / max(taken, 1)
            self.n_rays.fill_(int(min(max(now, LEAST_RAYS), 2 * rays, most)))

    # ------------------------------------------------------------------------------------------------- pictures

    def validate(self, batch: ViewBatch, index: int) -> None:
        """Write ``it<step>-<index>.png``: the truth; colors, opacity, depth and normals as they are."""
        grid = validation_grid(self.render_views(batch.cameras, "depth", "normal"))
        truth = contact_sheet(batch.over().cpu(), columns=len(batch))
        gap = torch.ones_like(truth[:, :2])
        write_picture(self.save_dir / f"it{self.step}-{index}.png", torch.cat([truth, gap, grid], 1))

    def on_test_epoch_start(self) -> None:
        """Forget the views of an earlier test."""
        self.test_views = []

    @override
    def test(self, batch: ViewBatch, index: int) -> None:
        """Write the views of a batch as straight-alpha RGBA, ``it<step>-test/<index>.png``."""
        render = self.evaluation_views(batch.cameras)
        rgba = rendered_rgba(render)
        if not batch.views.masked:
            rgba = torch.cat([render.rgb.clamp(0, 1), torch.ones_like(render.opacity)], 1)
        for i, picture in enumerate(rgba):
            write_picture(self._test_folder() / f"{batch.first + i}.png", picture)
            self.test_views.append((single_view(batch, i), picture))

    def _test_folder(self) -> Path:
        """Return the folder of test views."""
        return self.save_dir / f"it{self.step}-test"

    def on_test_epoch_end(self) -> None:
        """Write cameras, a contact sheet (truth above), and ``metrics.json`` beside the views."""
        folder, views = self._test_folder(), self.test_views
        if not views:
            return
        write_transforms(
            folder / "transforms.json",
            [view.cameras.to("cpu") for view, _ in views],
            [f"{view.first}.png" for view, _ in views],
        )
        eight = views[:8]
        pictures = [view.views.rgba[0].cpu() for view, _ in eight] + [picture for _, picture in eight]
        write_contact_sheet(self.save_dir / f"{folder.name}.png", pictures, len(pictures), len(eight))
        self.log_scores(write_scores(folder, views))
        self.test_views = []


def single_view(batch: ViewBatch, index: int) -> ViewBatch:
    """Return one view of a batch."""
    return ViewBatch(batch.views.select([index]), batch.name, batch.first + index)


def write_scores(folder: Path, views: Sequence[tuple[ViewBatch, Float[Tensor, "4 H W"]]]) -> list[ViewScore]:
    """Write ``metrics.json``, rendered views against the truth; return the scores."""
    scores = {i: score_picture(picture, view.views.rgba[0].cpu()) for i, (view, picture) in enumerate(views)}
    frames = [Frame(view.cameras, view.views.names[0], None) for view, _ in views]
    write_metrics(folder / "metrics.json", frames, scores)
    return list(scores.values())
