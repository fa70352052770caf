"""The fixed cameras of models that make all their views at once."""

import math

import torch

from usd.math.camera import Cameras, Spherical, orbit_cameras, orbit_cameras_deg

SYNCDREAMER_VIEWS = 16
SYNCDREAMER_SIZE = 256
SYNCDREAMER_FOCAL = 280 / 256
"""Focal length in picture heights."""
SYNCDREAMER_ELEVATION_DEG, SYNCDREAMER_DISTANCE = 30.0, 1.5


TOYBOX_VIEWS = 6
TOYBOX_ELEVATION_DEG = (30.0, 0.0)
"""In turn."""


def syncdreamer_cameras(size: int = SYNCDREAMER_SIZE, azimuth_deg: float | int = 0.0) -> Cameras:
    """Return SyncDreamer's 16 cameras (arXiv 2309.03453), the input picture taken from ``azimuth_deg``."""
    azimuth = [azimuth_deg + 360 / SYNCDREAMER_VIEWS * i for i in range(SYNCDREAMER_VIEWS)]
    fov_y = math.degrees(2 * math.atan(0.5 / SYNCDREAMER_FOCAL))
    return orbit_cameras_deg(SYNCDREAMER_ELEVATION_DEG, azimuth, SYNCDREAMER_DISTANCE, fov_y, size)


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


def opencv_world_to_camera(cameras: Cameras) -> torch.Tensor:
    """Return world-to-camera matrices (B 3 4) with OpenCV's axes: x right, y down, z forward."""
    flip = torch.tensor([1.0, -1.0, -1.0], device=cameras.device)
    return cameras.world_to_camera()[:, :3] * flip[:, None]
