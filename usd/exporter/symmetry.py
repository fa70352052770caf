"""Upright planes in which an object is its own mirror image, in shape and as far as can be told in its colors.

A picture that shows one side of a symmetric object says what the other side looks like: a hidden point has the color
of its mirror image, where the picture shows that. Shape alone does not decide (a bottle has a plane at every angle):
the colors that the object has already must agree better with the mirrored ones than with the same ones shuffled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.exporter.reference_projection import ReferenceProjection
from usd.math.mesh import face_cross, surface_samples
from usd.mesh_io.colored_mesh import ColoredMesh

DENSE, SAMPLES = 20_000, 2_000
"""Points that stand for the surface, and points that are mirrored onto it."""
STEP_DEG, FINE_DEG = 2.0, 0.25
APART_DEG = 15.0
NEAR, SAME = 0.05, 0.015
"""Root mean square distance of mirrored points to the surface, in object sizes: worth refining, and a symmetry."""
TONE = 0.18
"""Standard deviation of the Gaussian, in object sizes, above which tones stay those of the mesh."""
AGREEMENT = 0.1
"""Share of the squared difference between shuffled colors by which mirrored ones have to be nearer."""


@dataclass(frozen=True)
class Mirror:
    """An upright plane: the points whose product with ``normal`` is ``offset``."""

    normal: Float[Tensor, "3"]
    offset: float

    @property
    def azimuth_deg(self) -> float:
        """Azimuth of the normal in degrees, from 0 to 180."""
        return math.degrees(math.atan2(float(self.normal[1]), float(self.normal[0]))) % 180

    def points(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the mirror images of points."""
        return x - 2 * ((x @ self.normal) - self.offset)[:, None] * self.normal

    def directions(self, v: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the mirror images of directions."""
        return v - 2 * (v @ self.normal)[:, None] * self.normal


@dataclass(frozen=True)
class SurfaceSamples:
    """Points of a surface with their normals and the colors that a mesh has there."""

    x: Float[Tensor, "N 3"]
    normal: Float[Tensor, "N 3"]
    color: Float[Tensor, "N 3"]

    @classmethod
    def of(cls, mesh: ColoredMesh, generator: torch.Generator) -> "SurfaceSamples":
        """Draw ``SAMPLES`` points, equally dense everywhere."""
        vertices = mesh.vertices.float()
        face, share = surface_samples(vertices, mesh.faces, SAMPLES, generator)
        x = (vertices[mesh.faces[face]] * share[..., None]).sum(1)
        normal = torch.nn.functional.normalize(face_cross(vertices, mesh.faces)[face], dim=-1)
        return cls(x, normal, mesh.display_colors(face, share))


@dataclass(frozen=True)
class MirroredPicture:
    """A picture of a surface, seen in a mirror of it; ``share`` is the weight where it shows a point squarely."""

    picture: ReferenceProjection
    mirror: Mirror
    samples: SurfaceSamples
    tone: float
    share: float = 1.0

    def __call__(
        self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 1"]]:
        """Return the detail at the mirror images of points, and weights: 0 where the picture does not show them.

        Detail is what colors differ by from their mean within about ``tone`` on the surface that the mirror shows.
        """
        color, weight = self.colors(x, normal)
        return color - torch.cat([self._tones(part) for part in x.split(8192)]), self.share * weight

    def colors(
        self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 1"]]:
        """Return the picture's colors at the mirror images of points, and how well it shows them."""
        return self.picture(self.mirror.points(x), self.mirror.directions(normal))

    def _tones(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return Gaussian means of the mirrored colors around points."""
        color, weight = self._mirrored_samples
        # Samples that the picture does not show weigh nothing, so tones are those of what it does show.
        near = (-(torch.cdist(x, self.samples.x) ** 2) / (2 * self.tone**2)).exp() * weight[:, 0]
        return near @ color / near.sum(1, keepdim=True).clamp_min(1e-9)

    @cached_property
    def _mirrored_samples(self) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 1"]]:
        """Colors and weights of the samples' mirror images."""
        return self.colors(self.samples.x, self.samples.normal)

    @cached_property
    def gain(self) -> float:
        """Share of the surface that the mirror alone shows, times how well colors agree; 0 where they do not."""
        # What the picture shows itself needs no mirror.
        hidden = 1 - self.picture(self.samples.x, self.samples.normal)[1]
        color, weight = self._mirrored_samples
        return _gain(self.samples.color, color, weight * hidden)


def mirrored_picture(
    mesh: ColoredMesh, picture: ReferenceProjection, generator: torch.Generator
) -> MirroredPicture | None:
    """Return the picture in the mirror whose colors agree best with those that a mesh has; None where none does."""
    samples, vertices = SurfaceSamples.of(mesh, generator), mesh.vertices.float()
    # A light that falls from one side makes broad tones differ; what is finer than this is the surface's own.
    tone = TONE * float((vertices.amax(0) - vertices.amin(0)).max())
    mirrors = upright_mirrors(vertices, mesh.faces, generator)
    found = [MirroredPicture(picture, mirror, samples, tone) for mirror in mirrors]
    best = max(found, key=lambda mirrored: mirrored.gain, default=None)
    return best if best is not None and best.gain > 0 else None


def _gain(given: Float[Tensor, "N 3"], mirrored: Float[Tensor, "N 3"], share: Float[Tensor, "N 1"]) -> float:
    """Return the sum of shares over the number of points, times how much better than shuffled the colors agree."""
    total = float(share.sum())
    if total < 1:
        return 0.0

    def mean(values: Tensor) -> Tensor:
        return (share * values).sum(0) / total

    # Of independent pairs with the same colors: both variances, and the distance of their means.
    apart = (mean(given) - mean(mirrored)).square()
    shuffled = mean((given - mean(given)).square()) + mean((mirrored - mean(mirrored)).square()) + apart
    agreement = 1 - float(mean((given - mirrored).square()).sum() / shuffled.sum().clamp_min(1e-9))
    return total / len(given) * agreement if agreement > AGREEMENT else 0.0


def upright_mirrors(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], generator: torch.Generator
) -> list[Mirror]:
    """Return upright planes that mirror a surface onto itself, best first, at least ``APART_DEG`` from each other."""
    from scipy.spatial import cKDTree

    dense, samples = (_area_samples(vertices, faces, n, generator) for n in (DENSE, SAMPLES))
    tree, center = cKDTree(dense.numpy()), dense.mean(0)
    extent = float((vertices.amax(0) - vertices.amin(0)).max())

    def misfit(degrees: float) -> float:
        mirrored = _mirror_at(degrees, center).points(samples)
        return float(np.sqrt(np.square(tree.query(mirrored.numpy())[0]).mean())) / extent

    # Coarse angles first; only what is near a symmetry is worth the finer ones.
    rough = [(misfit(degrees), degrees) for degrees in np.arange(0, 180, STEP_DEG).tolist()]
    near = _apart([(error, degrees) for error, degrees in rough if error < NEAR])
    fine = np.arange(-STEP_DEG, STEP_DEG + FINE_DEG, FINE_DEG).tolist()
    refined = [min((misfit(degrees + turn), degrees + turn) for turn in fine) for _, degrees in near]
    return [_mirror_at(degrees, center) for error, degrees in sorted(refined) if error < SAME]


def _area_samples(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], n: int, generator: torch.Generator
) -> Float[Tensor, "N 3"]:
    """Return random points of a surface, equally dense everywhere."""
    face, share = surface_samples(vertices, faces, n, generator)
    return (vertices[faces[face]] * share[..., None]).sum(1)


def _mirror_at(degrees: float, center: Float[Tensor, "3"]) -> Mirror:
    """Return the upright plane through a center whose normal has this azimuth."""
    # A symmetric surface has the center of its area on the plane, so the angle is all there is to find.
    angle = math.radians(degrees)
    normal = center.new_tensor([math.cos(angle), math.sin(angle), 0.0])
    return Mirror(normal, float(center @ normal))


def _apart(planes: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return planes (misfit, azimuth of the normal in degrees), best first, without those near to a better one."""
    kept: list[tuple[float, float]] = []
    # The best first, so that what is dropped is always the worse of two neighbors.
    for error, degrees in sorted(planes):
        turns = (abs(degrees - other) for _, other in kept)
        if all(min(turn, 180 - turn) >= APART_DEG for turn in turns):
            kept.append((error, degrees))
    return kept
