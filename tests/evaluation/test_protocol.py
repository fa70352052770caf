"""The whole comparison: what is compared with what, invariances, alignment by name, and its report."""

import json
import re
import time

import pytest
import torch
from solids import arrow, both, box, empty, file_bytes, inside_out, sphere, turn

from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.data.convert import write_views
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.data.transforms import write_transforms
from usd.data.view_set import view_set
from usd.evaluation import command, protocol
from usd.evaluation.align import Similarity, apply, unit_box
from usd.evaluation.mesh_views import mesh_views, open_mesh
from usd.evaluation.metrics import mask_iou, psnr
from usd.evaluation.protocol import EvaluationReport, compare_surfaces, evaluate, figures_table
from usd.evaluation.sources import EvaluationSource, exported_mesh, mesh_source, open_source
from usd.kernels import runtime
from usd.kernels.accelerators import ACCELERATORS
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.colored_mesh import ColoredMesh

SEED = 1_000_004
RED = (0.8, 0.3, 0.2)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """The protocol at a fifth of its size, for time."""
    monkeypatch.setattr(protocol, "SAMPLES", 10_000)
    monkeypatch.setattr(protocol, "VISIBLE_SIZE", 64)
    monkeypatch.setattr(protocol, "PICTURE_SIZE", 48)
    monkeypatch.setattr(protocol, "PICTURES", 4)


def as_source(mesh: Mesh, name="a") -> EvaluationSource:
    return mesh_source(ColoredMesh.of(mesh), name, "mesh", ())


# -------------------------------------------------------------------------------------------------------- geometry


def test_figures_are_in_units_of_the_references_longest_side():
    """Spheres of radius 5 and 6 about (20, 0, 0): the gap of 1 is a twelfth of the reference's diameter."""
    report, _ = compare_surfaces(sphere(5, (20, 0, 0)), sphere(6, (20, 0, 0)), "none")
    assert report.figures["chamfer_area"] == pytest.approx(1 / 12, abs=2e-3)
    assert report.figures["chamfer_visible"] == pytest.approx(1 / 12, abs=4e-3)
    assert report.figures["volume_iou"] == pytest.approx((5 / 6) ** 3, abs=0.01)
    assert report.figures["f_score_0.05"] == 0 and report.notes == ()


def test_moving_and_scaling_both_changes_nothing():
    motion = Similarity(torch.eye(3), torch.tensor([7.0, -3.0, 2.0]), 40.0)
    one, _ = compare_surfaces(sphere(0.4), box(), "none")
    other, _ = compare_surfaces(apply(motion, sphere(0.4)), apply(motion, box()), "none")
    for name, value in one.figures.items():
        assert other.figures[name] == pytest.approx(value, abs=1e-3), name


def test_only_the_named_alignment_is_made():
    shape = apply(unit_box(arrow()), arrow())
    turned = apply(Similarity(turn(60), torch.zeros(3)), shape)
    apart, _ = compare_surfaces(turned, shape, "none")
    yawed, motion = compare_surfaces(turned, shape, "yaw")
    assert apart.figures["chamfer_area"] > 5 * yawed.figures["chamfer_area"]
    assert apart.protocol["alignment_turn_deg"] < 0.1 and yawed.protocol[
        "alignment_turn_deg"
    ] == pytest.approx(60, abs=1)
    assert (motion(turned.vertices) - shape.vertices).norm(dim=-1).max() < 0.02


@pytest.mark.parametrize("factor", [800.0, 0.001])
def test_other_units_are_said_and_take_no_longer(monkeypatch, factor):
    """Millimeters against meters: all points of one are about as far from each point of the other."""
    monkeypatch.setattr(protocol, "SAMPLES", 20_000)
    began = time.process_time()
    report, _ = compare_surfaces(sphere(factor), sphere(1.0), "none")
    assert time.process_time() - began < 6
    expected = (
        f"prediction: it is {factor:g} times the reference's size: other units? Figures compare it as it is;"
    )
    assert report.notes[0].startswith(expected) and "icp+scale" in report.notes[0]
    assert report.figures["chamfer_area"] == pytest.approx(abs(factor - 1) / 2, rel=0.02)
    scaled, _ = compare_surfaces(sphere(factor), sphere(1.0), "icp+scale")
    assert scaled.figures["volume_iou"] > 0.95 and not any("units" in note for note in scaled.notes[1:])


def test_far_coordinates_and_stray_faces_decide_nothing():
    """The same box, half a million meters from the origin and with a far stray face in the reference."""
    place = torch.tensor([500_000.0, 5_400_000.0, 100.0]).double()
    here = box((1.0, 0.6, 0.3))
    there = Mesh(here.vertices.double() + place, here.faces)
    stray = Mesh(
        torch.tensor([[0, 0, 1e5], [1, 0, 1e5], [0, 1, 1e5]]).double() + place, torch.tensor([[0, 1, 2]])
    )
    report = evaluate(as_source(there), as_source(both(there, stray), "b"))
    assert report.figures["volume_iou"] == 1 and report.figures["mask_iou"] == 1
    assert any("1 of 13 faces lie more than 50 times farther" in note for note in report.notes)
    assert any(note.startswith("pictures: both meshes are moved") for note in report.notes)


def test_an_empty_prediction_is_reported_and_an_empty_reference_refused():
    report, _ = compare_surfaces(empty(), sphere(), "icp")
    assert report.figures["chamfer_area"] == report.figures["chamfer_visible"] == float("inf")
    assert report.figures["volume_iou"] == report.figures["f_score_0.05"] == 0
    assert "prediction: empty" in report.notes[0] and "infinite" in figures_table(report)
    assert report.plain()["figures"]["chamfer_area"] is None
    with pytest.raises(UserError, match="reference: its mesh is empty"):
        compare_surfaces(sphere(), empty(), "none")


def test_inside_out_is_said_and_costs_nothing():
    report, _ = compare_surfaces(inside_out(sphere()), sphere(), "none")
    assert report.figures["volume_iou"] == 1 and "inside out" in report.notes[0]


def test_double_sided_and_mixed_faces_keep_their_volume():
    mesh = sphere(level=3)
    double = Mesh(mesh.vertices, torch.cat([mesh.faces, mesh.faces.flip(1)]))
    turned = torch.rand(len(mesh.faces), generator=torch.Generator().manual_seed(0)) < 0.4
    mixed = Mesh(mesh.vertices, torch.where(turned[:, None], mesh.faces.flip(1), mesh.faces))
    for wrong, said in ((double, "(double-sided) are dropped"), (mixed, "turn the wrong way round; righted")):
        report, _ = compare_surfaces(wrong, mesh, "none")
        assert report.figures["volume_iou"] == 1 and any(said in note for note in report.notes)


def test_the_floor_is_what_equal_surfaces_get():
    report, _ = compare_surfaces(sphere(), sphere(), "none")
    assert report.figures["chamfer_area"] == pytest.approx(report.figures["chamfer_floor"], rel=0.05)
    assert report.figures["chamfer_visible"] < 1e-6


# --------------------------------------------------------------------------------------------------------- pictures


def test_a_meshs_silhouette_is_the_balls():
    cameras = orbit_cameras_deg(20.0, [0.0, 100.0], 1.5, 40.0, 64)
    views = mesh_views(ColoredMesh.of(sphere(0.4, color=RED)), cameras)
    origins, directions = cameras.rays()
    disc = torch.linalg.cross(origins, directions).norm(dim=-1) < 0.4
    assert mask_iou(views.rgba[:, 3:], disc[:, None].float()).min() > 0.98
    middle = views.rgba[:, :3, 28:36, 28:36]
    assert torch.allclose(middle, torch.tensor(RED)[None, :, None, None].expand_as(middle), atol=1e-5)


@pytest.mark.parametrize("ending", ["glb", "obj", "ply"])
def test_our_own_exports_come_back_with_axes_and_colours(tmp_path, ending):
    mesh = both(box((1.0, 0.6, 0.3)), box((0.1, 0.1, 0.9), (0.2, 0, 0.4)))
    colour = torch.rand(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0))
    (tmp_path / f"a.{ending}").write_bytes(file_bytes(Mesh(mesh.vertices, mesh.faces, colour), ending))
    found = open_mesh(tmp_path / f"a.{ending}")
    assert torch.allclose(found.vertices[found.faces].float(), mesh.vertices[mesh.faces], atol=1e-5)
    corners = torch.eye(3).repeat(len(mesh.faces), 1)
    shown = found.display_colors(torch.arange(len(mesh.faces)).repeat_interleave(3), corners)
    assert (shown - colour[mesh.faces].view(-1, 3)).abs().max() < 0.03


def test_textures_are_looked_up_where_the_uvs_say(tmp_path):
    """A quad facing +z whose texture is red on its left half and blue on its right, green at the very top."""
    from PIL import Image

    picture = Image.new("RGB", (8, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (4, 0, 8, 8))
    picture.paste((0, 255, 0), (0, 0, 8, 2))
    picture.save(tmp_path / "t.png")
    (tmp_path / "m.mtl").write_text("newmtl a\nmap_Kd t.png\n")
    (tmp_path / "m.obj").write_text(
        "mtllib m.mtl\nusemtl a\nv -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    found = open_mesh(tmp_path / "m.obj", "z")
    view = mesh_views(found, orbit_cameras_deg(89.9, [-90.0], 4.0, 40.0, 32)).rgba[0]
    assert found.has_colors
    for (row, column), colour in {(18, 8): (1, 0, 0), (18, 24): (0, 0, 1), (7, 16): (0, 1, 0)}.items():
        assert torch.allclose(view[:3, row, column], torch.tensor(colour).float(), atol=0.05)


def test_files_that_are_no_meshes_are_refused(tmp_path):
    (tmp_path / "a.glb").write_bytes(b"glTF nonsense")
    with pytest.raises(UserError, match=r"a\.glb: is binary glTF 1852796448; expected glTF 2"):
        open_mesh(tmp_path / "a.glb")
    with pytest.raises(UserError, match=r"b\.ply: no such mesh file"):
        open_mesh(tmp_path / "b.ply")
    (tmp_path / "c.obj").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"c\.obj: has no faces"):
        open_mesh(tmp_path / "c.obj")


def test_views_are_matched_by_camera_not_by_name(tmp_path):
    truth = render_toy_views(SEED, sphere_cameras(5, 32))
    write_views(truth, tmp_path / "truth")
    write_views(truth.select([4, 2, 0]), tmp_path / "some")
    report = evaluate(open_source(str(tmp_path / "some"), "a"), open_source(str(tmp_path / "truth"), "b"))
    assert report.figures["psnr"] == pytest.approx(100) and report.figures["mask_iou"] == 1
    assert report.protocol["views"] == 3 and any("2 of 5 reference views" in note for note in report.notes)
    assert [row["view"] for row in report.views] == ["views/0000.png", "views/0002.png", "views/0004.png"]
    write_views(render_toy_views(SEED, sphere_cameras(4, 32)), tmp_path / "other")
    with pytest.raises(UserError, match="no two views were taken by the same camera"):
        evaluate(open_source(str(tmp_path / "other"), "a"), open_source(str(tmp_path / "truth"), "b"))


def test_figures_of_pictures_are_means_of_views_and_views_can_be_left_out(tmp_path):
    truth = render_toy_views(SEED, sphere_cameras(3, 32))
    spoilt = truth.rgba.clone()
    spoilt[1] *= 0
    write_views(truth, tmp_path / "truth")
    write_views(view_set(list(spoilt), truth.cameras, truth.names), tmp_path / "spoilt")
    a, b = open_source(str(tmp_path / "spoilt"), "a"), open_source(str(tmp_path / "truth"), "b")
    one = evaluate(a, b)
    wrong = psnr(torch.ones(1, 3, 32, 32), see_white(truth, 1)).item()
    assert one.figures["psnr"] == pytest.approx((200 + wrong) / 3, rel=1e-2)
    assert one.figures["mask_iou"] == pytest.approx(2 / 3)
    left = evaluate(a, b, skip=(1,))
    assert left.figures["psnr"] > 50 and left.protocol["views_skipped"] == [1]
    with pytest.raises(UserError, match="all 3 views are skipped"):
        evaluate(a, b, skip=(0, 1, 2))


def see_white(views, index):
    rgba = views.rgba[index : index + 1]
    return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]


def test_a_toys_own_mesh_is_nearly_right_in_every_figure(tmp_path):
    toy = open_source(str(SEED), "b")
    (tmp_path / "toy.glb").write_bytes(file_bytes(toy.mesh, "glb"))
    report = evaluate(open_source(str(tmp_path / "toy.glb"), "a"), toy)
    assert report.figures["mask_iou"] > 0.95 and report.figures["psnr"] > 24
    assert report.figures["volume_iou"] > 0.99
    assert report.figures["chamfer_area"] < 1.1 * report.figures["chamfer_floor"]


def test_a_mesh_without_colours_has_silhouettes_only():
    report = evaluate(as_source(sphere(0.4)), as_source(sphere(0.4), "b"))
    assert "psnr" not in report.figures and report.figures["mask_iou"] == 1
    assert any("LPIPS" in note for note in report.notes) is False


def test_an_aligned_mesh_is_also_seen_aligned():
    shape = apply(unit_box(arrow()), arrow())
    turned = apply(Similarity(turn(90), torch.zeros(3)), shape)
    apart, together = (evaluate(as_source(turned), as_source(shape, "b"), how) for how in ("none", "yaw"))
    assert together.figures["mask_iou"] > 0.9 > apart.figures["mask_iou"]


# ---------------------------------------------------------------------------------------------------------- sources


def test_a_trial_gives_its_newest_test_views_and_export(tmp_path):
    views = render_toy_views(SEED, sphere_cameras(3, 16))
    for name in ("it10-test", "it20-test", "it30-turntable"):
        write_views(views, tmp_path / "save" / name)
    for step, size in ((10, 0.5), (20, 0.7)):
        (tmp_path / f"save/it{step}-export").mkdir()
        (tmp_path / f"save/it{step}-export/model.glb").write_bytes(file_bytes(box((size, size, size)), "glb"))
    (tmp_path / "configs").mkdir()
    found = open_source(str(tmp_path), "a")
    assert found.kind == "trial" and found.mesh.vertices.max().item() == pytest.approx(0.35)
    assert (
        any("it20-test" in note for note in found.notes)
        and exported_mesh(tmp_path).parent.name == "it20-export"
    )


def test_a_trial_with_nothing_to_compare_is_refused(tmp_path):
    (tmp_path / "save").mkdir()
    (tmp_path / "ckpts").mkdir()
    with pytest.raises(UserError, match="neither rendered views nor an exported mesh"):
        open_source(str(tmp_path), "PRED")


def test_views_and_a_mesh_have_nothing_in_common_but_cameras(tmp_path):
    views = render_toy_views(SEED, sphere_cameras(2, 16))
    write_views(views, tmp_path)
    report = evaluate(as_source(sphere(0.4)), open_source(str(tmp_path), "b"))
    assert set(report.figures) == {"mask_iou"}
    lonely = EvaluationSource("c", "mesh", sphere())
    with pytest.raises(UserError, match=r"nothing to compare: c has a surface, .* has views"):
        evaluate(lonely, open_source(str(tmp_path), "b"))


# ---------------------------------------------------------------------------------------------------------- command


def test_the_command_prints_and_writes_every_figure(tmp_path, capsys):
    (tmp_path / "a.ply").write_bytes(file_bytes(sphere(0.5, color=RED), "ply"))
    (tmp_path / "b.ply").write_bytes(file_bytes(sphere(0.6, color=RED), "ply"))
    arguments = [str(tmp_path / "a.ply"), "--reference", str(tmp_path / "b.ply"), "--align", "icp+scale"]
    report = command.compare_sources([*arguments, "--json", str(tmp_path / "new/r.json")])
    out = capsys.readouterr().out
    content = json.loads((tmp_path / "new/r.json").read_text())
    assert "alignment: icp+scale" in out and "volume_iou" in out and "LPIPS" in out
    assert content["protocol"]["align"] == "icp+scale" and content["protocol"]["area_samples"] == 10_000
    assert content["figures"] == {key: pytest.approx(value) for key, value in report.figures.items()}
    assert content["protocol"]["alignment_scale"] == pytest.approx(1.2, rel=0.02)
    assert len(content["per_view"]) == 4 and content["figures"]["volume_iou"] > 0.95


def test_two_runs_give_the_same_figures():
    a, b = as_source(sphere(0.5, color=RED)), as_source(box(), "b")
    one, two = (evaluate(a, b, "icp") for _ in range(2))
    assert isinstance(one, EvaluationReport) and one.plain() == two.plain()


def test_a_camera_file_without_pictures_is_no_reference(tmp_path):
    cameras = orbit_cameras_deg(0.0, [0.0], 1.5, 40.0, 8)
    write_transforms(tmp_path / "transforms.json", [cameras], ["gone.png"])
    with pytest.raises(UserError, match="none of its 1 pictures exist"):
        open_source(str(tmp_path), "--reference")


def test_a_reference_too_large_for_the_cameras_is_brought_into_view():
    """A ball of radius 1 would fill every picture. At distance d one of radius r shows under r / sqrt(d^2 - r^2)."""
    report = evaluate(as_source(sphere(0.5)), as_source(sphere(1.0)))
    small, large = (r / (1.5**2 - r**2) ** 0.5 for r in (0.25, 0.5))
    assert report.figures["mask_iou"] == pytest.approx((small / large) ** 2, abs=0.02)
    assert any("makes its radius 0.5" in note for note in report.notes)
    kept = evaluate(as_source(sphere(0.4)), as_source(sphere(0.5)))
    assert not any("are moved" in note for note in kept.notes)


def test_mesh_files_of_other_formats_are_named(tmp_path):
    (tmp_path / "a.fbx").write_bytes(b"Kaydara FBX Binary")
    with pytest.raises(UserError, match=r"PRED: .*a\.fbx: is no mesh file that is read; expected \.glb"):
        open_source(str(tmp_path / "a.fbx"), "PRED")


def test_what_casts_rays_is_chosen_by_name_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_wanted", ["auto"])
    (tmp_path / "a.ply").write_bytes(file_bytes(sphere(0.5), "ply"))
    arguments = [str(tmp_path / "a.ply"), "--reference", str(tmp_path / "a.ply"), "--kernels"]
    if obstacle := ACCELERATORS["embreex"].obstacle():
        with pytest.raises(UserError, match=f"--kernels: {re.escape(obstacle)}; expected auto"):
            command.compare_sources([*arguments, "embreex"])
    said = [command.compare_sources([*arguments, name]) for name in ("auto", "warp")]
    assert runtime._wanted == ["warp"] and "rays were cast by warp" in said[1].notes
    assert said[0].figures["chamfer_visible"] == said[1].figures["chamfer_visible"]
