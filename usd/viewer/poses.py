"""Between the page's cameras (a unit quaternion and a position, OpenCV axes) and this project's (OpenGL matrices)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.math.camera import Cameras

OPENCV_FROM_OPENGL = (1.0, -1.0, -1.0)


@dataclass(frozen=True)
class Pose:
    """A camera as the page knows it: ``wxyz`` turns camera to world axes (x right, y down, z forward)."""

    wxyz: tuple[float, float, float, float]
    position: tuple[float, float, float]
    fov_y: float
    aspect: float = 1.0

    def cameras(self, height: int) -> Cameras:
        """Return one camera whose picture has ``height`` rows, and columns by the aspect."""
        c2w = torch.eye(4)[None].clone()
        c2w[0, :3, :3] = rotation_of(self.wxyz) * torch.tensor(OPENCV_FROM_OPENGL)
        c2w[0, :3, 3] = torch.tensor(self.position)
        width = max(1, round(height * self.aspect))
        return Cameras(c2w, torch.tensor([self.fov_y], dtype=torch.float32), height, width)

    @classmethod
    def of(cls, cameras: Cameras) -> "Pose":
        """Return the pose of the first of cameras; an orthographic one stands where it sees as much."""
        c2w = cameras.c2w[0].detach().cpu().double()
        fov_y = float(cameras.fov_y[0]) or math.radians(40)
        rotation = c2w[:3, :3] * torch.tensor(OPENCV_FROM_OPENGL, dtype=torch.float64)
        x, y, z = c2w[:3, 3].tolist()
        return cls(quaternion_of(rotation), (x, y, z), fov_y, cameras.width / cameras.height)


def rotation_of(wxyz: Sequence[float]) -> Float[Tensor, "3 3"]:
    """Return the rotation matrix of a quaternion (w, x, y, z), which need not be of unit length."""
    w, x, y, z = (torch.tensor(wxyz, dtype=torch.float64) / math.hypot(*wxyz)).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64).float()


def quaternion_of(rotation: Float[Tensor, "3 3"]) -> tuple[float, float, float, float]:
    """Return the unit quaternion (w, x, y, z), w >= 0, of a rotation matrix.

    The largest of the four is computed first, since the others are divided by it.
    """
    m = rotation.double().tolist()
    trace = m[0][0] + m[1][1] + m[2][2]
    squares = [1 + trace, *(1 - trace + 2 * m[i][i] for i in range(3))]
    most = max(range(4), key=squares.__getitem__)
    products = [
        [squares[0], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]],
        [m[2][1] - m[1][2], squares[1], m[0][1] + m[1][0], m[0][2] + m[2][0]],
        [m[0][2] - m[2][0], m[0][1] + m[1][0], squares[2], m[1][2] + m[2][1]],
        [m[1][0] - m[0][1], m[0][2] + m[2][0], m[1][2] + m[2][1], squares[3]],
    ][most]
    sign = 1.0 if products[0] >= 0 else -1.0
    w, x, y, z = (sign * value / (2 * math.sqrt(squares[most])) for value in products)
    return w, x, y, z
