"""Bringing one surface onto another before it is measured: nothing, a turn, a rigid motion, or one with scale.

Published tables differ in this and it changes the order of methods: what was done is named with every figure.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.types import Mesh
from usd.evaluation.surface import area_samples, nearest_of
from usd.math.camera import rotation_about_z

Alignment = Literal["none", "yaw", "icp", "icp+scale"]
ALIGNMENTS: tuple[Alignment, ...] = ("none", "yaw", "icp", "icp+scale")
POINTS, YAW_POINTS = 10_000, 2_000
ITERATIONS, YAW_STEPS = 100, 72
ENOUGH = 1e-4
"""ICP stops when the mean squared distance falls by less than this share of itself."""


@dataclass(frozen=True)
class Similarity:
    """x becomes ``scale * rotation @ x + translation``."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float = 1.0

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the points moved."""
        # In double precision: ICP composes up to a hundred of these.
        moved = self.scale * x.double() @ self.rotation.double().T + self.translation.double()
        return moved.to(x.dtype)

    def after(self, other: "Similarity") -> "Similarity":
        """Return the motion that applies ``other`` first, then this one."""
        return Similarity(
            self.rotation.double() @ other.rotation.double(),
            self.scale * self.rotation.double() @ other.translation.double() + self.translation.double(),
            self.scale * other.scale,
        )

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation in degrees, about whatever axis."""
        # trace R = 1 + 2 cos(angle); rounding may leave [-1, 1].
        return math.degrees(math.acos(max(-1.0, min(1.0, (float(self.rotation.trace()) - 1) / 2))))


def identity() -> Similarity:
    """Return the motion that moves nothing."""
    return Similarity(torch.eye(3), torch.zeros(3))


def apply(motion: Similarity, mesh: Mesh) -> Mesh:
    """Return the mesh with its vertices moved."""
    return replace(mesh, vertices=motion(mesh.vertices))


def unit_box(mesh: Mesh) -> Similarity:
    """Return the motion that centers the mesh's bounding box and makes its longest side 1. Only used vertices count."""
    # A vertex that no face uses would widen the box without being seen.
    used = mesh.vertices[torch.unique(mesh.faces)]
    # In double precision: coordinates of a scan may be thousands of units from the origin.
    low, high = used.double().amin(0), used.double().amax(0)
    scale = 1 / max(float((high - low).max()), 1e-12)
    return Similarity(torch.eye(3, dtype=torch.float64), -scale * 0.5 * (low + high), scale)


def align_mesh(mesh: Mesh, reference: Mesh, how: Alignment, seed: int = 0) -> Similarity:
    """Return the motion of ``mesh`` towards ``reference``, both in the reference's unit box; none for ``none``.

    ``icp+scale`` starts from the mesh in its own unit box, the others from where it stands.
    """
    if how == "none" or mesh.empty or reference.empty:
        return identity()
    count = YAW_POINTS if how == "yaw" else POINTS
    # Points drawn by area, not vertices: where a mesh is finely divided must not pull harder.
    source, target = area_samples(mesh, count, seed).x, area_samples(reference, count, seed + 1).x
    if how == "yaw":
        return best_yaw(source, target)
    # ICP finds the nearest valley only: a size that is off by a factor must be right before it starts.
    start = unit_box(mesh) if how == "icp+scale" else identity()
    return icp(start(source), target, how == "icp+scale").after(start)


def icp(source: Float[Tensor, "N 3"], target: Float[Tensor, "M 3"], with_scale: bool) -> Similarity:
    """Return the motion found by iterated closest points, both ways: every point of either set pulls."""
    motion, error = identity(), math.inf
    for _ in range(ITERATIONS):
        moved = motion(source)
        # Pairs from both sides: with pairs of one side alone, a part could slide inside a larger whole at no cost.
        there, here = target[nearest_of(moved, target)[1]], source[nearest_of(target, moved)[1]]
        motion = procrustes(torch.cat([source, here]), torch.cat([there, target]), with_scale)
        latest = float((motion(torch.cat([source, here])) - torch.cat([there, target])).square().mean())
        # Neither half of a round makes the error larger, so a small gain means that nothing will come any more.
        if error - latest <= ENOUGH * latest:
            break
        error = latest
    return motion


def procrustes(x: Float[Tensor, "N 3"], y: Float[Tensor, "N 3"], with_scale: bool) -> Similarity:
    """Return the motion of x that is nearest to y in least squares (Umeyama 1991); never a reflection."""
    # About the means the best translation drops out of the problem.
    mean_x, mean_y = x.double().mean(0), y.double().mean(0)
    x0, y0 = x.double() - mean_x, y.double() - mean_y
    # The rotation that maximizes trace(R^T y0^T x0) is U V^T.
    u, s, v = torch.linalg.svd(y0.T @ x0)
    # The smallest singular direction turns back where the best orthogonal matrix would mirror.
    flip = torch.ones(3, dtype=torch.float64)
    flip[2] = torch.sign(torch.det(u @ v))
    rotation = u @ torch.diag(flip) @ v
    # The scale that is best for this rotation: trace(S flip) over the spread of x.
    scale = float((s * flip).sum() / x0.square().sum().clamp_min(1e-30)) if with_scale else 1.0
    return Similarity(rotation.float(), (mean_y - scale * rotation @ mean_x).float(), scale)


def best_yaw(source: Float[Tensor, "N 3"], target: Float[Tensor, "M 3"]) -> Similarity:
    """Return the turn about the vertical through the origin that minimizes Chamfer: 5 degree steps, then finer ones."""

    def apart(angle: float) -> float:
        moved = turn_about_z(angle)(source)
        there, back = nearest_of(moved, target)[0], nearest_of(target, moved)[0]
        return float(there.mean() + back.mean())

    step = 2 * math.pi / YAW_STEPS
    # Chamfer over the yaw has several valleys (a chair from four sides): all around first, then into the deepest.
    best = min((i * step for i in range(YAW_STEPS)), key=apart)
    while step > math.radians(0.05):
        # A third of the step on either side covers the gap to both neighbors.
        step /= 3
        best = min((best - step, best, best + step), key=apart)
    return turn_about_z(best)


def turn_about_z(angle: float | int) -> Similarity:
    """Return the turn by ``angle`` radians about the z axis, counter-clockwise seen from above."""
    return Similarity(rotation_about_z(torch.tensor(angle, dtype=torch.float64)).float(), torch.zeros(3))
