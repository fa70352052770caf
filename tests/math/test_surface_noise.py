"""Noise on a surface: white on every map, the same on shared points."""

import torch

from usd.math.camera import orbit_cameras_deg
from usd.math.surface_noise import SurfaceNoise, cell_hashes

SIDE, BLOCK = 32, 4
SEEDED = torch.Generator().manual_seed(0)
VALUES = torch.randn(2**16, 3, generator=SEEDED)
SCREEN = torch.randn(3, SIDE, SIDE, generator=SEEDED)


def plane(shift: float = 0.0) -> torch.Tensor:
    """Points of a plane that a map of SIDE pixels shows, each BLOCK rendered pixels a side."""
    line = (torch.arange(SIDE * BLOCK) + 0.5) / (SIDE * BLOCK)
    y, x = torch.meshgrid(line, line + shift, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 0.3)])[None]


def test_a_map_is_white_noise_of_unit_variance_however_large_the_cells_are():
    on = torch.ones(1, 1, SIDE * BLOCK, SIDE * BLOCK, dtype=torch.bool)
    for cell in (
        1 / 256,
        1 / 128,
        1 / 32,
    ):  # smaller than a rendered pixel, as large, as large as one of the map
        noise = SurfaceNoise(VALUES, SCREEN, cell).maps(plane(), on)
        assert noise.shape == (1, 3, SIDE, SIDE)
        assert abs(float(noise.mean())) < 0.06 and abs(float(noise.std()) - 1) < 0.05
        neighbors = torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]
        assert abs(float(neighbors)) < 0.06


def test_a_shift_by_a_pixel_shifts_the_map():
    on = torch.ones(1, 1, SIDE * BLOCK, SIDE * BLOCK, dtype=torch.bool)
    here, there = (SurfaceNoise(VALUES, SCREEN, 1 / 128).maps(plane(shift), on) for shift in (0.0, 1 / SIDE))
    torch.testing.assert_close(here[..., 1:], there[..., :-1])


def test_the_screen_shows_where_nothing_is_covered_and_mixes_at_the_rim():
    on = torch.zeros(1, 1, SIDE * BLOCK, SIDE * BLOCK, dtype=torch.bool)
    torch.testing.assert_close(SurfaceNoise(VALUES, SCREEN, 1 / 128).maps(plane(), on)[0], SCREEN)
    on[..., : SIDE * BLOCK // 2 + 2] = True  # two of the four columns of the middle pixels are covered
    noise = SurfaceNoise(VALUES, SCREEN, 1 / 128).maps(plane(), on)[0, :, :, SIDE // 2]
    share = torch.corrcoef(torch.stack([noise.flatten(), SCREEN[:, :, SIDE // 2].flatten()]))[0, 1]
    assert abs(float(share) - 8 / (8**2 + 8) ** 0.5) < 0.06  # eight rendered pixels, against eight cells
    assert abs(float(noise.std()) - 1) < 0.2


def test_cells_are_those_of_a_grid_on_both_sides_of_the_origin():
    points = torch.tensor([[-0.01, 0.0, 0.0], [0.01, 0.0, 0.0], [0.09, 0.0, 0.0], [0.11, 0.0, 0.0]])
    keys = cell_hashes(points.T[None, :, None], 0.1, 1000)[0, 0].tolist()
    assert keys[1] == keys[2] and len(set(keys)) == 3 and min(keys) >= 0


def test_each_domain_of_a_view_has_noise_of_its_own_on_the_same_surface():
    noise = SurfaceNoise.drawn(torch.zeros(1, 4, 8, 8), 0.01, 0)
    cameras = orbit_cameras_deg([10.0, 20.0], [30.0, 200.0], 1.5, 40.0, 64)
    depth, covered = torch.full((2, 1, 64, 64), 1.2), torch.ones(2, 1, 64, 64)
    covered[..., :32] = 0
    one, both = noise.seen(cameras, depth, covered), noise.seen(cameras, depth, covered, domains=2)
    assert both.shape == (4, 4, 8, 8) and torch.equal(both[:2], one)
    for half in (slice(0, 4), slice(4, 8)):  # the screen, and the surface
        pair = torch.stack([both[:2, ..., half].flatten(), both[2:, ..., half].flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.2
    assert abs(float(both[2:].std()) - 1) < 0.15
