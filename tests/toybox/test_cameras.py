"""Cameras around toys: the reference, and held-out ones that never stand where it does."""

import pytest
import torch

from usd.math.camera import Cameras
from usd.toybox import REFERENCE_AZIMUTH_DEG, REFERENCE_DISTANCE, REFERENCE_ELEVATION_DEG
from usd.toybox.cameras import HELD_OUT_ELEVATIONS_DEG, held_out_cameras, reference_camera


def azimuths(cameras: Cameras) -> torch.Tensor:
    """Azimuths in degrees of where cameras stand, from +x towards +y."""
    return torch.atan2(cameras.position[:, 1], cameras.position[:, 0]).rad2deg() % 360


def elevations(cameras: Cameras) -> torch.Tensor:
    return torch.asin(cameras.position[:, 2] / cameras.position.norm(dim=-1)).rad2deg()


def test_the_reference_stands_where_the_configurations_say():
    camera = reference_camera(64)
    assert camera.position.norm(dim=-1).item() == pytest.approx(REFERENCE_DISTANCE)
    assert azimuths(camera).item() == pytest.approx(REFERENCE_AZIMUTH_DEG % 360, abs=1e-3)
    assert elevations(camera).item() == pytest.approx(REFERENCE_ELEVATION_DEG, abs=1e-3)
    origin, forward = camera.position[0], -camera.c2w[0, :3, 2]
    assert torch.linalg.cross(origin, forward).norm() < 1e-5, "it looks at the middle"


@pytest.mark.parametrize("count", [1, 4, 7, 16])
def test_held_out_cameras_are_even_and_away_from_the_reference(count):
    cameras = held_out_cameras(count, 8)
    turn = (azimuths(cameras) - REFERENCE_AZIMUTH_DEG) % 360
    assert turn.diff().tolist() == pytest.approx([360 / count] * (count - 1), abs=1e-2)
    assert torch.minimum(turn, 360 - turn).min().item() == pytest.approx(180 / count, abs=1e-2)
    expected = [HELD_OUT_ELEVATIONS_DEG[i % len(HELD_OUT_ELEVATIONS_DEG)] for i in range(count)]
    assert elevations(cameras).tolist() == pytest.approx(expected, abs=1e-3)
