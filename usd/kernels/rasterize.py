"""Pictures of triangle meshes, differentiable with respect to vertex positions, attributes and textures.

The three steps of a rasterizer (Laine et al., arXiv 2011.03277), on rays through pixel centers::

    tracer = Tracer(vertices, faces)                                  # builds the tree of boxes
    fragments = rasterize(tracer, view)                                    # which face is where: no gradient
    weights, t = barycentric(vertices, faces, view, fragments)             # perspective-correct, differentiable
    values = interpolate(attributes, faces, fragments, weights)            # of covered pixels
    picture = antialias(fragments.picture(values), vertices, crossings(tracer, view, fragments), view)

Visibility is a ray query of Warp's mesh (a bounding volume hierarchy, on CPU and CUDA) or, in the twin, a test of every
ray with every face. ``rasterize_antialias`` blends pixels across silhouettes; only through it do silhouettes move.

Letters: B views, H W pixels of each, P covered pixels, R rays, V F vertices and faces, C channels.
"""

import functools
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.runtime import Implementation, accelerator_of, choose
from usd.math.camera import Cameras

NO_FACE = -1
CHUNK = 1 << 22


@dataclass(frozen=True)
class View:
    """A window of each camera's picture: its first pixel (top, left) and its size. Pixel centers are at halves."""

    cameras: Cameras
    top: int
    left: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of views, rows and columns."""
        return len(self.cameras), self.height, self.width

    @functools.cached_property
    def rays(self) -> tuple[Float[Tensor, "R 3"], Float[Tensor, "R 3"]]:
        """Origins and unit directions through all pixel centers, view by view, row by row."""
        o, d = self.cameras.crop_rays(self.top, self.left, self.height, self.width)
        return o.reshape(-1, 3), d.reshape(-1, 3)

    def project(
        self, points: Float[Tensor, "N 3"], camera: Int[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N"]]:
        """Project points: (x right, y down) from the window's corner, and depth along the view axis."""
        rotation, position = self.cameras.c2w[:, :3, :3], self.cameras.position
        offset = points - position.index_select(0, camera)
        local = (offset[:, :, None] * rotation.index_select(0, camera)).sum(1)
        # Cameras look along -z.
        depth, scale = -local[:, 2], self._pixels_per_unit.index_select(0, camera)
        if self.perspective:
            scale = scale / depth[:, None]
        return local[:, :2] * scale * local.new_tensor([1.0, -1.0]) + self._center[camera], depth

    def rays_through(
        self, pixels: Float[Tensor, "N 2"], camera: Int[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """Return origins, and directions of depth 1 (not unit length), of rays through any points of the pictures."""
        # At depth 1 a pixel has a fixed size.
        plane = (pixels - self._center[camera]) / self._pixels_per_unit[camera]
        rotation = self.cameras.c2w[:, :3, :3].index_select(0, camera)
        sideways = rotation[:, :, 0] * plane[:, :1] - rotation[:, :, 1] * plane[:, 1:]
        origins, forward = self.cameras.position.index_select(0, camera), -rotation[:, :, 2]
        return (origins, forward + sideways) if self.perspective else (origins + sideways, forward)

    def toward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "B N 3"]:
        """Return for each camera, vectors along its rays to points; not unit length."""
        if self.perspective:
            return points - self.cameras.position[:, None]
        return -self.cameras.c2w[:, None, :3, 2].expand(-1, len(points), 3)

    @property
    def perspective(self) -> bool:
        """Pinholes; otherwise the cameras are orthographic."""
        return self.cameras.span_y is None

    @property
    def _pixels_per_unit(self) -> Float[Tensor, "B 2"]:
        """At depth 1, across and down."""
        span = self.cameras.span_y
        return self.cameras.focals if span is None else (self.cameras.height / span)[:, None].expand(-1, 2)

    @property
    def _center(self) -> Float[Tensor, "B 2"]:
        """The principal points, from the window's corner."""
        center = self.cameras.principal_point
        return center - center.new_tensor([self.left, self.top])


def whole(cameras: Cameras) -> View:
    """Return the cameras' full pictures."""
    return View(cameras, 0, 0, cameras.height, cameras.width)


@dataclass(frozen=True)
class Fragments:
    """The covered pixels, in order: their number (views one after the other, row by row), face and distance.

    ``t`` is the distance along the pixel's ray, without gradient. ``shape`` is (B, H, W).
    """

    pixel: Int[Tensor, "P"]
    face: Int[Tensor, "P"]
    t: Float[Tensor, "P"]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.pixel.shape[0]

    def picture(self, values: Float[Tensor, "P C"]) -> Float[Tensor, "B H W C"]:
        """Return values of covered pixels as pictures, zero elsewhere."""
        rows = values.new_zeros(math.prod(self.shape), values.shape[1])
        return rows.index_copy(0, self.pixel, values).view(*self.shape, values.shape[1])


@runtime_checkable
class RayQuery(Protocol):
    """A mesh that was made ready for rays."""

    def cast(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest face and the distance of each ray; see ``Tracer.cast``."""


class Tracer:
    """A mesh made ready for ray queries. It sees the vertices as they are now; it has no gradient."""

    def __init__(
        self,
        vertices: Float[Tensor, "V 3"],
        faces: Int[Tensor, "F 3"],
        implementation: Implementation = "auto",
    ) -> None:
        self.vertices, self.faces = vertices.detach().contiguous(), faces
        self.query = ray_query(self.vertices, faces, implementation) if len(faces) else None

    @torch.no_grad()
    def cast(
        self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"]
    ) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
        """Return the nearest face each ray meets, from either side, and where: origin + t direction, t > 0.

        ``NO_FACE`` (-1) and infinity where there is none.
        """
        if self.query is not None:
            return self.query.cast(origins, directions)
        return cast_torch(self.vertices, self.faces, origins, directions)


def ray_query(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], implementation: Implementation
) -> RayQuery | None:
    """Return the tree of boxes of a mesh; None where the twin serves, which needs none."""
    if accelerator_of("cast", implementation, vertices):
        from usd.kernels import rasterize_embree

        return rasterize_embree.EmbreeTree(vertices, faces)
    if choose(implementation, vertices, faces) == "torch":
        return None
    from usd.kernels import rasterize_warp

    return rasterize_warp.Tree(vertices, faces)


def cast_torch(
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    """Cast as ``Tracer.cast`` does, by testing every ray with every face, a chunk of rays at once."""
    corners = vertices[faces]
    # The table of all rays and faces must fit into memory.
    rows = max(1, CHUNK // max(1, len(faces)))
    parts = [_nearest_face(corners, *part) for part in zip(origins.split(rows), directions.split(rows))]
    face, t = zip(*parts) if parts else ((faces.new_empty(0),), (vertices.new_empty(0),))
    return torch.cat(face).long(), torch.cat(t)


def _nearest_face(
    corners: Float[Tensor, "F 3 3"], o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"]
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    if len(corners) == 0:
        return torch.full_like(o[:, 0], NO_FACE).long(), torch.full_like(o[:, 0], math.inf)
    weights, t = intersect(corners, o[:, None], d[:, None])
    # Rounding must not open a gap between two faces.
    border = -8 * torch.finfo(t.dtype).eps  # a ray through an edge must not slip through
    hit = (weights >= border).all(-1) & (t > 0)
    # What is missed is infinitely far, so that the nearest hit is a minimum.
    t, face = torch.where(hit, t, torch.full_like(t, math.inf)).min(1)
    return torch.where(t.isfinite(), face, torch.full_like(face, NO_FACE)), t


def intersect(
    corners: Float[Tensor, "*#n 3 3"], o: Float[Tensor, "*#n 3"], d: Float[Tensor, "*#n 3"]
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n"]]:
    """Return where lines o + t d meet the planes of triangles: weights of the corners (they sum to 1), and t.

    Moeller and Trumbore's equations. A line in the plane gives values that are not finite.
    """
    a, b, c = corners.unbind(-2)
    ab, ac, ao = b - a, c - a, o - a
    d, ab, ac, ao = torch.broadcast_tensors(d, ab, ac, ao)
    # Cramer's rule, each triple product as a cross and a dot product.
    h, q = torch.linalg.cross(d, ac), torch.linalg.cross(ao, ab)
    # Zero for a ray in the plane: the result is then infinite and fails every test.
    inverse = 1 / _dot(ab, h)
    v, w, t = _dot(ao, h) * inverse, _dot(d, q) * inverse, _dot(ac, q) * inverse
    return torch.stack([1 - v - w, v, w], -1), t


def _dot(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    return (a * b).sum(-1)


@torch.no_grad()
def rasterize(tracer: Tracer, view: View) -> Fragments:
    """Return the face that each pixel's center shows. Not differentiable."""
    face, t = tracer.cast(*view.rays)
    pixel = (face != NO_FACE).nonzero().squeeze(1)
    return Fragments(pixel, face[pixel], t[pixel], view.shape)


def barycentric(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], view: View, fragments: Fragments
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P"]]:
    """Return weights of the three corners at covered pixels, and the distance along the pixels' rays.

    Differentiable by vertices (and cameras). Weights are those of points in space, hence perspective-correct.
    """
    # The tree told which face a ray meets; where it does is computed again, with gradients.
    o, d = (rays.index_select(0, fragments.pixel) for rays in view.rays)
    corners = interpolate_corners(vertices, faces, fragments)
    weights, rest = intersect(
        corners, o + fragments.t[:, None] * d, d
    )  # from nearby: tiny faces keep their digits
    return weights, fragments.t + rest


def interpolate_corners(
    attributes: Float[Tensor, "V C"], faces: Int[Tensor, "F 3"], fragments: Fragments
) -> Float[Tensor, "P 3 C"]:
    """Return the attributes of the three corners of each covered pixel's face."""
    # Two plain look-ups: their gradients are sums by index, the fastest kind.
    index = faces.index_select(0, fragments.face)
    return attributes.index_select(0, index.flatten()).view(len(index), 3, attributes.shape[1])


def interpolate(
    attributes: Float[Tensor, "V C"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
    weights: Float[Tensor, "P 3"],
) -> Float[Tensor, "P C"]:
    """Interpolate attributes at covered pixels. ``faces`` may number other corners than the mesh's (texture seams)."""
    return (interpolate_corners(attributes, faces, fragments) * weights[:, :, None]).sum(1)
