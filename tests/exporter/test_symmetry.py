"""Mirror planes of shapes whose symmetries are known, and pictures of one side that say what the other looks like."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.types import Mesh
from usd.exporter.reference_projection import GRAZING, ReferenceProjection
from usd.exporter.symmetry import Mirror, mirrored_picture, upright_mirrors
from usd.kernels.rasterize import Tracer
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.pictures import pictures


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def box(degrees: float = 0.0) -> Mesh:
    """A box of three different sides, turned about +z, of many small faces."""
    import trimesh

    made = trimesh.creation.box((0.8, 0.5, 0.4)).subdivide().subdivide().subdivide()
    turn = math.radians(degrees)
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]]
    )
    vertices = torch.tensor(made.vertices).float() @ rotation.T
    return Mesh(vertices, torch.tensor(made.faces).long())


def test_a_turned_box_has_the_two_planes_that_turned_with_it() -> None:
    mesh = box(20.0)
    found = sorted(mirror.azimuth_deg for mirror in upright_mirrors(mesh.vertices, mesh.faces, seeded()))
    assert found == [pytest.approx(20.0, abs=0.5), pytest.approx(110.0, abs=0.5)]


def test_a_crooked_shape_has_no_plane() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0.1, 0], [0.2, 0.45, 0], [0.15, 0.1, 0.6]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    assert upright_mirrors(vertices, faces, seeded()) == []


def test_a_mirror_image_of_a_mirror_image_is_the_point_and_lies_as_far_on_the_other_side() -> None:
    mirror, x = Mirror(torch.tensor([0.6, 0.8, 0.0]), 0.3), torch.randn(9, 3, generator=seeded())
    there = mirror.points(x)
    assert torch.allclose(mirror.points(there), x, atol=1e-6)
    assert torch.allclose((x + there) @ mirror.normal / 2, torch.full((9,), 0.3), atol=1e-6)
    assert torch.allclose(mirror.directions(x).norm(dim=-1), x.norm(dim=-1))
    assert mirror.azimuth_deg == pytest.approx(math.degrees(math.atan2(0.8, 0.6)))


def shown_obliquely(
    true: Callable[[Tensor], Float[Tensor, "N"]], given: Callable[[Tensor], Float[Tensor, "N"]]
) -> tuple[ColoredMesh, ReferenceProjection]:
    """A gray box as given, and a picture of how it truly looks, which shows one of its long ends and a side."""
    mesh, camera = box(), orbit_cameras_deg(10.0, 50.0, 1.6, 40.0, 96)
    look, start = (
        ColoredMesh.of(Mesh(mesh.vertices, mesh.faces, gray(mesh.vertices)[:, None].expand(-1, 3)))
        for gray in (true, given)
    )
    rgba = pictures(look, camera)[0]
    straight = torch.cat([rgba[:3] / rgba[3:].clamp_min(1e-6), rgba[3:]])
    return start, ReferenceProjection(straight, camera, Tracer(mesh.vertices, mesh.faces), 0.01, GRAZING)


SYMMETRIC = (
    lambda x: 0.3 + 0.5 * x[:, 0].abs() + 0.6 * x[:, 1],
    lambda x: 0.35 + 0.2 * x[:, 0].abs() + 0.5 * x[:, 1],
)
"""Gray levels, true and as given, that are the same on both ends of the box but not on both of its sides."""


def test_the_hidden_end_of_a_symmetric_box_gets_the_colors_of_the_end_that_is_shown() -> None:
    start, picture = shown_obliquely(*SYMMETRIC)
    found = mirrored_picture(start, picture, seeded())
    assert found is not None and found.mirror.azimuth_deg % 180 == pytest.approx(0.0, abs=0.5)
    hidden = torch.tensor([[-0.4, 0.05, 0.02], [-0.4, -0.1, -0.05]])
    color, weight = found.colors(hidden, torch.tensor([[-1.0, 0, 0]]).expand(2, 3))
    assert picture(hidden, torch.tensor([[-1.0, 0, 0]]).expand(2, 3))[1].max() == 0
    expected = SYMMETRIC[0](hidden)[:, None].expand(2, 3)
    assert weight.min() > 0.9 and torch.allclose(color, expected, atol=0.03)


def test_colors_that_are_not_symmetric_are_not_mirrored() -> None:
    start, picture = shown_obliquely(*[lambda x: 0.5 + 4 * x[:, 0] * x[:, 1]] * 2)
    assert mirrored_picture(start, picture, seeded()) is None


def test_only_detail_is_mirrored_and_as_much_of_it_as_is_asked_for() -> None:
    """Another light on the shown side, the same everywhere, changes nothing; a share halves the weight."""
    start, picture = shown_obliquely(*SYMMETRIC)
    brighter = replace(picture, rgba=picture.rgba + torch.tensor([0.1, 0.1, 0.1, 0]).view(4, 1, 1))
    found, other = (mirrored_picture(start, shown, seeded()) for shown in (picture, brighter))
    assert found is not None and other is not None
    at = torch.tensor([[-0.4, 0.05, 0.02], [-0.4, -0.1, 0.0]]), torch.tensor([[-1.0, 0, 0], [-1.0, 0, 0]])
    assert torch.allclose(found(*at)[0], other(*at)[0], atol=1e-4)
    assert float(found(*at)[0][0, 0] - found(*at)[0][1, 0]) > 0.03, "the brighter of two points is brighter"
    assert torch.allclose(replace(found, share=0.5)(*at)[1], 0.5 * found(*at)[1])
