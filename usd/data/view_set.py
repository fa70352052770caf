"""A set of views: pictures and the cameras that took them, whatever files they came from.

One type comes out of every reader. Its promises: colors are straight (not multiplied by alpha); all pictures have one
size; cameras are OpenGL cameras in a world with +z up and the object about the origin; normals are unit vectors in that
world. What a file did not say and the reader had to assume stands as a sentence in ``notes``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.config import UserError
from usd.data.pictures import resize_rgba
from usd.data.pixel_array import PixelArray, unit_rgba
from usd.math.camera import Cameras, rotation_about_z

MEETING = 0.01
"""Least eigenvalue of the projections across the lines of sight for which these are said to meet: about 8 degrees."""
PARALLEL = 1e-4
"""Likewise that below which only the size of silhouettes can tell how far away the object is: about 0.8 degrees."""

SIGHT_RAYS = 65536
"""Pixels of a silhouette that are looked at, at most, to find where the object is."""
LATTICE = 32
"""Rows and columns of a picture without mask that are looked at, at most, to find where it looks."""
CAMERAS_AT_ONCE = 256
"""Cameras whose lattices are looked at at once, so that thousands of views take no memory to speak of."""


@dataclass(frozen=True)
class SparsePoints:
    """Depths at single places of views, as structure from motion knows them: M of all views together.

    ``pixel`` is (x right, y down) from the picture's top left corner, ``depth`` the distance along the ray in world
    units.
    """

    view: Int[Tensor, "M"]
    pixel: Float[Tensor, "M 2"]
    depth: Float[Tensor, "M"]

    def __len__(self) -> int:
        return self.view.shape[0]

    def select(self, views: Sequence[int], count: int) -> "SparsePoints":
        """Return the points of some of ``count`` views, which are numbered anew."""
        number = torch.full((count,), -1, dtype=torch.long)
        number[list(views)] = torch.arange(len(views))
        kept = number[self.view] >= 0
        return SparsePoints(number[self.view[kept]], self.pixel[kept], self.depth[kept])

    def to(self, device: "torch.device | str") -> "SparsePoints":
        """Return the points on another device."""
        return SparsePoints(self.view.to(device), self.pixel.to(device), self.depth.to(device))


@dataclass(frozen=True)
class ViewSet:
    """V views. ``weights`` say how far each is to be trusted (1 by default).

    ``normals`` are unit vectors in world coordinates, 0 where unknown. ``masked`` is false when alpha says nothing:
    the pictures were opaque and no mask came with them. ``reference`` is the index of the input picture's view, if
    the views were made from one and it is among them. Pixels that are not ``valid`` show nothing: undistortion found no
    source for them, or they fill a smaller picture up; None where all pixels of all views are. ``depths``, times
    ``depth_unit``, are distances
    along the rays in world units, 0 where unknown, and ``points`` are such at single places.
    """

    pictures: PixelArray
    cameras: Cameras
    names: tuple[str, ...]
    weights: Float[Tensor, "V"]
    normals: Float[Tensor, "V 3 H W"] | None = None
    masked: bool = True
    reference: int | None = None
    notes: tuple[str, ...] = ()
    valid: PixelArray | None = None
    depths: PixelArray | None = None
    points: SparsePoints | None = None
    depth_unit: float = 1.0

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def height(self) -> int:
        """H: rows of a picture."""
        return self.pictures.height

    @property
    def width(self) -> int:
        """W: columns of a picture."""
        return self.pictures.width

    @property
    def rgba(self) -> Float[Tensor, "V 4 H W"]:
        """All pictures as floats, made anew at every look: of a large capture, ask for single views instead."""
        return torch.stack([self.picture(i) for i in range(len(self))])

    def picture(self, index: int) -> Float[Tensor, "4 H W"]:
        """Return one picture as floats."""
        return unit_rgba(self.pictures.view(index)).permute(2, 0, 1).contiguous()

    def alpha(self, index: int) -> Float[Tensor, "H W"]:
        """Return the alpha of one picture."""
        return unit_rgba(self.pictures.view(index))[..., 3]

    def repainted(self, rgba: Float[Tensor, "V 4 H W"], masked: bool | None = None) -> "ViewSet":
        """Return the same views with other pictures of their size."""
        known = self.masked if masked is None else masked
        return replace(self, pictures=PixelArray.of(rgba.permute(0, 2, 3, 1)), masked=known)

    def select(self, indices: Sequence[int]) -> "ViewSet":
        """Return some of the views, in the given order."""
        chosen = list(indices)
        return replace(
            self,
            pictures=self.pictures.select(chosen),
            cameras=self.cameras[chosen],
            names=tuple(self.names[i] for i in chosen),
            weights=self.weights[chosen],
            normals=None if self.normals is None else self.normals[chosen],
            reference=chosen.index(self.reference) if self.reference in chosen else None,
            valid=None if self.valid is None else self.valid.select(chosen),
            depths=None if self.depths is None else self.depths.select(chosen),
            points=None if self.points is None else self.points.select(chosen, len(self)),
        )

    def to(self, device: "torch.device | str") -> "ViewSet":
        """Return the views with cameras, weights, normals and points on another device; pixels stay where they are."""
        normals = None if self.normals is None else self.normals.to(device)
        return replace(
            self,
            cameras=self.cameras.to(device),
            weights=self.weights.to(device),
            normals=normals,
            points=None if self.points is None else self.points.to(device),
        )

    def resized(self, height: int, width: int) -> "ViewSet":
        """Return the same views with other pixels; colors of transparent pixels do not bleed."""
        if (self.height, self.width) == (height, width):
            return self
        rgba = torch.stack([resize_rgba(self.picture(i), height, width) for i in range(len(self))])
        normals = None if self.normals is None else _resized_normals(self.normals, height, width)
        return replace(
            self,
            pictures=PixelArray.of(rgba.permute(0, 2, 3, 1)),
            cameras=self.cameras.resize(height, width),
            normals=normals,
            valid=None if self.valid is None else _resized_valid(self.valid, height, width),
            depths=None if self.depths is None else _nearest(self.depths, height, width),
            points=self._resized_points(height, width),
        )

    def _resized_points(self, height: int, width: int) -> SparsePoints | None:
        if self.points is None:
            return None
        zoom = self.points.pixel.new_tensor([width / self.width, height / self.height])
        return replace(self.points, pixel=self.points.pixel * zoom)

    def noting(self, *notes: str) -> "ViewSet":
        """Return the views with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def view_set(
    pictures: Sequence[Float[Tensor, "4 h w"]],
    cameras: Cameras,
    names: Sequence[str],
    notes: Sequence[str] = (),
) -> ViewSet:
    """Return views of weight 1 without normals. Pictures must have one size; cameras take it."""
    rgba = torch.stack(list(pictures))
    sized = cameras.resize(rgba.shape[-2], rgba.shape[-1])
    stored = PixelArray.of(rgba.permute(0, 2, 3, 1))
    return ViewSet(stored, sized, tuple(names), torch.ones(len(rgba)), notes=tuple(notes))


def _resized_normals(normals: Float[Tensor, "V 3 H W"], height: int, width: int) -> Float[Tensor, "V 3 h w"]:
    """Resample, antialiased; directions stay unit vectors, and 0 where most of what is mixed was unknown."""
    small = torch.nn.functional.interpolate(normals, size=(height, width), mode="bilinear", antialias=True)
    known = small.norm(dim=1, keepdim=True) > 0.5
    return torch.where(known, torch.nn.functional.normalize(small, dim=1), torch.zeros_like(small))


def _resized_valid(valid: PixelArray, height: int, width: int) -> PixelArray:
    """Return which pixels are mixed of valid ones only."""
    share = torch.nn.functional.interpolate(
        valid.all().permute(0, 3, 1, 2).float(), size=(height, width), mode="bilinear", antialias=True
    )
    return PixelArray.of(share.permute(0, 2, 3, 1) > 0.999)


def _nearest(values: PixelArray, height: int, width: int) -> PixelArray:
    planes = values.all().permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(planes, size=(height, width), mode="nearest-exact")
    return PixelArray.of(small.permute(0, 2, 3, 1))


def same_size(
    pictures: Sequence[Float[Tensor, "4 _ _"]], names: Sequence[str], size: int | None, where: str
) -> list[Float[Tensor, "4 H W"]]:
    """Return all pictures at one size. ``size`` is the longest side; without it sizes must agree already.

    Raises UserError where they differ, also in shape.
    """
    shapes = [(picture.shape[-2], picture.shape[-1]) for picture in pictures]
    for name, shape in zip(names, shapes):
        _refuse_another_size(names[0], shapes[0], name, shape, size, where)
    if size is None:
        return list(pictures)
    height, width = _with_longest_side(shapes[0], size)
    return [resize_rgba(picture, height, width) for picture in pictures]


def _refuse_another_size(
    first: str, one: tuple[int, int], name: str, other: tuple[int, int], size: int | None, where: str
) -> None:
    """Raise UserError where two pictures cannot belong to one set of views."""
    found = f"{first} is {one[1]} x {one[0]}, {name} is {other[1]} x {other[0]} pixels"
    if abs(other[0] * one[1] - other[1] * one[0]) > max(one):
        raise UserError(f"{where}: views of different shape: {found}; expected one ratio of width to height")
    if size is None and one != other:
        raise UserError(
            f"{where}: views of different size: {found}; expected one size, or data.size to resample all to"
        )


def _with_longest_side(shape: tuple[int, int], size: int) -> tuple[int, int]:
    longest = max(shape)
    return max(1, round(shape[0] * size / longest)), max(1, round(shape[1] * size / longest))


# ------------------------------------------------------------------------------------------------------- the frame


@dataclass(frozen=True)
class SightLines:
    """Lines of sight to the object: through the middle of each silhouette, or optical axes where there are no masks."""

    origins: Float[Tensor, "V 3"]
    directions: Float[Tensor, "V 3"]

    @classmethod
    def of(cls, views: ViewSet) -> "SightLines":
        """Return the lines of sight of views, one through the middle of each silhouette."""
        if not views.masked:
            return cls(*_middle_rays(views.cameras))
        lines = [_line_of_sight(views, i) for i in range(len(views))]
        return cls(torch.stack([o for o, _ in lines]), torch.stack([d for _, d in lines]))

    def across(self) -> Float[Tensor, "V 3 3"]:
        """Return the projections across the lines."""
        return torch.eye(3) - self.directions[:, :, None] * self.directions[:, None, :]

    def nearest_point(self, weights: Float[Tensor, "V"]) -> Float[Tensor, "3"]:
        """Return the point with the least weighted sum of squared distances from the lines.

        Along lines that are parallel nothing is known, and it is beside the middle of their origins.
        """
        across = (self.across() * weights[:, None, None]).double()
        middle = (weights[:, None] * self.origins).sum(0).double() / weights.sum()
        right = torch.einsum("vij,vj->i", across, self.origins.double() - middle)
        level, axes = torch.linalg.eigh(across.sum(0))
        known = level > PARALLEL * weights.sum()
        inverse = torch.where(known, 1 / torch.where(known, level, 1.0), 0.0)
        return (middle + axes @ (inverse * (axes.T @ right))).float()

    def distances(self, point: Float[Tensor, "3"]) -> Float[Tensor, "V"]:
        """Return how far each line passes the point."""
        return torch.linalg.cross(point - self.origins, self.directions).norm(dim=-1)

    def spread(self, kept: Tensor) -> float:
        """Return the least eigenvalue of the mean projection across the kept lines: 0 where all are parallel."""
        return float(torch.linalg.eigvalsh(self.across()[kept].mean(0))[0])

    def agreeing(self) -> Tensor:
        """Return which lines pass by the point that most of them do: all but those of cameras in a wrong place.

        The point is the one with the least sum of distances, which a few far lines hardly move. A line is left out
        where it passes at over five times the median distance and a quarter of the way from the cameras.
        """
        weights = torch.ones(len(self.origins))
        for _ in range(30):
            point = self.nearest_point(weights)
            passed = self.distances(point)
            away = (self.origins - point).norm(dim=-1).median()
            weights = 1 / passed.clamp_min(1e-3 * float(away) + 1e-12)
        kept = passed <= torch.maximum(5 * passed.median(), 0.25 * away)
        return kept if int(kept.sum()) > len(kept) / 2 else torch.ones_like(kept)


def focus(views: ViewSet, sights: SightLines | None = None) -> Float[Tensor, "3"]:
    """Return the point nearest (least squares) to the lines of sight, without those that all others contradict.

    Where the lines are parallel, as on a walk towards the object, the sizes of the silhouettes say how far it is.
    ``sights`` are the views' own, if they are at hand.
    """
    sights = sights or SightLines.of(views)
    kept = sights.agreeing()
    point = sights.nearest_point(kept.float())
    if views.masked and sights.spread(kept) < PARALLEL:
        return _point_of_sizes(views, sights, point, kept)
    return point


def _point_of_sizes(
    views: ViewSet, sights: SightLines, point: Float[Tensor, "3"], kept: Tensor
) -> Float[Tensor, "3"]:
    """Return where along parallel lines of sight silhouettes of these sizes come from.

    A ball of radius r at depth s shows under the angle whose sine is a = r / (s - position), so a s - r = a position.
    Silhouettes that the border cuts are not counted; ``point`` where sizes do not differ.
    """
    solid = torch.stack([views.alpha(i) > 0.5 for i in range(len(views))])
    cut = solid[:, [0, -1], :].flatten(1).any(1) | solid[:, :, [0, -1]].flatten(1).any(1)
    radius = (solid.flatten(1).sum(1) / math.pi).sqrt()
    used = kept & ~cut & (radius > 1)
    if views.cameras.span_y is not None or int(used.sum()) < 2:
        return point
    sine = torch.sin(torch.atan(radius / views.cameras.focals.prod(1).sqrt()))[used].double()
    if float(sine.max()) < 1.05 * float(sine.min()):
        return point
    forward = torch.nn.functional.normalize(sights.directions[used].mean(0), dim=0)
    position = ((sights.origins[used] - point) @ forward).double()
    system = torch.stack([sine, -torch.ones_like(sine)], -1)
    depth = torch.linalg.lstsq(system, (sine * position)[:, None]).solution[0, 0]
    return point + float(depth) * forward


def _line_of_sight(views: ViewSet, index: int) -> tuple[Tensor, Tensor]:
    """Return origin and unit direction (3,) of the middle ray of a view's silhouette; of the view where it is empty."""
    origins, directions = _sight_rays(views, index)
    if not len(origins):
        origins, directions = (each[0] for each in _lattice_rays(views.cameras[index : index + 1]))
    return origins.mean(0), torch.nn.functional.normalize(directions.mean(0), dim=0)


def _sight_rays(views: ViewSet, index: int) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Return origins and directions of the rays through a silhouette (or all pixels), of large ones evenly chosen."""
    # One camera alone: looked up among all, thousands of views would take the square of their number.
    camera = views.cameras[index : index + 1]
    if not views.masked:
        origins, directions = _lattice_rays(camera)
        return origins[0], directions[0]
    inside = _solid(views, index)
    chosen = inside[:: -(-len(inside) // SIGHT_RAYS) or 1]
    return camera.rays_at(torch.zeros_like(chosen), chosen % views.width, chosen // views.width)


def _middle_rays(cameras: Cameras) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"]]:
    """Return origins and unit directions of cameras' middle rays, the means of those through a lattice."""
    lenses = torch.cat([cameras.focals, cameras.principal_point], 1)
    if cameras.span_y is not None:
        lenses = torch.arange(float(len(cameras)))[:, None]  # each by itself
    # Seen from the camera, all with one lens have the same middle ray: thousands of lattices become one.
    kinds, kind = lenses.unique(dim=0, return_inverse=True)
    first = torch.zeros(len(kinds), dtype=torch.long).scatter_reduce_(
        0, kind, torch.arange(len(kind)), "amin", include_self=False
    )
    local = torch.cat(
        [_local_middles(cameras[chosen.tolist()]) for chosen in first.split(CAMERAS_AT_ONCE)], 1
    )[:, kind]
    shift, directions = torch.einsum("vij,kvj->kvi", cameras.c2w[:, :3, :3], local)
    return cameras.position + shift, torch.nn.functional.normalize(directions, dim=-1)


def _local_middles(cameras: Cameras) -> Float[Tensor, "2 V 3"]:
    """Return where middle rays begin, from the cameras' positions, and where they lead, in the cameras' axes."""
    origins, directions = _lattice_rays(cameras)
    world = torch.stack([origins.mean(1) - cameras.position, directions.mean(1)])
    return torch.einsum("vij,kvi->kvj", cameras.c2w[:, :3, :3], world)


def _lattice_rays(cameras: Cameras) -> tuple[Float[Tensor, "V N 3"], Float[Tensor, "V N 3"]]:
    """Return origins and directions of rays through evenly spread pixels: a lattice of them is the picture."""
    rows, columns = (_spread(size) for size in (cameras.height, cameras.width))
    y, x = (each.flatten().repeat(len(cameras)) for each in torch.meshgrid(rows, columns, indexing="ij"))
    count = len(y) // len(cameras)
    which = torch.arange(len(cameras)).repeat_interleave(count)
    origins, directions = cameras.rays_at(which, x, y)
    return origins.view(-1, count, 3), directions.view(-1, count, 3)


def _spread(size: int) -> Int[Tensor, "N"]:
    """Return numbers of rows or columns that are evenly spread, at most ``LATTICE``."""
    return torch.linspace(0, size - 1, min(size, LATTICE)).round().long()


def _solid(views: ViewSet, index: int) -> Int[Tensor, "N"]:
    """Return numbers of the pixels of a view's silhouette, row by row."""
    return (views.alpha(index).flatten() > 0.5).nonzero()[:, 0]


def silhouette_radius(views: ViewSet, center: Float[Tensor, "3"]) -> float:
    """Return the bounding radius about ``center``: how far from it a view's silhouette reaches at most.

    The outermost hundredth of the pixels of each silhouette is left out, as specks of bad masks live there.
    """
    largest = 0.0
    for index in range(len(views)):
        origins, directions = _sight_rays(views, index)
        if len(origins):
            offset = torch.linalg.cross(center - origins, directions).norm(dim=-1)
            largest = max(largest, float(offset.quantile(0.99)))
    return largest


def fit_world(views: ViewSet, radius: float = 0.5, where: str = "data.path") -> ViewSet:
    """Return the views in our frame: the object about the origin, +z up, with bounding radius ``radius``.

    Up is the mean upward direction of the cameras. Without masks the size is unknown, and the median camera distance
    becomes 1.5 instead. Directions of normals turn along. Cameras that look elsewhere than most have no say. Raises
    UserError where nothing tells how far away the object is.
    """
    _refuse_one_viewpoint(views, where)
    sights = SightLines.of(views)
    kept = sights.agreeing()
    if not views.masked and sights.spread(kept) < PARALLEL:
        raise UserError(
            f"{where}: the cameras look in one direction and there are no masks: how far away the object is cannot be "
            "told; expected masks, data.frame=keep with the object about the origin, or data.frame=cameras of a scene"
        )
    center, sure = focus(views, sights), views.select(kept.nonzero()[:, 0].tolist())
    rotation = _turn_to_z(torch.nn.functional.normalize(sure.cameras.c2w[:, :3, 1].mean(0), dim=0))
    if views.masked:
        scale, how = (
            radius / max(silhouette_radius(sure, center), 1e-9),
            f"silhouettes' radius to {radius:g}",
        )
    else:
        distance = (sure.cameras.position - center).norm(dim=-1).median()
        scale, how = 1.5 / max(float(distance), 1e-9), "median camera distance to 1.5"
    note = f"world fitted: center {_coordinates(center)}, scaled by {scale:.4g} ({how}), mean up of the cameras to +z"
    return transform_world(views, rotation, center, scale).noting(note)


def fit_cameras(views: ViewSet, where: str = "data.path") -> ViewSet:
    """Return the views in a world about their cameras: mean position 0, mean up +z, the furthest at distance 1.

    Nothing is assumed of where they look: outward, along a corridor, or at an object. Raises ``UserError`` where all
    stand at one place.
    """
    _refuse_one_viewpoint(views, where)
    positions = views.cameras.position
    center = positions.mean(0)
    up = views.cameras.c2w[:, :3, 1].mean(0)
    scale = 1 / max(float((positions - center).norm(dim=-1).max()), 1e-9)
    note = f"world fitted to the cameras: center {_coordinates(center)}, scaled by {scale:.4g}, mean up to +z"
    rotation = _turn_to_z(torch.nn.functional.normalize(up, dim=0))
    return transform_world(views, rotation, center, scale).noting(note)


def transform_world(
    views: ViewSet, rotation: Float[Tensor, "3 3"], center: Float[Tensor, "3"], scale: float
) -> ViewSet:
    """Return the views in a world where x became ``scale * rotation @ (x - center)``."""
    c2w = views.cameras.c2w.clone()
    c2w[:, :3, :3] = rotation @ c2w[:, :3, :3]
    c2w[:, :3, 3] = scale * (views.cameras.position - center) @ rotation.T
    span = None if views.cameras.span_y is None else views.cameras.span_y * scale
    normals = None if views.normals is None else torch.einsum("ij,vjhw->vihw", rotation, views.normals)
    moved = replace(views, cameras=replace(views.cameras, c2w=c2w, span_y=span), normals=normals)
    points = None if views.points is None else replace(views.points, depth=views.points.depth * scale)
    return replace(moved, depth_unit=views.depth_unit * scale, points=points)


def fit_sphere(views: ViewSet, center: Float[Tensor, "3"], radius: float, wanted: float = 0.5) -> ViewSet:
    """Return the views in our frame by a sphere that holds the object: at the origin, of radius ``wanted``, +z up."""
    rotation = _turn_to_z(torch.nn.functional.normalize(views.cameras.c2w[:, :3, 1].mean(0), dim=0))
    scale = wanted / radius
    note = f"world fitted to the object's sphere: center {_coordinates(center)}, scaled by {scale:.4g}"
    return transform_world(views, rotation, center, scale).noting(note)


def rotate_world(views: ViewSet, angle: float) -> ViewSet:
    """Return the views carried about the vertical by ``angle`` (radians)."""
    return transform_world(views, rotation_about_z(torch.tensor(angle)), torch.zeros(3), 1.0)


def _turn_to_z(up: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Return the smallest rotation that brings the unit vector ``up`` to +z."""
    z = torch.tensor([0.0, 0.0, 1.0])
    axis, cosine = torch.linalg.cross(up, z), float(up @ z)
    if cosine < -0.9999:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    cross = torch.zeros(3, 3)
    cross[0, 1], cross[0, 2], cross[1, 2] = -axis[2], axis[1], -axis[0]
    cross = cross - cross.T
    return torch.eye(3) + cross + cross @ cross / (1 + cosine)


def _coordinates(point: Tensor) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in point.tolist()) + ")"


# -------------------------------------------------------------------------------------------------------- checking


def cameras_inside(views: ViewSet, sights: SightLines | None = None) -> list[int]:
    """Return indices of the cameras that stand inside the object, as cameras with wrong matrices do.

    Such a camera is nearer to the object's middle than the object reaches, and every other view that has it in its
    picture, two at least, shows the object there. The second alone proves nothing: a camera right before or behind the
    object is covered likewise, on a walk towards it, on rings at two distances, or where each frame is there twice.
    Nobody knows where the middle is when the lines of sight are nearly parallel, or without silhouettes.
    """
    sights = sights or SightLines.of(views)
    kept = sights.agreeing()
    if not views.masked or sights.spread(kept) < MEETING:
        return []
    center = focus(views, sights)
    reach = silhouette_radius(views.select(kept.nonzero()[:, 0].tolist()), center)
    near = (views.cameras.position - center).norm(dim=-1) < reach
    return (near & _cameras_behind_object(views)).nonzero()[:, 0].tolist()


def _cameras_behind_object(views: ViewSet) -> Tensor:
    """Return which cameras at least two other views have in their picture, all of them with the object there (V,)."""
    pixels, depth = views.cameras.project(views.cameras.position)
    height, width = views.height, views.width
    x, y = pixels[..., 0].long(), pixels[..., 1].long()
    framed = (pixels >= 0).all(-1) & (x < width) & (y < height) & (depth > 0)
    framed.fill_diagonal_(False)
    rows = torch.arange(len(views))[:, None].expand_as(x)
    places = (each.flatten() for each in (rows, y.clamp(0, height - 1), x.clamp(0, width - 1)))
    covered = (unit_rgba(views.pictures.at(*places))[:, 3] > 0.5).view_as(x)
    return (framed.sum(0) >= 2) & (covered | ~framed).all(0)


def one_viewpoint(views: ViewSet) -> bool:
    """Return whether all cameras stand at one place, or orthographic ones look in one direction: no depth then."""
    seen_from = views.cameras.position if views.cameras.span_y is None else views.cameras.c2w[:, :3, 2]
    spread = (seen_from - seen_from.mean(0)).norm(dim=-1).max()
    return float(spread) <= 1e-5 * float(seen_from.norm(dim=-1).max())


def cameras_turned_away(views: ViewSet, sights: SightLines | None = None) -> list[int]:
    """Return indices of the cameras that have behind them what the views look at.

    None where the lines of sight are nearly parallel, as nobody knows then where they meet.
    """
    sights = sights or SightLines.of(views)
    if sights.spread(sights.agreeing()) < MEETING:
        return []
    depth = views.cameras.project(focus(views, sights)[None])[1][:, 0]
    return (depth < 0).nonzero()[:, 0].tolist()


def refuse_useless(views: ViewSet, where: str, at_least: int = 2, one_object: bool = True) -> ViewSet:
    """Return the views, if an object can be made of them. Raises UserError that says which view is wrong.

    Of a scene without ``one_object`` that all cameras look at, only their number and their places matter.
    """
    if len(views) < at_least:
        raise UserError(
            f"{where}: has {len(views)} view{'s' * (len(views) != 1)}; expected at least {at_least}: depth cannot be "
            "told from fewer"
        )
    empty = [name for i, name in enumerate(views.names) if views.masked and not len(_solid(views, i))]
    if len(empty) == len(views):
        raise UserError(f"{where}: all masks are empty; expected the object in at least one view")
    _refuse_one_viewpoint(views, where)
    if not one_object:
        return views
    sights = SightLines.of(views)
    _refuse_cameras(views, sights, where)
    lost = (~sights.agreeing()).nonzero()[:, 0].tolist()
    if lost:
        views = views.noting(
            f"{_named(views, lost)} look past what the others look at: are their matrices right?"
        )
    if empty:
        views = views.noting(f"{len(empty)} of {len(views)} views show nothing of the object ({empty[0]})")
    covered = borders_covered(views)
    if 2 * covered > len(views):
        return views.noting(
            f"masks cover the border of {covered} of {len(views)} views: are they inverted? white is the object"
        )
    return views


def _refuse_one_viewpoint(views: ViewSet, where: str) -> None:
    """Raise UserError for cameras from which no depth can be told."""
    if one_viewpoint(views):
        what = "stand at one place" if views.cameras.span_y is None else "look in one direction"
        raise UserError(
            f"{where}: all {len(views)} cameras {what}: depth cannot be told; expected cameras around the object: are "
            "the matrices world-to-camera?"
        )


def _refuse_cameras(views: ViewSet, sights: SightLines, where: str) -> None:
    """Raise UserError for cameras that cannot have taken views of one object."""
    away = cameras_turned_away(views, sights)
    if 2 * len(away) > len(views):
        raise UserError(
            f"{where}: {_named(views, away)} look away from the object; expected OpenGL axes, looking along -z: are "
            "the matrices OpenCV's, which look along +z?"
        )
    inside = cameras_inside(views, sights)
    if inside:
        raise UserError(
            f"{where}: {_named(views, inside)} stand inside the object; expected cameras around it: are the matrices "
            "world-to-camera, or in other units than the object?"
        )


def _named(views: ViewSet, indices: Sequence[int]) -> str:
    """Return ``2 of 8 cameras (a.png, b.png)``."""
    names = ", ".join(views.names[i] for i in indices[:3])
    return f"{len(indices)} of {len(views)} cameras ({names}{', ...' if len(indices) > 3 else ''})"


def borders_covered(views: ViewSet) -> int:
    """Return how many views are object along nine tenths of their border."""
    if not views.masked:
        return 0
    return sum(_border_covered(views.alpha(i) > 0.5) for i in range(len(views)))


def _border_covered(solid: Bool[Tensor, "H W"]) -> bool:
    border = torch.cat([solid[[0, -1], :].flatten(), solid[:, [0, -1]].flatten()])
    return float(border.float().mean()) > 0.9


def refuse_outside(views: ViewSet, radius: float, where: str = "data.path") -> None:
    """Raise UserError unless the object is within ``radius`` of the origin (a cube) and the cameras around it.

    Where there are no masks the object is taken to be where the lines of sight meet.
    """
    mend = "pass data.frame=fit, or another system.geometry.radius"
    if views.cameras.span_y is None:
        near = (views.cameras.position.norm(dim=-1) <= radius).nonzero()[:, 0].tolist()
        if 2 * len(near) > len(views):  # a few may have come close, most never do
            raise UserError(
                f"{where}: {_named(views, near)} stand within {radius:g} of the origin, where the object should be; "
                f"expected cameras around it: {mend}"
            )
    shown = silhouette_radius(views, torch.zeros(3)) if views.masked else 0.0
    if shown > 3**0.5 * radius:
        raise UserError(
            f"{where}: the views show the object up to {shown:.2g} away from the origin; expected at most "
            f"system.geometry.radius, {radius:g}: {mend}"
        )
    middle = focus(views)
    if not views.masked and float(middle.abs().max()) > radius:
        raise UserError(
            f"{where}: the cameras look at {_coordinates(middle)}; expected the object about the origin, within "
            f"system.geometry.radius, {radius:g}: {mend}"
        )
