"""Measures of surfaces on shapes whose answers are known, whole, open, empty and inside out."""

import pytest
import torch
from solids import both, box, cup, empty, inside_out, sphere

from usd.core.types import Mesh
from usd.data.syncdreamer import target_cameras
from usd.evaluation import surface
from usd.evaluation.surface import Points


def compared(a: Mesh, b: Mesh, count=30_000):
    mine, theirs = surface.area_samples(a, count, 0), surface.area_samples(b, count, 1)
    return surface.nearest(mine, theirs), surface.nearest(theirs, mine)


def iou(a: Mesh, b: Mesh) -> float:
    return surface.volume_iou(surface.occupancy(a), surface.occupancy(b))


# ---------------------------------------------------------------------------------------------------- known answers


def test_chamfer_of_concentric_spheres_is_the_gap():
    forth, back = compared(sphere(0.5), sphere(0.6))
    assert surface.chamfer(forth, back) == pytest.approx(0.1, abs=1.5e-3)
    assert surface.f_score(forth, back, 0.09) == 0
    assert surface.f_score(forth, back, 0.11) == pytest.approx(1)
    assert surface.normal_consistency(forth, back) > 0.995


def test_volume_iou_of_concentric_spheres_is_the_cube_of_the_ratio():
    assert iou(sphere(0.5), sphere(0.6)) == pytest.approx((5 / 6) ** 3, abs=0.01)


def test_volume_iou_of_shifted_boxes_is_exact_on_the_lattice():
    """A shift of four cells: (1 - d) / (1 + d) with d = 1/8."""
    assert iou(box(), box(at=(0.125, 0, 0))) == pytest.approx((1 - 0.125) / (1 + 0.125), abs=1e-6)


def test_chamfer_of_shifted_boxes_is_closed_form():
    """Per direction, over six unit faces: d behind, min(d, way to the rim) before, d^2 / 2 on each of four sides."""
    d = 0.125
    exact = (d + (1 - (1 - 2 * d) ** 3) / 6 + 4 * d * d / 2) / 6
    found = surface.chamfer(*compared(box(), box(at=(d, 0, 0)), 100_000))
    assert exact < found < exact + 0.003  # points that lie on both surfaces miss each other by their spacing


def test_f_score_is_the_harmonic_mean_of_precision_and_recall():
    """One sphere of two was found: everything found is right, half of what there is was found."""
    forth, back = compared(sphere(0.2), both(sphere(0.2), sphere(0.2, (1, 0, 0))))
    assert surface.f_score(forth, back, 0.05) == pytest.approx(2 * 1 * 0.5 / 1.5, abs=0.01)


def test_normal_consistency_of_perpendicular_planes_is_zero():
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    up, side = torch.tensor([0.0, 0, 1]).expand(50, 3), torch.tensor([1.0, 0, 0]).expand(50, 3)
    flat, wall = Points(x, up), Points(x, side)
    assert surface.normal_consistency(surface.nearest(flat, wall), surface.nearest(wall, flat)) == 0
    tilted = Points(x, torch.nn.functional.normalize(up + side, dim=-1))
    half = surface.normal_consistency(surface.nearest(flat, tilted), surface.nearest(tilted, flat))
    assert half == pytest.approx(0.5**0.5, abs=1e-6)


def test_the_floor_falls_with_the_square_root_of_the_number_of_points():
    few, many = (surface.chamfer(*compared(sphere(0.5), sphere(0.5), n)) for n in (5_000, 20_000))
    assert many / few == pytest.approx(0.5, abs=0.05)


# ------------------------------------------------------------------------------------------------------- sampling


def test_area_samples_are_uniform_by_area_and_lie_on_the_surface():
    points = surface.area_samples(box((1.0, 0.5, 0.25)), 60_000, 3)
    sides = torch.tensor([0.5, 0.25, 0.125])
    assert ((points.x.abs() - sides).abs().amin(-1) < 1e-6).all()
    on_top = (points.normal[:, 2].abs() > 0.5).float().mean()
    assert on_top.item() == pytest.approx(0.5 / (0.5 + 0.25 + 0.125), abs=0.01)
    quarter = (points.x[:, 0] > 0.25).float().mean()
    assert quarter.item() == pytest.approx((0.25 * (2 * 0.5 + 2 * 0.25) + 0.125) / 1.75, abs=0.01)


def test_samples_are_a_function_of_the_seed():
    a, b, c = (surface.area_samples(sphere(), 100, seed).x for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_faces_without_area_are_never_drawn():
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), torch.tensor([[0, 1, 2]]))
    points = surface.area_samples(both(flat, box(at=(0, 5, 0))), 500, 0)
    assert (points.x[:, 1] > 4).all() and len(surface.area_samples(flat, 500, 0)) == 0


def test_only_the_visible_surface_is_sampled_from_views():
    cameras = target_cameras(64)
    nested, outer = both(sphere(0.45), sphere(0.2)), sphere(0.45)
    seen = surface.visible_points(nested, cameras)
    assert (seen.x.norm(dim=-1) > 0.44).all() and ((seen.x * seen.normal).sum(-1) > 0).float().mean() > 0.999
    theirs = surface.visible_points(outer, cameras)
    assert surface.chamfer(surface.nearest(seen, theirs), surface.nearest(theirs, seen)) < 1e-6
    assert surface.chamfer(*compared(nested, outer)) > 0.01


def test_seen_normals_turn_to_the_camera_also_inside_out():
    cameras = target_cameras(32)
    seen = surface.visible_points(inside_out(sphere(0.45)), cameras)
    assert ((seen.x * seen.normal).sum(-1) > 0).float().mean() > 0.999


def test_thinning_leaves_the_mean_of_each_cube():
    x = torch.tensor([[0.001, 0, 0], [0.003, 0, 0], [0.5, 0, 0]])
    found = surface.voxel_means(Points(x, torch.tensor([0.0, 0, 1]).expand(3, 3)), 0.01)
    assert found.x[:, 0].tolist() == pytest.approx([0.002, 0.5])


# ------------------------------------------------------------------------------------------- open, empty, inside out


def test_direction_of_faces_does_not_matter():
    for mesh in (sphere(0.4), box((0.8, 0.6, 0.4))):
        turned = inside_out(mesh)
        assert torch.equal(surface.occupancy(mesh), surface.occupancy(turned))
        assert surface.normal_consistency(*compared(turned, mesh)) == pytest.approx(
            surface.normal_consistency(*compared(mesh, mesh)), abs=1e-3
        )


def test_an_open_mesh_keeps_its_inside():
    assert iou(cup(box((0.8, 0.8, 0.8))), box((0.8, 0.8, 0.8))) > 0.999
    assert iou(cup(sphere(0.5)), sphere(0.5)) > 0.97


def test_a_sheet_has_no_inside():
    sheet = Mesh(
        torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0.0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
    )
    assert not surface.occupancy(sheet).any() and "not closed (4 edges" in surface.condition(sheet)[0]


def test_overlapping_parts_are_inside_once():
    a, b = sphere(0.3, (-0.1, 0, 0)), sphere(0.3, (0.15, 0, 0.1))
    assert torch.equal(surface.occupancy(both(a, b)), surface.occupancy(a) | surface.occupancy(b))


def test_a_cavity_is_outside():
    hollow = both(sphere(0.6), inside_out(sphere(0.3)))
    assert torch.equal(
        surface.occupancy(hollow), surface.occupancy(sphere(0.6)) & ~surface.occupancy(sphere(0.3))
    )


def test_an_empty_mesh_gets_the_worst_of_everything():
    forth, back = compared(empty(), sphere(0.5), 500)
    assert surface.chamfer(forth, back) == float("inf")
    assert surface.f_score(forth, back, 0.05) == 0 and surface.normal_consistency(forth, back) == 0
    assert iou(empty(), sphere(0.5)) == 0 and iou(empty(), empty()) == 0
    assert len(surface.visible_points(empty(), target_cameras(8))) == 0


def test_the_condition_of_a_mesh_is_said():
    assert surface.condition(sphere(level=1)) == ()
    assert "empty" in surface.condition(empty())[0]
    assert "inside out" in surface.condition(inside_out(sphere(level=1)))[0]
    assert "4 edges" in surface.condition(cup(box()))[0]
