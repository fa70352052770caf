"""Systems that are trained on given views and judged by views kept from training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.data.pictures import contact_sheet, write_picture
from usd.data.transforms import Frame, write_transforms
from usd.data.views import ViewBatch
from usd.evaluation.gallery import rendered_rgba, validation_grid, write_contact_sheet
from usd.evaluation.views import ViewScore, score_picture, write_metrics
from usd.system import B
from usd.system.scene import O, SceneSystem


class EvaluatedViews(SceneSystem[O, B, ViewBatch], Generic[O, B]):
    """Base of these systems: pictures of validation and test views beside the truth, and their scores."""

    test_views: list[tuple[ViewBatch, Float[Tensor, "4 H W"]]]

    def build(self) -> None:
        """Build the scene."""
        super().build()
        self.test_views = []

    def validate(self, batch: ViewBatch, index: int) -> None:
        """Write ``it<step>-<index>.png``: the truth; colors, opacity, depth and, if there are any, normals."""
        needs = ["depth", "normal"] if self._has_normals() else ["depth"]
        render = self.render_views(batch.cameras, *needs)
        if not batch.views.masked:  # what is behind the object is in the pictures, and so it is shown
            render = replace(render, foreground=render.rgb * render.opacity)
        truth = contact_sheet(batch.over().cpu(), columns=len(batch))
        gap = torch.ones_like(truth[:, :2])
        picture = torch.cat([truth, gap, validation_grid(render)], 1)
        write_picture(self.save_dir / f"it{self.step}-{index}.png", picture)

    def _has_normals(self) -> bool:
        """Return whether the geometry's configuration says how normals are made."""
        return getattr(self.geometry.config, "normal_type", None) is not None

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
    scores = {i: score_view(picture, view) for i, (view, picture) in enumerate(views)}
    frames = [Frame(view.cameras, view.views.names[0], None) for view, _ in views]
    write_metrics(folder / "metrics.json", frames, scores, "truth above, render below")
    return list(scores.values())


def score_view(picture: Float[Tensor, "4 H W"], view: ViewBatch) -> ViewScore:
    """Return the score of a rendered view; its PSNR is that of the pixels that the truth has a source for."""
    truth = view.views.picture(0)
    if view.views.valid is None:
        return score_picture(picture, truth)
    valid = view.views.valid.view(0)[..., 0]
    score = score_picture(torch.where(valid, picture, truth), truth)
    # The others were given no error; the mean is one over fewer pixels.
    share = max(float(valid.float().mean()), 1e-6)
    return replace(score, psnr=score.psnr + 10 * math.log10(share))
