"""An exported file beside the object it was made of, seen by the same cameras."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from usd.core.random import generator
from usd.core.types import Render
from usd.data import Data
from usd.data.random_camera import CameraBatch
from usd.exporter import Exporter
from usd.math.camera import join_cameras


def compare_with_renders(
    exporter: Exporter,
    files: Sequence[Path],
    views: Sequence[CameraBatch],
    render: Callable[[CameraBatch], Render],
) -> str:
    """Return in a line how far exported files are from renders, over white, of the same views; empty for no views."""
    if not views:
        return ""
    renders = [render(view) for view in views]
    truth = [r.foreground + 1 - r.opacity for r in renders if r.foreground is not None]
    cameras = join_cameras([view.cameras for view in views])
    return exporter.compare(files, cameras, torch.cat(truth))


def training_views(
    exporter: Exporter, data: Data, step: int, device: "torch.device | str"
) -> list[CameraBatch]:
    """Return as many single training views as an exporter wants to compare in, of the size it wants."""
    wanted = exporter.comparison
    batches: list[CameraBatch] = []
    while wanted is not None and sum(map(len, batches)) < wanted.views:
        batch = data.batch(step, generator("cpu", data.seed, "export", len(batches)))
        assert isinstance(batch, CameraBatch)  # what a distillation system computes with
        batches.append(CameraBatch(batch.cameras.resize(wanted.size, wanted.size)).to(device))
    views = [batch.view(index) for batch in batches for index in range(len(batch))]
    return views if wanted is None else views[: wanted.views]
