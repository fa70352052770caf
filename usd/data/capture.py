"""A capture before its pictures are read: the files of each view, its lens and its pose; and the way to its pixels.

Layouts of cameras (``view_readers``) read into one type, ``Capture``. Each view then becomes pixels by a
``PicturePlan`` that looks at no other view: decoded as stored, cut out by its mask, undistorted, resampled. Views of
other sizes or shapes than the largest are filled up at the right and at the bottom, which leaves every lens as it is;
pixels there, and those that undistortion found no source for, are not ``valid``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.errors import UserError, listing
from usd.data.depth_maps import DepthFile, depth_along_rays, read_depth_file
from usd.data.lens import Intrinsics, refuse_shape, undistort, without_distortion
from usd.data.masks import MaskPolicy, MaskRule, mask_rule
from usd.data.picture_cache import PixelLayout, ViewBytes, store_pixels
from usd.data.pictures import (
    OVERSAMPLING,
    picture_header,
    read_picture,
    read_rgb_bytes,
    resize_rgba,
    same_shape,
    to_bytes,
)
from usd.data.view_set import SparsePoints, ViewSet
from usd.math.camera import Cameras, pinhole_cameras

FAR_FROM_ORIGIN = 1e3
"""Worlds whose cameras are so many times further from the origin than from each other are centered before rounding."""

BENT_OVERSAMPLING = 2
"""Pictures to be undistorted are read at this many times the size that they will be resampled to, at most."""


@dataclass(frozen=True)
class CapturedView:
    """One view's files, lens and camera-to-world matrix (OpenGL axes, 64-bit).

    ``span_y`` is the picture's height in world units of an orthographic camera, of whose lens only the size counts.
    """

    name: str
    picture: Path
    lens: Intrinsics
    c2w: Float[Tensor, "4 4"]
    mask: Path | None = None
    depth: DepthFile | None = None
    span_y: float | None = None

    @property
    def located(self) -> bool:
        """True where pose and lens are finite."""
        return bool(torch.isfinite(self.c2w).all()) and all(map(math.isfinite, self.lens.numbers))


def lost_note(names: Sequence[str], total: int) -> list[str]:
    """Return the note on frames that have no camera, by their names; none where there are no such frames."""
    return [f"{len(names)} of {total} frames have no camera and are left out: {listing(names, 6)}"] * bool(
        names
    )


@dataclass(frozen=True)
class TrackedPoints:
    """Points of a sparse reconstruction, once for each view that they were found in: the view's number, and where."""

    view: Int[Tensor, "M"]
    xyz: Float[Tensor, "M 3"]

    def select(self, views: Sequence[int], count: int) -> "TrackedPoints":
        """Return the points of some of ``count`` views, which are numbered anew."""
        number = torch.full((count,), -1, dtype=torch.long)
        number[list(views)] = torch.arange(len(views))
        kept = number[self.view] >= 0
        return TrackedPoints(number[self.view[kept]], self.xyz[kept])


@dataclass(frozen=True)
class Capture:
    """Views of a real or rendered scene. ``notes`` say what was assumed and left out.

    ``arbitrary`` is whether the world has no meaning, as structure from motion leaves it. ``sphere`` is the center and
    radius of the object where the layout says them.
    """

    views: tuple[CapturedView, ...]
    notes: tuple[str, ...] = ()
    arbitrary: bool = False
    points: TrackedPoints | None = None
    sphere: tuple[Float[Tensor, "3"], float] | None = None

    def noting(self, *notes: str) -> "Capture":
        """Return the capture with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def located(self, where: str) -> "Capture":
        """Return the capture without the views whose camera is not finite: where a program lost its way.

        Raises ``UserError`` where none is left.
        """
        kept = [row for row, view in enumerate(self.views) if view.located]
        lost = [view.name for view in self.views if not view.located]
        if not kept:
            raise UserError(
                f"{where}: none of its {len(self.views)} cameras is finite; expected some that are"
            )
        return replace(
            self,
            views=tuple(self.views[row] for row in kept),
            points=self.points and self.points.select(kept, len(self.views)),
            notes=(*self.notes, *lost_note(lost, len(self.views))),
        )

    def centered(self) -> "Capture":
        """Return the capture in a world with the mean camera at the origin, where 32 bits would not resolve it.

        Coordinates of maps (UTM) are millions of meters.
        """
        positions = torch.stack([view.c2w[:3, 3] for view in self.views])
        middle = positions.mean(0)
        spread = float((positions - middle).norm(dim=-1).max())
        if float(middle.norm()) <= FAR_FROM_ORIGIN * max(spread, 1e-12) or not spread:
            return self
        note = "world centered: the cameras are " + f"{float(middle.norm()):.3g} from its origin"
        return replace(
            self,
            views=tuple(replace(view, c2w=_moved(view.c2w, -middle)) for view in self.views),
            points=None if self.points is None else replace(self.points, xyz=self.points.xyz - middle),
            sphere=None if self.sphere is None else (self.sphere[0] - middle, self.sphere[1]),
            notes=(*self.notes, note),
        )


def nowhere() -> Float[Tensor, "4 4"]:
    """Return the pose of a camera of which nobody knows where it is: ``Capture.located`` leaves its view out."""
    return torch.full((4, 4), torch.nan, dtype=torch.float64)


def _moved(c2w: Float[Tensor, "4 4"], by: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    moved = c2w.clone()
    moved[:3, 3] += by
    return moved


# ------------------------------------------------------------------------------------------------------- the pixels


@dataclass(frozen=True)
class ViewPixels:
    """The pixels of a view: straight RGBA; those with a source (None: all); depths along the rays, 0 where unknown."""

    rgba: Float[Tensor, "4 H W"]
    valid: Bool[Tensor, "H W"] | None
    depth: Float[Tensor, "H W"] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PicturePlan:
    """The way from one view's files to its pixels, which depends on no other view.

    ``stored`` is the picture's size (width, height) as it will be read, ``upright`` whether it is turned for that,
    ``size`` the longest side after resampling.
    """

    view: CapturedView
    rule: MaskRule
    size: int | None
    stored: tuple[int, int]
    upright: bool
    where: str

    @classmethod
    def of(cls, view: CapturedView, rule: MaskRule, size: int | None, where: str) -> "PicturePlan":
        """Return the plan, from the file's header. Raises ``UserError`` where it has another shape than its camera."""
        header = picture_header(view.picture, where)
        shape = view.lens.width, view.lens.height
        upright = not same_shape(header.size, shape) and same_shape(header.upright_size, shape)
        stored = header.upright_size if upright else header.size
        refuse_shape(stored, view.lens, f"{where}: {view.name}")
        return cls(view, rule, size, stored, upright, where)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        width, height = self.stored
        if self.size is None:
            return height, width
        longest = max(height, width)
        return max(1, round(height * self.size / longest)), max(1, round(width * self.size / longest))

    @property
    def lens(self) -> Intrinsics:
        """The pinhole that the pixels are seen through, for their size."""
        return without_distortion(self.view.lens).resized(*self.shape)

    @property
    def bent(self) -> bool:
        """True where the picture has to be undistorted."""
        return self.view.lens.distorted and self.view.span_y is None

    @property
    def key(self) -> str:
        """A text of all that the pixels depend on: the files as they are now, and the steps applied to them."""
        depth = self.view.depth
        mask = self.view.mask if self.rule.policy == "files" else None
        used = [self.view.picture, mask, None if depth is None else depth.path]
        found = [(str(file.absolute()), *_stamp(file)) for file in used if file is not None]
        what = (self.view.lens, self.view.span_y, depth, self.rule, self.size, self.stored, self.upright)
        return repr((found, what))

    def bytes(self, alpha: bool) -> ViewBytes:
        """Return the pixels as they are kept; ``alpha`` is whether it means anything. Raises ``UserError``."""
        as_stored = self.shape == self.stored[::-1] and not self.bent and self.view.depth is None
        if as_stored and not alpha and (read := read_rgb_bytes(self.view.picture, self.where, self.upright)):
            return ViewBytes(read[0], None, None, read[1])
        made = self.pixels()
        return ViewBytes(
            to_bytes(made.rgba if alpha else made.rgba[:3]),
            None if made.valid is None else made.valid.numpy(),
            None if made.depth is None else made.depth.where(made.depth < 6e4, 0).half().numpy(),
            made.notes,
        )

    def pixels(self) -> ViewPixels:
        """Decode, cut out, undistort and resample the picture; its depth likewise. Raises ``UserError``."""
        bent = self.bent
        longest = None if self.size is None else self.size * (BENT_OVERSAMPLING if bent else OVERSAMPLING)
        read = read_picture(self.view.picture, self.where, self.upright, longest)
        rgba, valid = self.rule.cut(read.rgba, self.view.name, self.view.mask, self.where), None
        if bent:
            rgba, valid = undistort(rgba, self.view.lens, f"{self.where}: {self.view.name}")
        notes = tuple(note for note in read.notes if not note.startswith("reduced"))
        rgba = resize_rgba(rgba, *self.shape)
        return ViewPixels(rgba, _shrunk(valid, self.shape), self._depth(), notes)

    def _depth(self) -> Float[Tensor, "H W"] | None:
        if self.view.depth is None:
            return None
        return depth_along_rays(read_depth_file(self.view.depth, self.where), self.view.lens, self.lens)


def _stamp(file: Path) -> tuple[int, int]:
    """Return size and time of change of a file."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _shrunk(valid: Bool[Tensor, "h w"] | None, shape: tuple[int, int]) -> Bool[Tensor, "H W"] | None:
    """Return which pixels are made of valid ones only; None where all are."""
    if valid is None or bool(valid.all()):
        return None
    if valid.shape == shape:
        return valid
    share = torch.nn.functional.interpolate(valid[None, None].float(), shape, mode="bilinear", antialias=True)
    return share[0, 0] > 0.999


# ------------------------------------------------------------------------------------------------------- all of them


def picture_plans(
    capture: Capture, masks: MaskPolicy, size: int | None, where: str
) -> tuple[tuple[PicturePlan, ...], bool, list[str]]:
    """Return a plan for each view, whether alpha means anything, and what was assumed about masks."""
    files = [(view.name, view.picture, view.mask) for view in capture.views]
    rule, notes = mask_rule(files, masks, where)
    plans = tuple(PicturePlan.of(view, rule, size, where) for view in capture.views)
    return plans, rule.known, notes


def assemble(capture: Capture, masks: MaskPolicy, size: int | None, where: str) -> ViewSet:
    """Read a capture's pictures into views. Raises ``UserError`` with file and reason."""
    plans, known, notes = picture_plans(capture, masks, size, where)
    height, width = (max(plan.shape[axis] for plan in plans) for axis in (0, 1))
    cameras = capture_cameras(capture.views, plans, height, width, where)
    shapes = {plan.shape for plan in plans}
    layout = PixelLayout(
        len(plans),
        height,
        width,
        4 if known else 3,
        any(plan.bent for plan in plans) or len(shapes) > 1,
        any(view.depth is not None for view in capture.views),
    )
    stored = store_pixels(lambda i: plans[i].bytes(known), layout, [plan.key for plan in plans], where)
    small = [plan for plan in plans if size is not None and max(plan.stored) < size]
    enlarged = (
        [f"{len(small)} of {len(plans)} pictures enlarged to data.size, {size} pixels"] if small else []
    )
    filled = [f"pictures of {len(shapes)} sizes, filled up to {width} x {height} pixels"]
    names = tuple(view.name for view in capture.views)
    remarks = (*capture.notes, *stored.notes, *(filled if len(shapes) > 1 else ()), *enlarged, *notes)
    return ViewSet(
        stored.colors,
        cameras,
        names,
        torch.ones(len(names)),
        notes=remarks,
        masked=known,
        valid=stored.valid,
        depths=stored.depths,
        points=None if capture.points is None else seen_points(capture.points, capture.views, plans),
    )


def seen_points(
    points: TrackedPoints, views: Sequence[CapturedView], plans: Sequence[PicturePlan]
) -> SparsePoints:
    """Return where in their views points stand, and how far away, of those that are inside of the picture."""
    poses = torch.stack([view.c2w for view in views])[points.view]
    local = torch.einsum("mji,mj->mi", poses[:, :3, :3], points.xyz - poses[:, :3, 3])
    lenses = torch.tensor([plan.lens.numbers for plan in plans], dtype=torch.float64)[points.view]
    size = torch.tensor([plan.shape[::-1] for plan in plans], dtype=torch.float64)[points.view]
    # Our cameras look along -z, and pictures count downwards.
    plane = local[:, :2] * local.new_tensor([1, -1]) / -local[:, 2:]
    pixel = lenses[:, 2:] + lenses[:, :2] * plane
    seen = (local[:, 2] < 0) & (pixel >= 0).all(1) & (pixel < size).all(1)
    return SparsePoints(points.view[seen], pixel[seen].float(), local[seen].norm(dim=1).float())


def capture_cameras(
    views: Sequence[CapturedView], plans: Sequence[PicturePlan], height: int, width: int, where: str
) -> Cameras:
    """Return the cameras of pictures that are filled up to one size. Raises ``UserError`` where kinds are mixed."""
    poses = torch.stack([view.c2w for view in views])
    spans = [view.span_y for view in views if view.span_y is not None]
    if spans:
        if len(spans) < len(views):
            raise UserError(f"{where}: has pinhole and orthographic cameras; expected one kind")
        if len({plan.shape for plan in plans}) > 1:
            raise UserError(f"{where}: orthographic views of different size; expected one size")
        numbers = torch.tensor(spans, dtype=torch.float32)
        return Cameras(poses.float(), torch.zeros(len(views)), height, width, numbers)
    lenses = [view.lens for view in views]
    if all(lens.square and plan.shape == (height, width) for lens, plan in zip(lenses, plans)):
        # A pinhole with square pixels keeps its field of view where its picture is resampled to whole pixels.
        fov_y = torch.tensor([2 * math.atan(0.5 * lens.height / lens.fy) for lens in lenses])
        return Cameras(poses.float(), fov_y, height, width)
    numbers = torch.tensor([plan.lens.numbers for plan in plans], dtype=torch.float64)
    made = pinhole_cameras(poses, numbers, height, width)
    lens = None if made.intrinsics is None else made.intrinsics.float()
    return replace(made, c2w=poses.float(), fov_y=made.fov_y.float(), intrinsics=lens)
