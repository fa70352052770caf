"""``view-pictures-datamodule``: whole pictures of given views, for what is rendered whole, such as Gaussian splats."""

from dataclasses import dataclass

import torch
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.views import GivenViews, GivenViewsConfig, ViewBatch


@dataclass(frozen=True)
class ViewPicturesConfig(GivenViewsConfig):
    """Options of the pictures to reconstruct from."""

    views_per_batch: int = option(1, "pictures a training step compares with", ge=1, le=1024)


@register("view-pictures-datamodule")
class ViewPictures(GivenViews[ViewPicturesConfig]):
    """Whole pictures, drawn without putting back within a batch."""

    @override
    def batch(self, step: int, generator: torch.Generator) -> ViewBatch:
        """Draw the pictures of a step."""
        views = self.train_views
        count = min(self.config.views_per_batch, len(views))
        chosen = torch.randperm(len(views), generator=generator)[:count]
        return ViewBatch(views.select(chosen.tolist()), "train", 0)
