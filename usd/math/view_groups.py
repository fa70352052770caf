"""The cameras of models that make all their views at once, by the camera that took the picture."""

import math
from collections.abc import Callable

import torch

from usd.math.camera import (
    Cameras,
    Spherical,
    look_at,
    orbit_cameras,
    orbit_cameras_deg,
    orthographic_cameras,
)

SYNCDREAMER_VIEWS = 16
SYNCDREAMER_SIZE = 256
SYNCDREAMER_FOCAL = 280 / 256
"""Focal length in picture heights."""
SYNCDREAMER_ELEVATION_DEG, SYNCDREAMER_DISTANCE = 30.0, 1.5

WONDER3D_AZIMUTH_DEG = (-90.0, -45.0, 0.0, 90.0, 180.0, -135.0)
"""Of front, front right, right, back, left, front left, in the system's own frame."""
WONDER3D_DISTANCE = (1.3, 1.3 * math.sqrt(2), 1.3, 1.3, 1.3, 1.3 * math.sqrt(2))
WONDER3D_SPAN, WONDER3D_SIZE = 1.35, 256
"""World units and pixels of a side."""

TOYBOX_VIEWS = 6
TOYBOX_ELEVATION_DEG = (30.0, 0.0)
"""In turn."""


def syncdreamer_cameras(size: int = SYNCDREAMER_SIZE, azimuth_deg: float | int = 0.0) -> Cameras:
    """Return SyncDreamer's 16 cameras (arXiv 2309.03453), the input picture taken from ``azimuth_deg``."""
    azimuth = [azimuth_deg + 360 / SYNCDREAMER_VIEWS * i for i in range(SYNCDREAMER_VIEWS)]
    fov_y = math.degrees(2 * math.atan(0.5 / SYNCDREAMER_FOCAL))
    return orbit_cameras_deg(SYNCDREAMER_ELEVATION_DEG, azimuth, SYNCDREAMER_DISTANCE, fov_y, size)


def wonder3d_cameras(size: int = WONDER3D_SIZE, azimuth_deg: float | int = -90.0) -> Cameras:
    """Return Wonder3D's six cameras (arXiv 2310.15008), the front one at ``azimuth_deg``, all at elevation 0."""
    azimuth = (torch.tensor(WONDER3D_AZIMUTH_DEG) + 90.0 + azimuth_deg).deg2rad()
    place = Spherical(torch.zeros(len(azimuth)), azimuth, torch.tensor(WONDER3D_DISTANCE)).xyz()
    return orthographic_cameras(look_at(place, torch.zeros_like(place)), WONDER3D_SPAN, size, size)


def syncdreamer_group(reference: Cameras, size: int) -> Cameras:
    """Return SyncDreamer's cameras, the first at the reference's azimuth."""
    return syncdreamer_cameras(size, _azimuth_deg(reference)).to(reference.device)


def wonder3d_group(reference: Cameras, size: int) -> Cameras:
    """Return Wonder3D's cameras about the picture's own axes: the front one looks as the reference does."""
    cameras = wonder3d_cameras(size).to(reference.device)
    turn = torch.zeros_like(cameras.c2w[:1])
    # both look at the origin, so one rotation carries front to reference, and the others with it
    turn[:, :3, :3] = reference.c2w[:1, :3, :3] @ cameras.c2w[:1, :3, :3].transpose(1, 2)
    turn[:, 3, 3] = 1
    return orthographic_cameras(turn @ cameras.c2w, WONDER3D_SPAN, size, size)


def toybox_group(reference: Cameras, size: int) -> Cameras:
    """Return the embedded model's six cameras, as far from the object as the reference and with its field of view.

    They stand every 60 degrees, none at the reference's azimuth.
    """
    angle = 360 / TOYBOX_VIEWS
    azimuth = torch.arange(TOYBOX_VIEWS).add(0.5).mul(angle).deg2rad().to(reference.device)
    elevation = torch.tensor(TOYBOX_ELEVATION_DEG).repeat(TOYBOX_VIEWS // 2).deg2rad().to(reference.device)
    place = reference.spherical
    around = Spherical(elevation, azimuth + place.azimuth[0], place.distance[0].expand(TOYBOX_VIEWS))
    return orbit_cameras(around, reference.fov_y[0].expand(TOYBOX_VIEWS), size, size)


def _azimuth_deg(reference: Cameras) -> float:
    return float(reference.spherical.azimuth[0].rad2deg())


ViewGroup = Callable[[Cameras, int], Cameras]
"""The cameras of a group, given the picture's one camera and the pixels of a side."""
VIEW_GROUPS: dict[str, ViewGroup] = {
    "syncdreamer": syncdreamer_group,
    "wonder3d": wonder3d_group,
    "toybox": toybox_group,
}
"""By the name of the model."""


def opencv_world_to_camera(cameras: Cameras) -> torch.Tensor:
    """Return world-to-camera matrices (B 3 4) with OpenCV's axes: x right, y down, z forward."""
    flip = torch.tensor([1.0, -1.0, -1.0], device=cameras.device)
    return cameras.world_to_camera()[:, :3] * flip[:, None]
