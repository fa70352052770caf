"""Depths at which pictures agree, of a plane with a pattern that is known in closed form."""

import torch

from usd.math.camera import orbit_cameras_deg
from usd.math.depth_sweep import swept_points


def pattern(x: torch.Tensor) -> torch.Tensor:
    """Colors of the plane z = 0, of waves in all directions."""
    waves = torch.tensor([[9.0, 4.0, -6.0], [3.0, -11.0, 7.0]])
    return 0.5 + 0.4 * torch.sin(x[..., :2] @ waves)


def test_points_are_found_where_the_plane_is_in_its_colors() -> None:
    cameras = orbit_cameras_deg(
        [50.0, 60.0, 70.0, 55.0, 65.0, 75.0], [0.0, 20.0, 40.0, 60.0, 80.0, 100.0], 1.5, 30.0, 64
    )
    origins, directions = cameras.rays()
    hit = origins - (origins[..., 2:] / directions[..., 2:]) * directions
    rgb = pattern(hit).permute(0, 3, 1, 2)
    found = swept_points(rgb, cameras, (0.5, 4.0), 500, torch.Generator().manual_seed(0))
    assert found.points.shape == found.colors.shape == (500, 3)
    # A step of depth there is 0.05; a random depth would be off by more than half a unit.
    assert float(found.points[:, 2].abs().median()) < 0.03
    assert float((found.points[:, 2].abs() < 0.1).float().mean()) > 0.9
    assert float((found.colors - pattern(found.points)).abs().median()) < 0.1
