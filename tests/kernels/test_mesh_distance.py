"""Signed distances of meshes: known shapes, kernel against twin, holes."""

import pytest
import torch

from usd.kernels.mesh_distance import mesh_distance
from usd.math.isosurface import marching_cubes, sample_grid


def ball(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    return marching_cubes(sample_grid(lambda x: 0.5 - x.norm(dim=-1), n, 1.0, torch.zeros(())), 0.0, 1.0)


def box() -> tuple[torch.Tensor, torch.Tensor]:
    """[-0.5, 0.5]^3 as twelve triangles."""
    return marching_cubes(torch.ones(2, 2, 2), 0.0, 0.5)


def points(n: int = 200) -> torch.Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1


def box_distance(x: torch.Tensor) -> torch.Tensor:
    q = x.abs() - 0.5
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_the_distance_to_a_box_is_exact(implementation: str) -> None:
    x = points()
    assert torch.allclose(mesh_distance(x, *box(), implementation), box_distance(x), atol=1e-5)


def test_kernel_and_twin_agree_on_a_ball_and_on_half_of_one() -> None:
    vertices, faces = ball()
    for part in (faces, faces[: len(faces) // 2], faces[::3]):
        warp, torch_ = (mesh_distance(points(), vertices, part, i) for i in ("warp", "torch"))
        assert torch.allclose(warp.abs(), torch_.abs(), atol=1e-5)
        assert float((warp.sign() != torch_.sign()).float().mean()) < 0.02


def test_a_missing_patch_does_not_turn_the_inside_out() -> None:
    vertices, faces = ball()
    holed = faces[vertices[faces].mean(1)[:, 2] < 0.4]
    deep = torch.zeros(1, 3)
    assert len(holed) < len(faces) and float(mesh_distance(deep, vertices, holed)) < -0.3
    assert float(mesh_distance(torch.tensor([[0.0, 0.0, 0.9]]), vertices, holed)) > 0.3


def test_distances_far_away_and_of_no_points() -> None:
    vertices, faces = box()
    far = torch.tensor([[300.0, 0.0, 0.0]])
    assert float(mesh_distance(far, vertices, faces)) == pytest.approx(299.5, rel=1e-5)
    assert mesh_distance(far[:0], vertices, faces).shape == (0,)


def test_a_mesh_without_faces_is_refused() -> None:
    with pytest.raises(ValueError, match="no faces"):
        mesh_distance(points(), torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.long))
