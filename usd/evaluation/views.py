"""Rendered views against ground-truth views: the table that ends up in metrics.json."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from usd.data.pictures import over, read_rgba, resize_rgba, write_whole
from usd.data.transforms import Frame
from usd.evaluation.metrics import mask_iou, psnr, ssim


@dataclass(frozen=True)
class ViewScore:
    """One view's distance to the truth; PSNR in dB over white."""

    psnr: float
    ssim: float
    mask_iou: float


def score_picture(rgba: Float[Tensor, "4 H W"], truth: Float[Tensor, "4 h w"]) -> ViewScore:
    """Return how far one straight-alpha picture is from the truth, both over white.

    The truth is resampled when sizes differ.
    """
    truth = resize_rgba(truth, rgba.shape[-2], rgba.shape[-1])
    a, b = over(rgba)[None], over(truth)[None]
    return ViewScore(psnr(a, b).item(), ssim(a, b).item(), mask_iou(rgba[None, 3:], truth[None, 3:]).item())


def score_view(rendered: Path, truth: Path) -> ViewScore:
    """Return how far a file is from another one, so that anybody can repeat the comparison."""
    return score_picture(read_rgba(rendered, "rendered view"), read_rgba(truth, "ground truth"))


def mean_score(scores: Sequence[ViewScore]) -> ViewScore:
    """Return means over views; a view that is exactly right counts as 100 dB so that the mean stays finite."""
    count = len(scores)
    # fsum: the mean of many views must not depend on their order.
    return ViewScore(
        math.fsum(min(s.psnr, 100.0) for s in scores) / count,
        math.fsum(s.ssim for s in scores) / count,
        math.fsum(s.mask_iou for s in scores) / count,
    )


def write_metrics(
    path: str | Path, frames: Sequence[Frame], scores: Mapping[int, ViewScore], sheet: str = ""
) -> Path:
    """Write metrics.json: means on top, then one entry a view.

    ``sheet`` is the order of the rows of the picture that shows views beside their truth, where there is one.
    """
    views = [{"file_path": frames[index].file_path, **_finite(score)} for index, score in scores.items()]
    mean = asdict(mean_score(list(scores.values())))
    content = {**mean, "views": len(views), "protocol": "over white, per view then mean", "per_view": views}
    content |= {"sheet": sheet} if sheet else {}
    # Replaced at once: whoever reads the file during a run sees the whole of the one before.
    with write_whole(path) as file:
        file.write_text(json.dumps(content, indent=1))
    return Path(path)


def _finite(score: ViewScore) -> dict[str, float]:
    return {key: min(value, 100.0) for key, value in asdict(score).items()}
