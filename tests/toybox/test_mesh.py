"""Meshes of toys: vertices on the surface, in edges where there are some, in the colors of the pictures."""

import pytest
import torch

from usd.toybox.distance import signed_distance
from usd.toybox.mesh import meeting_points, on_surface, sharp_toy_mesh, surface_normals, toy_mesh
from usd.toybox.objects import make_toy


def test_planes_that_meet_in_a_corner_bring_the_vertex_there():
    middles = torch.tensor([[1.0, 0.6, 0.6], [0.6, 1.0, 0.6], [0.6, 0.6, 1.0]])
    faces = torch.tensor([[0, 1, 2], [0, 3, 4], [0, 5, 6]])
    found = meeting_points(faces, middles, torch.eye(3), reach=1.0)
    assert found[0].tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert found[1].tolist() == pytest.approx(middles[0].tolist(), abs=1e-6), (
        "one plane leaves it at its middle"
    )


def test_directions_that_the_planes_leave_open_keep_the_mean():
    """Two planes meet in an edge along z: the vertex goes into it, and along it stays at the mean."""
    middles = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.6]])
    faces = torch.tensor([[0, 1, 2], [0, 3, 4]])
    normals = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert meeting_points(faces, middles, normals, 1.0)[0].tolist() == pytest.approx(
        [1.0, 1.0, 0.4], abs=1e-5
    )


def test_no_vertex_goes_farther_than_it_may():
    middles = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    normals = torch.nn.functional.normalize(torch.tensor([[1.0, 0.3, 0.0], [-0.3, 1.0, 0.0]]), dim=-1)
    faces = torch.tensor([[0, 1, 2], [0, 3, 4]])
    moved = meeting_points(faces, middles, normals, 0.1)[0] - middles.mean(0)
    assert moved.norm().item() == pytest.approx(0.1, abs=1e-6)


def test_points_near_the_surface_come_onto_it():
    toy = make_toy(11, 0.0, "mug")
    mesh = toy_mesh(toy, 48)
    noise = 0.01 * torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0))
    away = signed_distance(toy, mesh.vertices + noise)[0].abs().mean()
    back = signed_distance(toy, on_surface(toy, mesh.vertices + noise))[0].abs()
    assert away > 3e-3 and back.median() < 1e-5


def test_normals_are_unit_and_point_outwards():
    toy = make_toy(3, 0.0, "owl")
    mesh = toy_mesh(toy, 40)
    normals = surface_normals(toy, mesh.vertices)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(normals)))
    assert (signed_distance(toy, mesh.vertices + 0.01 * normals)[0] > 0).float().mean() > 0.99


def test_a_sharp_mesh_keeps_faces_and_colors():
    toy = make_toy(2, 0.0, "house")
    plain, sharp = toy_mesh(toy, 40), sharp_toy_mesh(toy, 40)
    assert torch.equal(plain.faces, sharp.faces)
    assert sharp.color is not None and sharp.color.shape == sharp.vertices.shape
    assert ((sharp.color >= 0) & (sharp.color <= 1)).all()
    reach = float((plain.vertices[plain.faces[:, 0]] - plain.vertices[plain.faces[:, 1]]).norm(dim=-1).mean())
    assert (sharp.vertices - plain.vertices).norm(dim=-1).max() < 6 * reach
