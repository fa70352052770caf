"""Where toys are seen from: the reference camera of ``input.png``, and the held-out views around it."""

import math

import torch

from usd.math.camera import Cameras, Spherical, orbit_cameras
from usd.toybox import (
    REFERENCE_AZIMUTH_DEG,
    REFERENCE_DISTANCE,
    REFERENCE_ELEVATION_DEG,
    REFERENCE_FOV_DEG,
)

HELD_OUT_ELEVATIONS_DEG = (0.0, 20.0, 10.0, 35.0)


def cameras_at(elevation_deg: list[float], azimuth_deg: list[float], size: int) -> Cameras:
    """Return cameras at the reference's distance and field of view."""
    angles = torch.tensor([elevation_deg, azimuth_deg]).deg2rad()
    place = Spherical(angles[0], angles[1], torch.full_like(angles[0], REFERENCE_DISTANCE))
    return orbit_cameras(place, math.radians(REFERENCE_FOV_DEG), size, size)


def reference_camera(size: int) -> Cameras:
    """Return the camera of ``input.png``: the configurations' default reference camera."""
    return cameras_at([REFERENCE_ELEVATION_DEG], [REFERENCE_AZIMUTH_DEG], size)


def held_out_cameras(count: int, size: int) -> Cameras:
    """Return cameras evenly around, none at the reference's azimuth, elevations in turn from a short list."""
    azimuth = [REFERENCE_AZIMUTH_DEG + (i + 0.5) * 360 / count for i in range(count)]
    elevation = [HELD_OUT_ELEVATIONS_DEG[i % len(HELD_OUT_ELEVATIONS_DEG)] for i in range(count)]
    return cameras_at(elevation, azimuth, size)
