"""Measures of meshes against closed forms, and what cleaning keeps."""

import pytest
import torch
import trimesh

from usd.math import mesh


def cube(center: float = 0.0, side: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    box = trimesh.creation.box((side, side, side))
    return torch.tensor(box.vertices, dtype=torch.float32) + center, torch.tensor(box.faces)


def together(*parts: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    counts = [0, *[len(v) for v, _ in parts]]
    shifts = [sum(counts[: i + 1]) for i in range(len(parts))]
    return torch.cat([v for v, _ in parts]), torch.cat([f + s for (_, f), s in zip(parts, shifts)])


def test_a_cube() -> None:
    vertices, faces = cube(side=2.0)
    assert float(mesh.area(vertices, faces)) == pytest.approx(24)
    assert float(mesh.volume(vertices, faces)) == pytest.approx(8)
    assert mesh.euler_number(faces) == 2 and mesh.is_closed(faces)


def test_volume_changes_sign_with_the_turning_and_not_with_the_place() -> None:
    vertices, faces = cube(center=3.0)
    assert float(mesh.volume(vertices, faces)) == pytest.approx(1, rel=1e-4)
    assert float(mesh.volume(vertices, faces.flip(1))) == pytest.approx(-1, rel=1e-4)


def test_a_mesh_with_a_hole_or_a_turned_face_is_not_closed() -> None:
    _, faces = cube()
    assert not mesh.is_closed(faces[1:])
    assert not mesh.is_closed(torch.cat([faces[:1].flip(1), faces[1:]]))


def test_vertex_normals_of_a_sphere_point_outwards() -> None:
    sphere = trimesh.creation.icosphere(3)
    vertices = torch.tensor(sphere.vertices, dtype=torch.float32)
    normals = mesh.vertex_normals(vertices, torch.tensor(sphere.faces))
    assert (normals * vertices).sum(-1).min() > 0.99


def test_components_and_the_large_ones() -> None:
    vertices, faces = together(cube(), cube(5.0, 0.5), cube(9.0, 0.1))
    label = mesh.components(faces, len(vertices))
    assert label.unique().tolist() == [0, 1, 2] and label.bincount().tolist() == [12, 12, 12]
    kept = [int(mesh.large_components(vertices, faces, f).sum()) for f in (0.0, 0.1, 0.5, 1.0)]
    assert kept == [36, 24, 12, 12]


def test_no_faces_at_all() -> None:
    assert mesh.large_components(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), 0.5).shape == (0,)


def test_unused_vertices_are_dropped() -> None:
    vertices, faces = together(cube(), cube(5.0))
    few, renamed = mesh.drop_unused(vertices, faces[12:])
    assert len(few) == 8 and torch.equal(few[renamed], vertices[faces[12:]])


def test_a_mesh_is_cut_to_a_box_exactly_and_stays_one_surface():
    # A tetrahedron's corner at the origin, cut at x = 0.25: a smaller copy is taken away.
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    cut, kept = mesh.clip_to_box(vertices, faces, torch.tensor([0.25, -9, -9]), torch.full((3,), 9.0))
    share = 0.75**2  # the copy's edges are three quarters as long
    whole = mesh.area(vertices, faces) - 0.5  # the face at x = 0 is gone
    torch.testing.assert_close(mesh.area(cut, kept), share * whole)
    assert float(cut[:, 0].min()) == 0.25
    assert int(mesh.components(kept, len(cut)).max()) == 0
    inside = cut.mean(0)
    outward = (mesh.face_cross(cut, kept) * (cut[kept].mean(1) - inside)).sum(1)
    assert (outward > 0).all(), "faces keep their sides"
    everything = torch.full((3,), 9.0)
    same, faces_again = mesh.clip_to_box(vertices, faces, -everything, everything)
    torch.testing.assert_close(same[faces_again], vertices[faces])
    assert len(mesh.clip_to_box(vertices, faces, everything - 1, everything)[1]) == 0
