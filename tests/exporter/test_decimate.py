"""Decimation: as few faces as asked for, the same topology, the same place."""

import pytest
import torch

from tests.exporter.solids import plane, sphere, torus, two_spheres
from usd.core.types import Mesh
from usd.exporter.decimate import decimate
from usd.math.mesh import area, components, euler_number, is_closed, volume


@pytest.mark.parametrize(("make", "euler", "parts"), [(sphere, 2, 1), (torus, 0, 1), (two_spheres, 4, 2)])
def test_a_closed_mesh_stays_closed_with_its_euler_number(make, euler: int, parts: int) -> None:
    mesh = make()
    vertices, faces = decimate(mesh.vertices, mesh.faces, 200)
    assert 196 <= len(faces) <= 200
    assert is_closed(faces) and euler_number(faces) == euler
    assert int(components(faces, len(vertices)).max()) + 1 == parts
    assert float(volume(vertices, faces)) == pytest.approx(float(volume(mesh.vertices, mesh.faces)), rel=0.05)


def test_vertices_stay_near_the_surface() -> None:
    mesh = sphere(32)
    vertices, faces = decimate(mesh.vertices, mesh.faces, len(mesh.faces) // 4)
    assert float((vertices.norm(dim=1) - 0.5).abs().max()) < 0.006
    assert torch.equal(torch.unique(faces), torch.arange(len(vertices)))


def test_a_plane_needs_few_faces_and_keeps_its_border() -> None:
    mesh = plane()
    vertices, faces = decimate(mesh.vertices, mesh.faces, 12)
    assert len(faces) <= 40
    assert float(area(vertices, faces)) == pytest.approx(1, abs=1e-5)
    assert float(vertices[:, 2].abs().max()) < 1e-9
    assert torch.allclose(vertices.amin(0)[:2], torch.zeros(2), atol=1e-6)
    assert torch.allclose(vertices.amax(0)[:2], torch.ones(2), atol=1e-6)


def test_the_smallest_closed_mesh_is_left_alone() -> None:
    """A tetrahedron has no edge that may collapse."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    _, left = decimate(vertices, faces, 2)
    assert len(left) == 4 and is_closed(left)


def test_three_sheets_at_one_edge_stay_joined_there() -> None:
    a, b, c = plane(6), plane(6), plane(6)
    up = Mesh(b.vertices[:, [2, 1, 0]], b.faces)
    back = Mesh(c.vertices * torch.tensor([-1.0, 1, 1]), c.faces)
    vertices = torch.cat([a.vertices, up.vertices, back.vertices])
    faces = torch.cat([a.faces, up.faces + len(a.vertices), back.faces + 2 * len(a.vertices)])
    unique, label = torch.unique(vertices.round(decimals=5), dim=0, return_inverse=True)
    _, left = decimate(unique, label[faces], 60)
    edges = torch.cat([left[:, [0, 1]], left[:, [1, 2]], left[:, [2, 0]]]).sort(1).values
    count = torch.unique(edges, dim=0, return_counts=True)[1]
    assert len(left) < len(faces) and int((count == 3).sum()) == 6


def test_nothing_happens_where_nothing_is_asked() -> None:
    mesh = sphere(12)
    vertices, faces = decimate(mesh.vertices, mesh.faces, len(mesh.faces))
    assert torch.equal(vertices, mesh.vertices) and torch.equal(faces, mesh.faces)


def test_the_result_does_not_depend_on_size_or_place() -> None:
    mesh = sphere(16)
    small, faces = decimate(mesh.vertices, mesh.faces, 100)
    large, same = decimate(1000 * mesh.vertices.double(), mesh.faces, 100)
    assert len(same) == len(faces)
    assert torch.allclose(large.norm(dim=1).mean() / 1000, small.double().norm(dim=1).mean(), atol=1e-3)
