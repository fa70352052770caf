"""The views datamodule: rays are what the cameras say, batches are pure functions, bad views are refused in a line."""

import math
from dataclasses import replace

import pytest
import torch

from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.core.random import generator
from usd.data.convert import write_views
from usd.data.pictures import read_rgba, write_picture
from usd.data.pixel_array import PixelArray
from usd.data.toy_views import sphere_cameras
from usd.data.transforms import write_transforms
from usd.data.view_readers import ViewOptions, read_views
from usd.data.view_set import (
    SparsePoints,
    ViewSet,
    cameras_inside,
    fit_world,
    focus,
    refuse_useless,
    silhouette_radius,
    transform_world,
    view_set,
)
from usd.data.views import RayBatch, RayPool, ViewsConfig, ViewsData, spread_indices, views_summary
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.view_groups import wonder3d_cameras

RADIUS = 0.4


def balls(cameras: Cameras) -> ViewSet:
    """Exact silhouettes of a ball of radius RADIUS about the origin, colored by where its surface is, with normals."""
    origins, directions = cameras.rays()
    along = -(origins * directions).sum(-1)
    closest = (origins + along[..., None] * directions).norm(dim=-1)
    hit = closest < RADIUS
    depth = along - (RADIUS**2 - closest**2).clamp_min(0).sqrt()
    normal = torch.where(hit[..., None], (origins + depth[..., None] * directions) / RADIUS, 0.0)
    color = torch.where(hit[..., None], 0.5 + 0.4 * normal, 0.0)
    rgba = torch.cat([color, hit[..., None].float()], -1).permute(0, 3, 1, 2).contiguous()
    names = tuple(f"{i}.png" for i in range(len(cameras)))
    return replace(view_set(list(rgba), cameras, names), normals=normal.permute(0, 3, 1, 2).contiguous())


def data(path, **changes) -> ViewsData:
    made = ViewsData(parse(ViewsConfig, {"path": str(path), "n_rays": 256, **changes}, "data"))
    made.seed = 5
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ball")
    write_views(balls(sphere_cameras(12, 32)), path)
    return path


# -------------------------------------------------------------------------------------------------------------- rays


@pytest.mark.parametrize(
    "cameras", [sphere_cameras(5, 24), wonder3d_cameras(24)], ids=["pinhole", "orthographic"]
)
def test_rays_of_single_pixels_are_those_of_the_pictures(cameras):
    origins, directions = cameras.rays()
    draw = torch.Generator().manual_seed(0)
    view, x, y = (torch.randint(n, (50,), generator=draw) for n in (len(cameras), 24, 24))
    o, d = cameras.rays_at(view, x, y)
    assert torch.allclose(o, origins[view, y, x], atol=1e-6) and torch.allclose(
        d, directions[view, y, x], atol=1e-6
    )


@pytest.mark.parametrize(
    "cameras", [sphere_cameras(5, 24), wonder3d_cameras(24)], ids=["pinhole", "orthographic"]
)
def test_what_a_ray_carries_is_what_it_meets(cameras):
    """Rays marked as object meet the ball where its color and normal say."""
    batch = RayPool(balls(cameras), 2, True).draw(500, 0.7, torch.Generator().manual_seed(1))
    hit = batch.mask > 0.5
    along = -(batch.origins * batch.directions).sum(-1, keepdim=True)
    closest = (batch.origins + along * batch.directions).norm(dim=-1)
    assert torch.equal(hit, closest < RADIUS) and hit.any() and (~hit).any()
    depth = along[:, 0] - (RADIUS**2 - closest**2).clamp_min(0).sqrt()
    surface = (batch.origins + depth[:, None] * batch.directions)[hit] / RADIUS
    assert torch.allclose(surface, batch.normals[hit], atol=1e-4)
    assert torch.allclose(0.5 + 0.4 * surface, batch.rgb[hit], atol=1e-4)


def test_batches_are_a_function_of_seed_and_step(folder):
    a, b = data(folder), data(folder)
    for step in (0, 7):
        one, two = (d.batch(step, generator("cpu", d.seed, "data", 0, step)) for d in (a, b))
        assert torch.equal(one.origins, two.origins) and torch.equal(one.rgb, two.rgb)
    other = a.batch(8, generator("cpu", a.seed, "data", 0, 8))
    assert not torch.equal(one.directions, other.directions)
    stream = iter(a.train_dataloader())
    first = next(stream)
    assert torch.equal(first.origins, b.batch(0, generator("cpu", b.seed, "data", 0, 0)).origins)


def test_the_first_rays_are_a_smaller_batch(folder):
    batch = data(folder).rays(100, generator("cpu", 0))
    part = batch.first(30)
    assert (
        len(part) == 30 and torch.equal(part.rgb, batch.rgb[:30]) and torch.equal(part.mask, batch.mask[:30])
    )
    assert part.normals is None  # pictures in files carry none


def test_the_share_of_rays_about_the_object_is_as_asked():
    views = balls(sphere_cameras(4, 64))
    everywhere, about = (
        RayPool(views, 0, False).draw(4000, share, torch.Generator().manual_seed(2)).mask.mean()
        for share in (0.0, 1.0)
    )
    assert everywhere.item() == pytest.approx(views.rgba[:, 3].mean().item(), abs=0.03)
    assert about.item() == pytest.approx(math.pi / 4, abs=0.04)  # a disc in its bounding square


def test_rays_over_a_background_are_the_pictures(folder):
    views = balls(sphere_cameras(3, 16))
    batch = RayPool(views, 0, False).at(torch.arange(3 * 256))
    shown = batch.over(torch.tensor([[0.2, 0.6, 1.0]])).view(3, 16, 16, 3)
    back = torch.tensor([0.2, 0.6, 1.0])[:, None, None]
    expected = views.rgba[:, :3] * views.rgba[:, 3:] + back * (1 - views.rgba[:, 3:])
    assert torch.allclose(shown.permute(0, 3, 1, 2), expected, atol=1e-6)


def test_weights_and_views_travel_with_the_rays(folder):
    weights = [float(i) for i in range(12)]
    batch = data(folder, view_weights=weights).rays(300, generator("cpu", 0))
    assert torch.equal(batch.weight, batch.view.float())
    dropped = data(folder, drop_views=[0, 3], view_weights=weights)
    assert dropped.train_views.weights.tolist() == [w for w in weights if w not in (0, 3)]


def test_held_out_views_are_not_trained_on(folder):
    made = data(folder, hold_out=3)
    assert len(made.train_views) == 9 and len(made.test_views) == 3
    assert not set(made.train_views.names) & set(made.test_views.names)
    (val,) = made.eval_batches("val")
    assert len(val) == 3 and len(made.eval_batches("test")) == 3 and made.eval_batches("test")[2].first == 2
    assert val.over(1.0).shape == (3, 3, 32, 32) and val.cameras.height == 32


def test_views_to_judge_by_may_come_from_elsewhere(folder, tmp_path):
    write_views(balls(orbit_cameras_deg(10.0, [0.0, 90.0], 1.5, 40.0, 20)), tmp_path)
    made = data(folder, eval_path=str(tmp_path))
    assert len(made.train_views) == 12 and made.test_views.rgba.shape[-1] == 20


def test_a_toy_is_named_by_its_seed():
    made = data("toybox:1000004", toy_views=4, toy_size=16)
    assert len(made.train_views) == 4 and made.rays(10, generator("cpu", 0)).normals is not None
    assert (
        data("1000004", toy_views=4, toy_size=16, use_normals=False).rays(10, generator("cpu", 0)).normals
        is None
    )


def test_indices_are_evenly_chosen():
    assert (
        spread_indices(12, 3) == [2, 6, 10] and spread_indices(2, 5) == [0, 1] and spread_indices(5, 0) == []
    )


# ------------------------------------------------------------------------------------------------------------- frame


def test_the_focus_is_where_the_object_is():
    views = balls(sphere_cameras(10, 48))
    away = transform_world(views, torch.eye(3), torch.tensor([-2.0, 1.0, 0.5]), 1.0)
    assert torch.allclose(focus(away), torch.tensor([2.0, -1.0, -0.5]), atol=0.02)
    assert silhouette_radius(away, torch.tensor([2.0, -1.0, -0.5])) == pytest.approx(RADIUS, abs=0.02)


def test_fitting_gives_the_wanted_radius_and_keeps_pictures_and_normals_true():
    views = balls(wonder3d_cameras(48))
    turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])
    found = fit_world(transform_world(views, turn, torch.tensor([1.0, 0, 0]), 3.0), radius=0.5)
    assert silhouette_radius(found, torch.zeros(3)) == pytest.approx(0.5, abs=0.01)
    origins, directions = found.cameras.rays()
    hit = found.rgba[:, 3] > 0.5
    meet = -(found.normals.permute(0, 2, 3, 1)[hit] * directions[hit]).sum(-1)
    assert (meet > -1e-3).all()
    across = (origins[hit] - (origins[hit] * directions[hit]).sum(-1, keepdim=True) * directions[hit]).norm(
        dim=-1
    )
    assert torch.allclose(across, 0.5 * (1 - meet**2).clamp_min(0).sqrt(), atol=0.03)


# ---------------------------------------------------------------------------------------------------------- bad input


def options(**changes) -> ViewOptions:
    return parse(ViewOptions, changes, "data")


def test_pictures_without_cameras_are_counted(tmp_path):
    for i in range(3):
        write_picture(tmp_path / f"images/{i}.png", torch.rand(3, 8, 8))
    with pytest.raises(
        UserError, match=r"has 3 pictures but no cameras; expected transforms\.json, a COLMAP model"
    ):
        read_views(tmp_path, options())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither pictures nor cameras"):
        read_views(tmp_path / "empty", options())
    with pytest.raises(UserError, match="no such file or folder"):
        read_views(tmp_path / "gone", options())
    with pytest.raises(UserError, match=r"0\.png: is not a file of cameras or views"):
        read_views(tmp_path / "images/0.png", options())


def _two_sizes(tmp_path, second):
    write_picture(tmp_path / "a.png", torch.rand(4, 16, 16))
    write_picture(tmp_path / "b.png", torch.rand(4, *second))
    cameras = orbit_cameras_deg(0.0, [0.0, 90.0], 1.5, 40.0, 16)
    write_transforms(
        tmp_path / "transforms.json", [cameras[:1], cameras[1:].resize(*second)], ["a.png", "b.png"]
    )


@pytest.mark.parametrize("second", [(24, 24), (16, 30)], ids=["larger", "wider"])
def test_views_of_another_size_or_shape_keep_their_pixels_and_rays(tmp_path, second):
    """The smaller ones are filled up at the right and below, where nothing counts."""
    _two_sizes(tmp_path, second)
    found = read_views(tmp_path, options())
    assert found.rgba.shape == (2, 4, max(16, second[0]), second[1])
    assert any("pictures of 2 sizes, filled up to" in note for note in found.notes)
    for index, (height, width) in enumerate(((16, 16), second)):
        true = orbit_cameras_deg(0.0, [90.0 * index], 1.5, 40.0, 16).resize(height, width)
        stored = read_rgba(tmp_path / f"{'ab'[index]}.png")
        assert torch.equal(found.rgba[index, :, :height, :width], stored)
        assert torch.allclose(
            found.cameras[[index]].crop_rays(0, 0, height, width)[1], true.rays()[1], atol=1e-6
        )
        inside = torch.zeros(found.rgba.shape[-2:], dtype=torch.bool)
        inside[:height, :width] = True
        assert torch.equal(found.valid.view(index)[..., 0], inside)
    small = read_views(tmp_path, options(size=12))
    assert small.rgba.shape == (2, 4, 12, 12)
    assert (small.valid is None) == (second == (24, 24))


def test_a_single_view_is_refused(folder):
    with pytest.raises(UserError, match="has 1 view; expected at least 2: depth cannot be told from fewer"):
        data(folder, drop_views=list(range(1, 12))).rays(1, generator("cpu", 0))
    with pytest.raises(UserError, match=r"data\.hold_out: 11 of 12 views leaves 1"):
        data(folder, hold_out=11).train_views  # noqa: B018


def test_cameras_inside_the_object_are_named():
    views = balls(sphere_cameras(8, 32))
    assert cameras_inside(views) == []
    c2w = views.cameras.c2w.clone()
    c2w[2, :3, 3] = torch.tensor([0.1, 0.0, 0.05])
    inside = replace(views, cameras=replace(views.cameras, c2w=c2w))
    assert cameras_inside(inside) == [2]
    with pytest.raises(UserError, match=r"1 of 8 cameras \(2\.png\) stand inside the object"):
        refuse_useless(inside, "data.path")


def test_masks_that_show_nothing_are_refused_or_said():
    views = balls(sphere_cameras(4, 16))
    rgba = views.rgba.clone()
    rgba[1, 3] = 0
    assert "1 of 4 views show nothing" in refuse_useless(views.repainted(rgba), "x").notes[-1]
    rgba[:, 3] = 0
    with pytest.raises(UserError, match="all masks are empty"):
        refuse_useless(views.repainted(rgba), "x")


def _opaque(tmp_path, background):
    views = balls(orbit_cameras_deg(10.0, [0.0, 60.0, 120.0], 1.5, 40.0, 32))
    rgb = views.rgba[:, :3] * views.rgba[:, 3:] + background * (1 - views.rgba[:, 3:])
    for name, picture in zip(views.names, rgb):
        write_picture(tmp_path / name, picture)
    write_transforms(tmp_path / "transforms.json", [views.cameras], views.names)
    return views


def test_missing_masks_are_made_from_a_plain_background_and_said(tmp_path):
    truth = _opaque(tmp_path, torch.ones(3, 1, 1))
    found = read_views(tmp_path, options())
    assert found.masked and any("removing the plain color" in note for note in found.notes)
    assert ((found.rgba[:, 3] > 0.5) != (truth.rgba[:, 3] > 0.5)).float().mean() < 0.01
    with pytest.raises(UserError, match="no picture has transparency"):
        read_views(tmp_path, options(masks="alpha"))
    with pytest.raises(UserError, match="3 of 3 pictures have no mask"):
        read_views(tmp_path, options(masks="files"))


def test_without_masks_and_plain_background_nothing_is_known(tmp_path):
    _opaque(tmp_path, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    found = read_views(tmp_path, options())
    assert not found.masked and (found.rgba[:, 3] == 1).all()
    assert any("every pixel counts as object" in note for note in found.notes)
    made = data(tmp_path)
    assert made.rays(20, generator("cpu", 0)).mask is None and "no masks" in views_summary(made.train_views)
    with pytest.raises(UserError, match="no plain background"):
        read_views(tmp_path, options(masks="background"))
    assert not read_views(tmp_path, options(masks="none")).masked


def test_mask_files_of_a_transforms_json(tmp_path):
    truth = _opaque(tmp_path, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for name, alpha in zip(truth.names, truth.rgba[:, 3:]):
        write_picture(tmp_path / "masks" / name, alpha)
    found = read_views(tmp_path, options())
    assert (
        torch.equal(found.rgba[:, 3], truth.rgba[:, 3])
        and "masks are the files beside the pictures" in found.notes
    )
    for name, alpha in zip(truth.names, truth.rgba[:, 3:]):
        write_picture(tmp_path / "masks" / name, alpha[:, 1:])  # a row less, as halving 63 rows gives
    assert read_views(tmp_path, options()).masked
    write_picture(tmp_path / "masks" / truth.names[0], torch.ones(1, 32, 20))
    with pytest.raises(UserError, match="is 20 x 32 pixels; expected the shape of its picture, 32 x 32"):
        read_views(tmp_path, options())


def test_frames_without_pictures_are_counted(tmp_path):
    cameras = orbit_cameras_deg(0.0, [0.0, 90.0, 180.0], 1.5, 40.0, 8)
    write_transforms(tmp_path / "transforms.json", [cameras], ["a.png", "b.png", "c.png"])
    with pytest.raises(UserError, match=r"none of its 3 pictures exist \(a\.png\)"):
        read_views(tmp_path, options())
    for name in ("a.png", "c.png"):
        write_picture(tmp_path / name, torch.rand(4, 8, 8))
    found = read_views(tmp_path, options())
    assert found.names == ("a.png", "c.png") and "1 of 3 frames have no picture" in found.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view_weights": [1.0]}, r"data\.view_weights: has 1 values; expected 12"),
        ({"drop_views": [12]}, r"data\.drop_views: 12 is out of range; expected indices below 12"),
    ],
)
def test_lists_that_do_not_fit_the_views_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        data(folder, **changes).train_views  # noqa: B018


def test_a_path_is_required():
    with pytest.raises(UserError, match=r"data\.path: required but not given"):
        ViewsData(parse(ViewsConfig, {}, "data"))


def test_a_share_of_the_rays_goes_through_points_of_known_depth() -> None:
    views = balls(sphere_cameras(3, 16))
    points = SparsePoints(
        torch.tensor([0, 2]), torch.tensor([[3.5, 4.2], [9.9, 1.0]]), torch.tensor([1.5, 2.5])
    )
    batch = RayPool(replace(views, points=points), 0, False, 0.3).draw(
        2000, 0.5, torch.Generator().manual_seed(0)
    )
    assert batch.depth is not None
    known = batch.depth > 0
    assert known.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert set(zip(batch.view[known].tolist(), batch.depth[known].tolist())) == {(0, 1.5), (2, 2.5)}
    through = views.cameras.rays_at(torch.tensor([0]), torch.tensor([3]), torch.tensor([4]))[1]
    assert torch.allclose(batch.directions[known & (batch.view == 0)], through, atol=1e-6)


def test_the_first_steps_of_many_views_without_masks_draw_from_fewer_of_them(monkeypatch) -> None:
    monkeypatch.setattr("usd.data.views.EARLY_VIEWS", 3)
    monkeypatch.setattr("usd.data.views.MORE_VIEWS", 2)
    views = balls(sphere_cameras(8, 16))
    points = SparsePoints(torch.arange(8), torch.full((8, 2), 2.5), torch.full((8,), 1.5))
    opaque = replace(views, masked=False, points=points)

    def drawn(views: ViewSet, step: int | None) -> RayBatch:
        return RayPool(views, 0, False, 0.3).draw(500, 0.5, torch.Generator().manual_seed(0), step)

    first, second, late, whole = (drawn(opaque, step) for step in (0, 1, 3, None))
    assert [set(batch.view.tolist()) for batch in (first, second, late)] == [
        {0, 4, 2}, {0, 4, 2, 6, 1}, set(range(8)),
    ]  # fmt: skip
    assert first.depth is not None and set(first.view[first.depth > 0].tolist()) == {0, 4, 2}
    assert torch.equal(late.directions, whole.directions) and torch.equal(late.rgb, whole.rgb)
    assert set(drawn(views, 0).view.tolist()) == set(range(8)), "masks have all been looked at"


def test_depth_maps_and_pixels_without_a_source_come_with_the_rays() -> None:
    views = balls(sphere_cameras(2, 8))
    depth = torch.arange(128.0).view(2, 8, 8, 1)
    valid = depth % 2 == 0
    known = replace(views, depths=PixelArray.of(depth), valid=PixelArray.of(valid), depth_unit=0.5)
    batch = RayPool(known, 0, False).at(torch.arange(128))
    assert batch.depth is not None and torch.equal(batch.depth, torch.arange(128.0) / 2)
    assert torch.equal(batch.weight > 0, valid.flatten())


def test_every_so_many_th_view_is_kept_from_training(tmp_path) -> None:
    views = balls(sphere_cameras(9, 8))
    write_views(views, tmp_path)
    data = ViewsData(parse(ViewsConfig, {"path": str(tmp_path), "hold_out_every": 4}))
    assert data.test_views.names == tuple(f"views/{i:04d}.png" for i in (0, 4, 8))
    assert len(data.train_views) == 6
    for options in ({"hold_out_every": 1}, {"hold_out_every": 4, "hold_out": 2}):
        with pytest.raises(ConfigError, match=r"data\.hold_out_every"):
            _ = ViewsData(parse(ViewsConfig, {"path": str(tmp_path), **options})).train_views


def test_cameras_that_look_outward_are_a_scene(tmp_path) -> None:
    """On a ring, each looking away from its middle: nothing is where lines of sight meet, and nothing is refused."""
    around = sphere_cameras(8, 8)
    c2w = around.c2w.clone()
    c2w[:, :3, 0], c2w[:, :3, 2] = -c2w[:, :3, 0], -c2w[:, :3, 2]
    c2w[:, :3, 3] = 100 * c2w[:, :3, 3] + torch.tensor([5.0, 6.0, 7.0])
    views = balls(around)
    write_views(replace(views, cameras=replace(views.cameras, c2w=c2w)), tmp_path)
    given = {"path": str(tmp_path), "masks": "none"}
    with pytest.raises(UserError, match="look away from the object"):
        _ = ViewsData(parse(ViewsConfig, {**given, "frame": "fit"})).train_views
    found = ViewsData(parse(ViewsConfig, {**given, "frame": "cameras"})).train_views.cameras.position
    assert found.mean(0).abs().max() < 1e-4 and found.norm(dim=-1).max().item() == pytest.approx(1)
