"""``views-datamodule``: random rays through given views, for reconstruction; views held out of them, to judge it by.

The views of a folder (or a toybox seed) come from ``view_readers``. A training batch is a pure function of
(seed, step): ``n_rays`` rays, a share of them through pixels about the object. ``batch.first(k)`` is a batch of k of
them, drawn alike, so that a system may change its number of rays without changing what it draws.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeVar, override

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.data import Data, Split
from usd.data.background_decoding import spread_order
from usd.data.picture_cache import AT_ONCE
from usd.data.pictures import over
from usd.data.pixel_array import unit_rgba
from usd.data.view_readers import ViewOptions, read_views
from usd.data.view_set import ViewSet, refuse_useless
from usd.math.camera import Cameras


@dataclass(frozen=True)
class RayBatch:
    """R rays and what is seen along them. World coordinates; ``directions`` are unit vectors.

    ``rgb`` is the object's own color (straight, undefined where ``mask`` is 0) and ``mask`` the share of the pixel
    that it covers: over a background b the pixel shows ``rgb * mask + b * (1 - mask)``. ``mask`` is None when nothing
    is known about it. ``normals`` are unit vectors, 0 where unknown; None if no view has any. ``weight`` is how far
    the ray's view is trusted, ``view`` its index. ``depth`` is the distance along the ray, 0 where unknown; None if no
    view has any.
    """

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    rgb: Float[Tensor, "R 3"]
    mask: Float[Tensor, "R"] | None
    normals: Float[Tensor, "R 3"] | None
    weight: Float[Tensor, "R"]
    view: Int[Tensor, "R"]
    depth: Float[Tensor, "R"] | None = None

    def __len__(self) -> int:
        return self.origins.shape[0]

    def to(self, device: "torch.device | str") -> "RayBatch":
        """Return the rays on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def first(self, count: int) -> "RayBatch":
        """Return the first ``count`` rays: they are as random as all."""
        return self.rows(0, count)

    def rows(self, first: int, end: int) -> "RayBatch":
        """Return the rays from ``first`` to before ``end``."""
        return self._each(lambda tensor: tensor[first:end])

    def over(self, background: Float[Tensor, "#R 3"]) -> Float[Tensor, "R 3"]:
        """Return what the pixels show in front of a color."""
        return (
            self.rgb
            if self.mask is None
            else self.rgb * self.mask[:, None] + background * (1 - self.mask[:, None])
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "RayBatch":
        mask = None if self.mask is None else change(self.mask)
        normals = None if self.normals is None else change(self.normals)
        depth = None if self.depth is None else change(self.depth)
        return RayBatch(
            change(self.origins),
            change(self.directions),
            change(self.rgb),
            mask,
            normals,
            change(self.weight),
            change(self.view),
            depth,
        )


@dataclass(frozen=True)
class ViewBatch:
    """Whole views to judge by. ``first`` is the index of the first of them in its split."""

    views: ViewSet
    name: str
    first: int

    @property
    def cameras(self) -> Cameras:
        """The cameras of the views."""
        return self.views.cameras

    def over(self, background: float = 1.0) -> Float[Tensor, "V 3 H W"]:
        """Return the pictures in front of a plain gray level."""
        return over(self.views.rgba, background)

    def to(self, device: "torch.device | str") -> "ViewBatch":
        """Return the views on another device."""
        return replace(self, views=self.views.to(device))

    def __len__(self) -> int:
        return len(self.views)


@dataclass(frozen=True)
class GivenViewsConfig(ViewOptions):
    """Options of the views to reconstruct from, and of those held out to judge by."""

    path: str = option(
        "",
        "a folder of views with cameras, a trial folder, the output of another system, or a toybox seed",
        path=True,
    )
    eval_path: str | None = option(
        None,
        "views that results are judged by, in any layout; null: those held out, or a few of the training views",
        path=True,
    )
    hold_out: int = option(0, "views kept from training for the test, evenly chosen", ge=0)
    hold_out_every: int = option(
        0, "keep every so many-th view, from the first on, from training for the test; 0: none", ge=0
    )
    view_weights: tuple[float, ...] = option(
        (), "weight of each view, one number a view; empty: as the reader says, mostly 1", ge=0
    )
    drop_views: tuple[int, ...] = option((), "indices of views to leave out entirely", ge=0)
    n_val_views: int = option(
        4, "views of a validation grid, evenly chosen from those of the test", ge=1, le=1000
    )


@dataclass(frozen=True)
class ViewsConfig(GivenViewsConfig):
    """Options of the rays of views."""

    n_rays: int = option(2048, "number of rays a batch", ge=1, le=2**24)
    object_share: float = option(
        0.5,
        "share of the rays drawn from pixels of the object and its surroundings; the rest from anywhere",
        ge=0,
        le=1,
    )
    margin: int = option(8, "pixels about the silhouette that count as its surroundings", ge=0, le=16384)
    use_normals: bool = option(True, "whether the views' normals are used where there are any")
    depth_share: float = option(
        0.0,
        "share of the rays drawn through points whose depth the layout knows (COLMAP's), for lambda_depth",
        ge=0,
        le=1,
    )


G = TypeVar("G", bound=GivenViewsConfig, default=GivenViewsConfig, covariant=True)


class GivenViews(Data[G]):
    """Views of a file or folder. ``train_views`` and ``test_views`` are read on first use."""

    def __init__(self, config: G) -> None:
        super().__init__(config)
        if not config.path:
            raise ConfigError(
                "data.path: required but not given; expected a folder of views, or a toybox seed"
            )
        self._split: tuple[ViewSet, ViewSet] | None = None

    @property
    def train_views(self) -> ViewSet:
        """The views to reconstruct from."""
        return self._views()[0]

    @property
    def test_views(self) -> ViewSet:
        """The views to judge by."""
        return self._views()[1]

    def _views(self) -> tuple[ViewSet, ViewSet]:
        if self._split is None:
            self._split = open_views(self.config)
        return self._split

    def eval_batches(self, split: Split) -> list[ViewBatch]:
        """Return validation views in one batch; test views one by one."""
        views = self.test_views
        if split == "val":
            return [ViewBatch(views.select(spread_indices(len(views), self.config.n_val_views)), "val", 0)]
        return [ViewBatch(views.select([i]), "test", i) for i in range(len(views))]


@register("views-datamodule")
class ViewsData(GivenViews[ViewsConfig]):
    """Rays of given views."""

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__(config)
        self._pool: RayPool | None = None

    def refuse_uneven(self, processes: int) -> None:
        """Raise ``ConfigError`` where a process would be without any ray."""
        if self.config.n_rays < processes:
            raise ConfigError(f"data.n_rays: {self.config.n_rays} is too few for {processes} processes")

    @override
    def batch(self, step: int, generator: torch.Generator) -> RayBatch:
        """Draw the rays of a step."""
        return self.rays(self.config.n_rays, generator, step)

    def rays(self, count: int, generator: torch.Generator, step: int | None = None) -> RayBatch:
        """Draw ``count`` random rays of the training views; all randomness from ``generator`` (a CPU generator).

        The first steps of many views without masks draw from fewer of them: see ``early_views``.
        """
        if self._pool is None:
            self._pool = RayPool(
                self.train_views, self.config.margin, self.config.use_normals, self.config.depth_share
            )
        return self._pool.draw(count, self.config.object_share, generator, step)


def open_views(config: GivenViewsConfig) -> tuple[ViewSet, ViewSet]:
    """Return views to train on and views to judge by. Raises UserError for views an object cannot be made of."""
    views = with_weights(read_views(config.path, config), config)
    kept = [i for i in range(len(views)) if i not in config.drop_views]
    views = views.select(kept)
    if config.eval_path is not None:
        test = read_views(config.eval_path, config, "data.eval_path")
        return _usable(views, config), test
    held = held_out_indices(len(views), config)
    train = _usable(views.select([i for i in range(len(views)) if i not in held]), config)
    return train, views.select(held) if held else train


def _usable(views: ViewSet, config: GivenViewsConfig) -> ViewSet:
    """Return the views. Raises ``UserError`` for those an object, or a scene around the cameras, cannot be made of."""
    return refuse_useless(views, f"data.path: {config.path}", one_object=config.frame != "cameras")


def held_out_indices(count: int, config: GivenViewsConfig) -> list[int]:
    """Return indices of the views that are kept from training. Raises ``ConfigError`` where too few are left."""
    every = config.hold_out_every
    if every and config.hold_out:
        raise ConfigError("data.hold_out_every: is given beside data.hold_out; expected one of the two")
    held = list(range(0, count, every)) if every else spread_indices(count, config.hold_out)
    if count - len(held) < 2 <= count:
        key = f"data.hold_out_every: {every}" if every else f"data.hold_out: {config.hold_out}"
        raise ConfigError(
            f"{key} of {count} views leaves {count - len(held)}; expected at least 2 to reconstruct from"
        )
    return held


def with_weights(views: ViewSet, config: GivenViewsConfig) -> ViewSet:
    """Return the views with the configured weights, and drops that exist."""
    if config.view_weights and len(config.view_weights) != len(views):
        raise ConfigError(
            f"data.view_weights: has {len(config.view_weights)} values; expected {len(views)}, one a view"
        )
    for index in config.drop_views:
        if index >= len(views):
            raise ConfigError(
                f"data.drop_views: {index} is out of range; expected indices below {len(views)}"
            )
    return replace(views, weights=torch.tensor(config.view_weights)) if config.view_weights else views


def spread_indices(count: int, wanted: int) -> list[int]:
    """Return ``wanted`` indices below ``count`` (at most all), the middles of as many equal stretches."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


EARLY_VIEWS, MORE_VIEWS = AT_ONCE, 32
"""Views that the first step draws from, and those that come with each further step."""


def early_views(count: int, step: int | None) -> int:
    """Return how many of ``count`` views a step draws from, so that training begins while pictures are decoded.

    It depends on the step alone: a training is the same whether its pictures had been decoded before or not.
    """
    return count if step is None else min(count, EARLY_VIEWS + MORE_VIEWS * step)


class RayPool:
    """All pixels of some views, ready to draw from. They stay bytes; those that are drawn become floats."""

    def __init__(self, views: ViewSet, margin: int, normals: bool, depth_share: float = 0.0) -> None:
        self.views, self.near = views, near_object(views, margin)
        self.count = len(views) * views.height * views.width
        known = views.normals if normals else None
        self.normals = None if known is None else known.permute(0, 2, 3, 1)
        self.depth_share = depth_share if views.points is not None and len(views.points) else 0.0
        self.order = torch.tensor(spread_order(len(views)))

    def draw(
        self, count: int, object_share: float, generator: torch.Generator, step: int | None = None
    ) -> RayBatch:
        """Draw independent pixels, each about the object with probability ``object_share``.

        A share of them goes through points whose depth is known, where there are any. Without masks, whose pictures
        were all looked at, a step draws from its ``early_views``.
        """
        soon = len(self.views) if self.views.masked else early_views(len(self.views), step)
        anywhere = torch.randint(self.count, (count,), generator=generator)
        about = self.near.pixels(torch.randint(len(self.near), (count,), generator=generator))
        chosen = torch.rand(count, generator=generator) < object_share
        index = self._among(soon, torch.where(chosen, about, anywhere))
        if not self.depth_share:
            return self.at(index)
        return self._with_points(soon, index, generator)

    def _among(self, soon: int, index: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        """Return pixels of the first ``soon`` views of the order in the place of those of other views."""
        if soon == len(self.views):
            return index
        size = self.views.height * self.views.width
        return self.order[index // size % soon] * size + index % size

    def _with_points(self, soon: int, index: Int[Tensor, "R"], generator: torch.Generator) -> RayBatch:
        """Return rays of which a share goes through the pixels of points, with these points' depths."""
        points = self.views.points
        assert points is not None
        drawn = torch.randint(len(points), (len(index),), generator=generator)
        through = torch.rand(len(index), generator=generator) < self.depth_share
        through &= torch.isin(points.view[drawn], self.order[:soon])
        x, y = points.pixel[drawn].floor().long().unbind(-1)
        x, y = x.clamp(0, self.views.width - 1), y.clamp(0, self.views.height - 1)
        there = (points.view[drawn] * self.views.height + y) * self.views.width + x
        rays = self.at(torch.where(through, there, index))
        known = torch.zeros(len(index)) if rays.depth is None else rays.depth
        return replace(rays, depth=torch.where(through, points.depth[drawn], known))

    def at(self, index: Int[Tensor, "R"]) -> RayBatch:
        """Return the rays of pixels by their number: views one after the other, row by row."""
        views, size = self.views, self.views.height * self.views.width
        view, rest = index // size, index % size
        x, y = rest % views.width, rest // views.width
        origins, directions = views.cameras.rays_at(view, x, y)
        pixel, weight = unit_rgba(views.pictures.at(view, y, x)), views.weights[view]
        if views.valid is not None:  # a pixel without a source teaches nothing
            weight = weight * views.valid.at(view, y, x)[:, 0]
        depth = None if views.depths is None else views.depths.at(view, y, x)[:, 0].float() * views.depth_unit
        return RayBatch(
            origins,
            directions,
            pixel[:, :3],
            pixel[:, 3] if views.masked else None,
            None if self.normals is None else self.normals[view, y, x],
            weight,
            view,
            depth,
        )


@dataclass(frozen=True)
class PixelBoxes:
    """The pixels of a box in each of V pictures, numbered one box after the other, row by row.

    ``top``, ``left``, ``rows`` and ``columns`` are the boxes; the pictures have ``height`` x ``width`` pixels.
    """

    top: Int[Tensor, "V"]
    left: Int[Tensor, "V"]
    rows: Int[Tensor, "V"]
    columns: Int[Tensor, "V"]
    height: int
    width: int

    def __len__(self) -> int:
        return int((self.rows * self.columns).sum())

    def pixels(self, number: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        """Return where pixels of the boxes are among those of all pictures."""
        ends = (self.rows * self.columns).cumsum(0)
        view = torch.searchsorted(ends, number, right=True)
        within = number - (ends - self.rows * self.columns)[view]
        y = self.top[view] + within // self.columns[view]
        x = self.left[view] + within % self.columns[view]
        return (view * self.height + y) * self.width + x


def near_object(views: ViewSet, margin: int) -> PixelBoxes:
    """Return the pixels within ``margin`` of the silhouettes' bounding boxes; all where there are no masks."""
    height, width = views.height, views.width
    boxes = [
        _box_of(views.alpha(i), margin) if views.masked else (0, 0, height, width) for i in range(len(views))
    ]
    top, left, rows, columns = torch.tensor(boxes).reshape(-1, 4).unbind(-1)
    return PixelBoxes(top, left, rows, columns, height, width)


def _box_of(alpha: Float[Tensor, "H W"], margin: int) -> tuple[int, int, int, int]:
    """Return first row and column, rows and columns of what is about a silhouette; nothing of an empty one."""
    rows, columns = torch.nonzero(alpha > 0.02, as_tuple=True)
    if not len(rows):
        return 0, 0, 0, 0
    top, left = max(int(rows.min()) - margin, 0), max(int(columns.min()) - margin, 0)
    bottom, right = int(rows.max()) + margin + 1, int(columns.max()) + margin + 1
    return top, left, min(bottom, len(alpha)) - top, min(right, alpha.shape[1]) - left


def views_summary(views: ViewSet) -> str:
    """Return one line for the log: how many views, of what size, and everything that was assumed."""
    kind = "pinhole" if views.cameras.span_y is None else "orthographic"
    return "; ".join([f"{len(views)} {kind} views of {views.width} x {views.height} pixels", *views.notes])
