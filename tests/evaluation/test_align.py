"""Alignments recover motions that are known, and leave alone what they are not named for."""

import math

import pytest
import torch
from solids import arrow, both, box, empty, turn

from usd.core.types import Mesh
from usd.evaluation import surface
from usd.evaluation.align import (
    Similarity,
    align_mesh,
    apply,
    icp,
    identity,
    procrustes,
    turn_about_z,
    unit_box,
)


def moved(mesh: Mesh, degrees=0.0, axis=(0.0, 0.0, 1.0), shift=(0.0, 0.0, 0.0), scale=1.0) -> Mesh:
    return apply(Similarity(turn(degrees, axis), torch.tensor(shift), scale), mesh)


def gap(a: Mesh, b: Mesh) -> float:
    mine, theirs = surface.area_samples(a, 8000, 0), surface.area_samples(b, 8000, 0)
    return surface.chamfer(surface.nearest(mine, theirs), surface.nearest(theirs, mine))


def test_procrustes_inverts_a_similarity_exactly():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    motion = Similarity(turn(70, (1, 2, 3)), torch.tensor([0.3, -1, 2]), 1.7)
    found = procrustes(x, motion(x), with_scale=True)
    assert torch.allclose(found(x), motion(x), atol=1e-5) and found.scale == pytest.approx(1.7, rel=1e-5)


def test_procrustes_never_mirrors():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    found = procrustes(x, x * torch.tensor([-1.0, 1, 1]), with_scale=False)
    assert torch.det(found.rotation).item() == pytest.approx(1, abs=1e-5)


def test_motions_compose_and_know_their_angle():
    a = Similarity(turn(30), torch.tensor([1.0, 0, 0]), 2.0)
    b = Similarity(turn(20, (1, 0, 0)), torch.tensor([0.0, 1, 0]), 0.5)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(a.after(b)(x), a(b(x)), atol=1e-5)
    assert a.angle_deg == pytest.approx(30, abs=1e-3) and identity().angle_deg == pytest.approx(0, abs=0.05)


def test_the_unit_box_ignores_vertices_no_face_uses():
    mesh = box((2.0, 1.0, 0.5), at=(3, 0, 0))
    stray = Mesh(torch.cat([mesh.vertices, torch.tensor([[99.0, 0, 0]])]), mesh.faces)
    found = unit_box(stray)(mesh.vertices)
    assert found.amax(0).tolist() == pytest.approx([0.5, 0.25, 0.125])


def test_icp_recovers_a_small_rigid_motion():
    shape = apply(unit_box(arrow()), arrow())
    start = moved(shape, 12, (0.2, 0.3, 1), (0.04, -0.03, 0.02))
    motion = align_mesh(start, shape, "icp")
    assert gap(start, shape) > 0.03
    assert gap(apply(motion, start), shape) < 0.006
    assert motion.scale == 1.0 and motion.angle_deg == pytest.approx(12, abs=1)


def test_icp_with_scale_also_recovers_size_and_place():
    shape = apply(unit_box(arrow()), arrow())
    start = moved(shape, 10, (1, 0, 1), (2.0, 1.0, 0.5), 0.4)
    motion = align_mesh(start, shape, "icp+scale")
    assert gap(apply(motion, start), shape) < 0.006 and motion.scale == pytest.approx(2.5, rel=0.03)


def test_rigid_icp_does_not_touch_the_size():
    motion = align_mesh(box((0.5, 0.5, 0.5)), box(), "icp")
    assert motion.scale == 1.0


def test_yaw_finds_any_turn_about_the_vertical():
    shape = apply(unit_box(arrow()), arrow())
    motion = align_mesh(moved(shape, 137), shape, "yaw")
    assert motion.angle_deg == pytest.approx(137, abs=0.5)
    assert motion.rotation[2].tolist() == pytest.approx([0, 0, 1]) and motion.translation.abs().max() == 0


def test_yaw_does_not_mend_a_tilt():
    shape = apply(unit_box(arrow()), arrow())
    tilted = moved(shape, 40, (1, 0, 0))
    assert gap(apply(align_mesh(tilted, shape, "yaw"), tilted), shape) > 0.03


def test_nothing_is_moved_unless_asked():
    shape = arrow()
    for how, mesh in (("none", shape), ("icp", empty())):
        motion = align_mesh(mesh, shape, how)
        assert (
            torch.equal(motion.rotation, torch.eye(3))
            and motion.scale == 1
            and motion.translation.norm() == 0
        )


def test_icp_of_a_set_with_itself_stands_still():
    x = surface.area_samples(both(box(), box((0.2, 0.2, 2.0))), 2000, 0).x
    motion = icp(x, x, with_scale=True)
    assert torch.allclose(motion(x), x, atol=1e-5)


def test_turns_are_from_x_towards_y():
    assert turn_about_z(math.pi / 2)(torch.tensor([[1.0, 0, 0]]))[0].tolist() == pytest.approx(
        [0, 1, 0], abs=1e-6
    )
