"""Edge collapses with a heap: no farther from the surface than in rounds, and as careful with what a mesh may be."""

import pytest
import torch

from tests.exporter.solids import plane, sphere, torus
from usd.core.types import Mesh
from usd.exporter.decimate import decimate
from usd.kernels import edge_collapse_warp
from usd.kernels.edge_collapse import collapse_edges
from usd.kernels.mesh_distance import mesh_distance
from usd.math.isosurface import marching_cubes, sample_grid
from usd.math.mesh import area, euler_number, is_closed


def bumpy() -> Mesh:
    def inside(x: torch.Tensor) -> torch.Tensor:
        waves = 0.08 * torch.sin(9 * x[:, 0]) * torch.cos(7 * x[:, 1]) + 0.05 * torch.sin(11 * x[:, 2])
        return 0.5 + waves - x.norm(dim=-1)

    return Mesh(*marching_cubes(sample_grid(inside, 40, 0.8, torch.zeros(1)), 0.0, 0.8))


def errors(mesh: Mesh, vertices: torch.Tensor, faces: torch.Tensor) -> tuple[float, float]:
    """Mean and largest distance between two surfaces, both ways, at vertices and middles of faces."""
    there = torch.cat([vertices, vertices[faces].mean(1)])
    back = torch.cat([mesh.vertices, mesh.vertices[mesh.faces].mean(1)])
    found = torch.cat(
        [mesh_distance(there, mesh.vertices, mesh.faces).abs(), mesh_distance(back, vertices, faces).abs()]
    )
    return float(found.mean()), float(found.max())


@pytest.mark.parametrize("make", [bumpy, torus])
def test_a_heap_errs_no_more_than_rounds_do_and_keeps_topology(make) -> None:
    mesh = make()
    target = len(mesh.faces) // 12
    found = {how: decimate(mesh.vertices, mesh.faces, target, how) for how in ("warp", "torch")}
    for vertices, faces in found.values():
        assert target - 1 <= len(faces) <= target
        assert is_closed(faces) and euler_number(faces) == euler_number(mesh.faces)
        assert torch.equal(torch.unique(faces), torch.arange(len(vertices)))
    mean, largest = errors(mesh, *found["warp"])
    mean_of_rounds, largest_of_rounds = errors(mesh, *found["torch"])
    assert mean <= 1.02 * mean_of_rounds and largest <= 1.2 * largest_of_rounds


def test_faces_never_turn_over() -> None:
    mesh = sphere(24)
    vertices, faces = decimate(mesh.vertices, mesh.faces, 60, "warp")
    a, b, c = vertices[faces].unbind(1)
    assert bool(((torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(-1) > 0).all())


def test_a_hole_stays_a_hole_of_its_size() -> None:
    """Borders are walls: a plane with a window needs few faces, and keeps its area and both its borders."""
    whole = plane(12)
    middle = whole.vertices[whole.faces].mean(1)[:, :2]
    window = ((middle > 0.25) & (middle < 0.75)).all(1)
    mesh = Mesh(whole.vertices, whole.faces[~window])
    vertices, faces = decimate(mesh.vertices, mesh.faces, 20, "warp")
    assert len(faces) <= 60 and euler_number(faces) == 0
    assert float(area(vertices, faces)) == pytest.approx(0.75, abs=1e-5)


def test_a_face_that_names_a_vertex_twice_goes_and_nothing_else_minds() -> None:
    mesh = sphere(12)
    flat = torch.cat([mesh.faces, torch.tensor([[0, 0, 1], [5, 7, 5]])])
    _, faces = collapse_edges(mesh.vertices.double(), flat, 100, lambda gone: None, "warp")
    assert len(faces) == 100 and is_closed(faces)
    assert bool((faces[:, 0] != faces[:, 1]).all())


def test_progress_is_told_and_the_given_mesh_is_left_as_it_is(monkeypatch) -> None:
    monkeypatch.setattr(edge_collapse_warp, "AT_ONCE", 40)
    mesh, told = sphere(16), []
    x, before = mesh.vertices.double(), mesh.faces.clone()
    _, faces = collapse_edges(x, mesh.faces, 100, told.append, "warp")
    assert len(told) > 3 and told == sorted(told) and told[-1] == len(mesh.faces) - len(faces)
    assert torch.equal(x, mesh.vertices.double()) and torch.equal(mesh.faces, before)


def test_a_full_heap_drops_what_is_stale_and_changes_nothing(monkeypatch) -> None:
    mesh = sphere(16)
    roomy = decimate(mesh.vertices, mesh.faces, 100, "warp")
    monkeypatch.setattr(edge_collapse_warp, "ROOM", 1.05)
    tight = decimate(mesh.vertices, mesh.faces, 100, "warp")
    assert is_closed(tight[1]) and len(tight[1]) == len(roomy[1])
    assert errors(mesh, *tight) == pytest.approx(errors(mesh, *roomy), rel=0.2)
