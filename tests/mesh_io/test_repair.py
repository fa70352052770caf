"""Stray faces, double-sided faces, and faces that turn the wrong way round."""

import pytest
import torch
import trimesh

from usd.core.types import Mesh
from usd.math.mesh import is_closed, volume
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.repair import consistent_turns, drop_strays, face_outward, is_stray, weld


def box(at: float = 0.0, size: float = 1.0) -> ColoredMesh:
    made = trimesh.creation.box((size, size, size))
    vertices = torch.tensor(made.vertices) + torch.tensor([at, 0.0, 0.0])
    color = torch.rand(len(vertices), 3, generator=torch.Generator().manual_seed(0))
    return ColoredMesh.of(Mesh(vertices, torch.tensor(made.faces).long(), color))


def both(a: ColoredMesh, b: ColoredMesh) -> ColoredMesh:
    faces = torch.cat([a.faces, b.faces + len(a.vertices)])
    return ColoredMesh.of(Mesh(torch.cat([a.vertices, b.vertices]), faces))


def turn_all(mesh: ColoredMesh) -> ColoredMesh:
    return mesh.flip(torch.ones(len(mesh.faces), dtype=torch.bool))


def size_of(mesh: ColoredMesh) -> float:
    return float(volume(mesh.vertices, mesh.faces))


def test_a_mesh_turned_inside_out_is_righted_and_it_is_said() -> None:
    mesh = face_outward(turn_all(box()))
    assert size_of(mesh) == pytest.approx(1) and mesh.notes == ("it is turned inside out; righted",)
    assert face_outward(box()).notes == ()


def test_a_thin_plate_turned_inside_out_is_righted_too() -> None:
    plate = box()
    plate = plate.move(plate.vertices * torch.tensor([1.0, 1.0, 1e-4]))
    assert size_of(face_outward(turn_all(plate))) == pytest.approx(1e-4)


def test_an_open_sheet_is_left_and_an_open_bowl_righted() -> None:
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    flat = Mesh(torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]).double(), faces)
    assert face_outward(ColoredMesh.of(flat)).notes == ()
    bowl = turn_all(box()).select(torch.arange(12) >= 2)
    assert face_outward(bowl).notes == ("it is turned inside out; righted",)


def test_mixed_winding_is_made_consistent() -> None:
    wrong = torch.zeros(12, dtype=torch.bool)
    wrong[[1, 4, 7, 8]] = True
    mesh = face_outward(box().flip(wrong))
    assert is_closed(mesh.faces) and size_of(mesh) == pytest.approx(1)
    assert mesh.notes == ("4 of 12 faces turn the wrong way round; righted",)
    rows, corners = torch.arange(12).repeat_interleave(3), torch.eye(3).repeat(12, 1)
    found, kept = mesh.light(rows, corners), box()
    expected = {tuple(v.tolist()): kept.light(torch.tensor([f]), torch.eye(3)[[c]])[0] for f in range(12) for c in range(3) for v in [kept.vertices[kept.faces[f, c]]]}  # fmt: skip
    assert all(torch.allclose(found[3 * f + c], expected[tuple(mesh.vertices[mesh.faces[f, c]].tolist())]) for f in range(12) for c in range(3))  # fmt: skip


def test_double_sided_faces_become_single() -> None:
    one = box()
    faces = torch.cat([one.faces, one.faces.flip(1)])
    mesh = face_outward(ColoredMesh.of(Mesh(one.vertices, faces)))
    assert len(mesh.faces) == 12 and size_of(mesh) == pytest.approx(1)
    assert mesh.notes == ("12 faces on the same corners as others (double-sided) are dropped",)


def test_parts_beside_each_other_are_judged_apart_and_cavities_kept() -> None:
    apart = face_outward(both(box(), turn_all(box(3.0))))
    assert size_of(apart) == pytest.approx(2)
    hollow = face_outward(both(box(), turn_all(box(0.0, 0.5))))
    assert size_of(hollow) == pytest.approx(1 - 0.125) and hollow.notes == ()


def test_a_moebius_strip_has_no_side_to_turn_to() -> None:
    rows = [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(11)] + [(22, 23, 0, 1)]
    faces = torch.tensor([t for a, b, c, d in rows for t in ((a, b, c), (a, c, d))])
    sheet, turned = consistent_turns(faces)
    assert not sheet.any() and not turned.any()


def test_a_stray_face_far_away_does_not_decide_the_size() -> None:
    far = ColoredMesh.of(
        Mesh(torch.tensor([[1e4, 0, 0], [1e4, 1, 0], [1e4, 0, 1.0]]).double(), torch.tensor([[0, 1, 2]]))
    )
    mesh = drop_strays(both(box(), far))
    assert len(mesh.faces) == 12 and float(mesh.vertices.abs().max()) == 0.5
    assert "1 of 13 faces lie more than 50 times farther from the middle" in mesh.notes[0]
    assert not is_stray(both(box(), box(20.0))).any()


def test_a_spike_to_a_far_vertex_goes_with_its_faces() -> None:
    one = box()
    vertices = torch.cat([one.vertices, torch.tensor([[0, 0, 1e5]]).double()])
    faces = torch.cat([one.faces, torch.tensor([[0, 1, 8]])])
    assert len(drop_strays(ColoredMesh.of(Mesh(vertices, faces))).faces) == 12


def test_welding_keeps_colors_of_corners() -> None:
    one = box()
    corners = one.vertices[one.faces].reshape(-1, 3) + 1e-9 * torch.rand(36, 3).double()
    soup = one.move(corners)
    soup = ColoredMesh(
        corners, torch.arange(36).view(-1, 3), one.colors, one.color_of_face, None, one.corner_light
    )
    mesh = weld(soup, 1e-6)
    assert (
        len(mesh.vertices) == 8 and is_closed(mesh.faces) and torch.equal(mesh.corner_light, one.corner_light)
    )
