"""Splats: kernel against a slow loop and against its twin, closed forms, and finite differences of every input."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from usd.kernels import splat_gsplat, splat_warp
from usd.kernels.runtime import Implementation
from usd.kernels.splat import Projection, SplatPicture, SplatView, composite, project, splat_view
from usd.kernels.splat_warp import _lists_by_counting, _lists_by_sorting, tile_lists
from usd.math.camera import Cameras, Window, orbit_cameras_deg, orthographic_cameras, pinhole_cameras
from usd.math.splats import Splats

NAMES = ("means", "scales", "rotations", "opacities", "features", "w2c")
IMPLEMENTATIONS: list[Implementation] = ["warp", "torch"]


def cameras(count: int = 2, height: int = 20, width: int = 37, dtype: torch.dtype = torch.float64) -> Cameras:
    """Views whose principal points are not in the middle, and whose pixels are not square."""
    c2w = orbit_cameras_deg([10.0, -35.0, 60.0][:count], [20.0, 100.0, 250.0][:count], 1.5, 45.0, 32).c2w
    lens = torch.tensor([[30.0, 36.0, 16.0, 12.5]]).expand(count, 4)
    return pinhole_cameras(c2w.to(dtype), lens.to(dtype), height, width)


def scene(n: int = 40, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Splats, Tensor]:
    source = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    values = (0.25 * noise(n, 3), 0.06 * (0.4 * noise(n, 3)).exp(), noise(n, 4), noise(n).sigmoid())
    return Splats(*(value.to(dtype) for value in values)), noise(n, 3).sigmoid().to(dtype)


def draw(
    splats: Splats,
    features: Tensor,
    view: SplatView,
    antialias: bool = False,
    implementation: Implementation = "auto",
) -> SplatPicture:
    seen = project(splats, view, antialias, implementation)
    values = features.expand(len(view), -1, -1)
    return composite(seen, torch.cat([values, seen.depth[..., None]], -1), implementation)


def slow_picture(
    splats: Splats, features: Tensor, view: SplatView, antialias: bool
) -> tuple[np.ndarray, float]:
    """One view in plain loops of double precision, and how near any opacity comes to the threshold of drawing."""
    w2c, (fx, fy, cx, cy) = view.w2c[0].numpy(), view.lens[0].tolist()
    seen, margin = [], 1.0
    for mean, scale, q, opacity, color in zip(*vars(splats).values(), features):
        x, y, z = w2c[:, :3] @ mean.numpy() + w2c[:, 3]
        w, i, j, k = (q / q.norm()).tolist()
        turn = np.array([[w, -i, -j, -k], [i, w, -k, j], [j, k, w, -i], [k, -j, i, w]]) @ np.array(
            [[w, i, j, k], [-i, w, -k, j], [-j, k, w, -i], [-k, -j, i, w]]
        )
        axes = turn[1:, 1:] @ np.diag(scale.numpy())
        slope = np.array([[fx / z, 0, -fx * x / z**2], [0, fy / z, -fy * y / z**2]])
        inner = slope @ w2c[:, :3] @ axes @ axes.T @ w2c[:, :3].T @ slope.T
        outer = inner + (0.1 if antialias else 0.3) * np.eye(2)
        fade = math.sqrt(np.linalg.det(inner) / np.linalg.det(outer)) if antialias else 1.0
        center = np.array([fx * x / z + cx, fy * y / z + cy])
        seen.append((z, center, np.linalg.inv(outer), float(opacity) * fade, [*color.tolist(), z]))
    seen.sort(key=lambda one: one[0])
    picture = np.zeros((view.height, view.width, 5))
    for row in range(view.height):
        for column in range(view.width):
            light = 1.0
            for _, center, conic, opacity, values in seen:
                offset = np.array([column + 0.5, row + 0.5]) - center
                alpha = min(opacity * math.exp(-0.5 * offset @ conic @ offset), 0.999)
                margin = min(margin, abs(alpha - 1 / 255))
                if alpha >= 1 / 255:
                    picture[row, column] += light * alpha * np.array([*values, 1.0])
                    light *= 1 - alpha
            assert light > 1.1e-4
    return picture, margin


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_pictures_are_those_of_a_loop_over_pixels_and_splats(
    antialias: bool, implementation: Implementation
) -> None:
    splats, features = scene(12)
    view = splat_view(cameras(1))
    expected, margin = slow_picture(splats, features, view, antialias)
    assert margin > 1e-7  # so that no rounding decides what is drawn
    single = Splats(*(value.float() for value in vars(splats).values()))
    view = replace(view, w2c=view.w2c.float(), lens=view.lens.float(), rim=view.rim.float())
    picture = draw(single, features.float(), view, antialias, implementation)
    found = torch.cat([picture.sums, picture.opacity[..., None]], -1)[0].double()
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-5)
    assert found[..., 4].max() > 0.5


def differentiated(
    dtype: torch.dtype, implementation: Implementation, antialias: bool, size: int = 40
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of a weighed picture of two views, and its gradients for each of them."""
    splats, features = scene(size, dtype)
    view = splat_view(cameras(2, dtype=dtype))
    inputs = [value.requires_grad_() for value in (*vars(splats).values(), features, view.w2c)]
    weighed_picture(inputs, view, antialias, implementation).backward()
    return inputs, [value.grad for value in inputs if value.grad is not None]


def weighed_picture(
    inputs: list[Tensor], view: SplatView, antialias: bool, implementation: Implementation
) -> Tensor:
    picture = draw(Splats(*inputs[:4]), inputs[4], replace(view, w2c=inputs[5]), antialias, implementation)
    values = torch.cat([picture.sums, picture.opacity[..., None]], -1)
    weight = torch.randn(values.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (values * weight.to(values)).sum()


@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_are_finite_differences_for_every_input(antialias: bool) -> None:
    inputs, gradients = differentiated(torch.float64, "torch", antialias)
    view = splat_view(cameras(2))
    for index, (value, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        source = torch.Generator().manual_seed(index)
        step = torch.randn(value.shape, generator=source, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [each.detach() for each in inputs]
            moved[index] = moved[index] + sign * 1e-7 * step
            ends.append(float(weighed_picture(moved, view, antialias, "torch")))
        slope = float((gradient * step).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=2e-4), NAMES[index]


@pytest.mark.parametrize("antialias", [False, True])
def test_the_kernels_gradients_are_its_twins(antialias: bool) -> None:
    exact = differentiated(torch.float64, "torch", antialias)[1]
    rough = differentiated(torch.float32, "warp", antialias)[1]
    for name, a, b in zip(NAMES, exact, rough, strict=True):
        assert torch.allclose(a, b.double(), atol=2e-5 * float(a.abs().max())), name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_order_of_splats_changes_nothing(implementation: Implementation) -> None:
    splats, features = scene(50, torch.float32)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    shuffled = Splats(*(value[order] for value in vars(splats).values()))
    view = splat_view(cameras(2, dtype=torch.float32))
    one, other = (
        draw(*given, view, implementation=implementation)
        for given in ((splats, features), (shuffled, features[order]))
    )
    assert torch.equal(one.sums, other.sums) and torch.equal(one.opacity, other.opacity)


def single_splat(scale: float, opacity: float, x: float = 0.0) -> Splats:
    turned = torch.tensor([[0.3, -0.2, 0.9, 0.1]])
    return Splats(torch.tensor([[x, 0.0, 0.0]]), torch.full((1, 3), scale), turned, torch.tensor([opacity]))


def ahead(size: int) -> SplatView:
    """A camera on the x axis at distance 2."""
    return splat_view(orbit_cameras_deg(0.0, 0.0, 2.0, 45.0, size))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("antialias", [False, True])
def test_one_round_splat_on_the_axis_is_a_gaussian(antialias: bool, implementation: Implementation) -> None:
    """Its variance is (f s / d)^2 + 0.3 in pixels; antialiased + 0.1, and it covers what it would without that."""
    view, scale, opacity, blur = ahead(33), 0.07, 0.8, 0.1 if antialias else 0.3
    inner = (float(view.lens[0, 0]) * scale / 2) ** 2
    height = opacity * (inner / (inner + blur) if antialias else 1)
    middle = torch.arange(33) + 0.5 - 16.5
    squared = middle[:, None] ** 2 + middle**2
    expected = height * torch.exp(-squared / (2 * (inner + blur)))
    expected[expected < 1 / 255] = 0
    picture = draw(single_splat(scale, opacity), torch.ones(1, 3), view, antialias, implementation)
    assert torch.allclose(picture.opacity[0], expected, atol=2e-6)
    assert torch.allclose(picture.sums[0, ..., 3], 2 * expected, atol=5e-6)  # the depth of its middle


def test_a_tiny_antialiased_splat_covers_its_own_area_at_any_resolution() -> None:
    """2 pi o s^2 / pixel^2 is what it covers; only the cut at 1/255 is lost."""
    for size in (64, 128, 256):
        view = ahead(size)
        covered = float(draw(single_splat(0.03, 0.9), torch.ones(1, 3), view, True).opacity.sum())
        assert covered == pytest.approx(2 * math.pi * 0.9 * (float(view.lens[0, 0]) * 0.015) ** 2, rel=0.03)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_in_front_hides_what_is_behind(implementation: Implementation) -> None:
    pair = [single_splat(0.2, opacity, x) for opacity, x in ((0.9, -0.5), (0.6, 0.5))]
    both = Splats(*(torch.cat(values) for values in zip(*(vars(one).values() for one in pair))))
    picture = draw(both, torch.eye(3)[:2], ahead(17), implementation=implementation)
    middle = picture.sums[0, 8, 8]
    assert middle[:2].tolist() == pytest.approx([0.4 * 0.9, 0.6], abs=1e-6)
    assert float(picture.opacity[0, 8, 8]) == pytest.approx(1 - 0.4 * 0.1, abs=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_dense_stack_ends_the_pixel_before_its_light_is_gone(implementation: Implementation) -> None:
    """Of thirty splats of opacity 0.5 the first 13 are drawn: with a 14th less than 1e-4 of the light were left."""
    stack = [single_splat(5.0, 0.5, x) for x in torch.linspace(0.3, -0.3, 30).tolist()]
    splats = Splats(*(torch.cat(values) for values in zip(*(vars(one).values() for one in stack))))
    drawn = draw(splats, torch.eye(30)[:, :3], ahead(5), implementation=implementation)
    assert float(1 - drawn.opacity[0, 2, 2]) == pytest.approx(0.5**13, rel=0.02)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_behind_the_camera_is_seen_and_nothing_at_all_is_background(
    implementation: Implementation,
) -> None:
    behind = draw(single_splat(0.2, 0.9, 2.5), torch.ones(1, 3), ahead(9), implementation=implementation)
    splats, features = scene(0, torch.float32)
    empty = draw(splats, features, ahead(9), implementation=implementation)
    for picture in (behind, empty):
        assert picture.sums.shape == (1, 9, 9, 4) and not picture.sums.any() and not picture.opacity.any()


def test_a_window_shows_what_the_whole_picture_shows_there() -> None:
    splats, features = scene(40, torch.float32)
    made = cameras(1, dtype=torch.float32)
    full = draw(splats, features, splat_view(made)).sums
    part = draw(splats, features, splat_view(made, Window(5, 9, 11, 20))).sums
    assert torch.allclose(full[:, 5:16, 9:29], part, atol=2e-4)
    point = single_splat(0.5, 0.9)
    coarse, fine = (
        draw(point, torch.ones(1, 3), splat_view(orbit_cameras_deg(0.0, 0.0, 2.0, 45.0, 64), at)).opacity
        for at in (Window(1, 2, 16, 15, 4, 4), None)
    )
    assert torch.allclose(coarse[0], fine[0, 1::4, 2::4][:16, :15], atol=2e-2)


def test_parallel_projections_have_no_depth() -> None:
    c2w = orbit_cameras_deg(0.0, 0.0, 2.0, 45.0, 32).c2w
    view = splat_view(orthographic_cameras(c2w, 1.6, 32, 32))
    near, far = (
        draw(single_splat(0.1, 0.8, x), torch.ones(1, 3), view, implementation=one).opacity
        for x, one in ((0.5, "warp"), (-0.5, "torch"))
    )
    assert torch.allclose(near, far, atol=1e-5)
    assert float(near.sum()) == pytest.approx(2 * math.pi * 0.8 * (2**2 + 0.3), rel=0.02)


@pytest.mark.parametrize("views", [1, 3])
def test_lists_by_counting_and_by_sorting_are_the_same(views: int) -> None:
    splats, _ = scene(200, torch.float32)
    seen: Projection = project(splats, splat_view(cameras(views, 40, 70, torch.float32)))
    # Two at each depth, and one of them behind the picture's plane: equal ones keep their order.
    depth = (seen.depth * 20).round() / 20 - 1.5
    counted, listed = (make(seen.box, depth, (3, 5)) for make in (_lists_by_counting, _lists_by_sorting))
    assert len(counted.tiles) > 150 * views and (depth < 0).any() and len(depth.unique()) < 60
    for a, b in zip(counted, listed, strict=True):
        assert torch.equal(a, b)


def test_splats_that_nobody_sees_are_in_no_list() -> None:
    boxes, depths = torch.zeros(2, 5, 4, dtype=torch.int32), torch.ones(2, 5)
    for make in (_lists_by_counting, _lists_by_sorting):
        lists = make(boxes, depths, (2, 2))
        assert not lists.starts.any() and not lists.slots.any() and len(lists.tiles) == 0


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for grain in ("PROJECTED", "GATHERED"):
        monkeypatch.setattr(splat_warp, grain, 10)  # small pieces, so that threads share them
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            results.append(differentiated(torch.float32, "warp", True, 60)[1])
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def gsplats_documented_layout(
    center: Tensor, conic: Tensor, colors: Tensor, opacity: Tensor, width: int, height: int, *tiles: object
) -> tuple[Tensor, Tensor]:
    """``gsplat.rasterize_to_pixels`` by its documentation: tiles' offsets into one list of splats of all views."""
    side, offsets, ids = tiles
    assert isinstance(side, int) and isinstance(offsets, Tensor) and isinstance(ids, Tensor)
    sums, covered = (
        torch.zeros(len(colors), height, width, colors.shape[2]),
        torch.zeros(len(colors), height, width, 1),
    )
    ends = [*offsets.flatten().tolist()[1:], len(ids)]
    for tile, (start, end) in enumerate(zip(offsets.flatten().tolist(), ends, strict=True)):
        view, row, column = (int(i) for i in np.unravel_index(tile, offsets.shape))
        y, x = (torch.arange(side * i, min(side * (i + 1), n)) for i, n in ((row, height), (column, width)))
        here = ids[start:end].long()
        dx = (x + 0.5)[None, :, None] - center.flatten(0, 1)[here, 0]
        dy = (y + 0.5)[:, None, None] - center.flatten(0, 1)[here, 1]
        a, b, c = conic.flatten(0, 1)[here].unbind(1)
        alpha = opacity.flatten()[here] * torch.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        light = torch.cat([alpha.new_ones(len(y), len(x), 1), (1 - alpha).cumprod(-1)], -1)
        sums[view, y[:, None], x] = (alpha * light[..., :-1]) @ colors.flatten(0, 1)[here]
        covered[view, y[:, None], x, 0] = 1 - light[..., -1]
    return sums, covered


def test_gsplat_is_handed_what_it_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(rasterize_to_pixels=gsplats_documented_layout)
    monkeypatch.setattr(splat_gsplat, "load_accelerator", lambda name: {"gsplat": stand_in}[name])
    splats, features = scene(40, torch.float32)
    seen = project(splats, splat_view(cameras(2, dtype=torch.float32)))
    values = features.expand(2, -1, -1)
    theirs, ours = splat_gsplat.composite_gsplat(seen, values), composite(seen, values, "torch")
    assert torch.allclose(theirs.sums, ours.sums, atol=1e-5)
    assert torch.allclose(theirs.opacity, ours.opacity, atol=1e-5)


def test_more_tiles_than_can_be_counted_are_one_line() -> None:
    """The launcher says it as it says that memory is not enough."""
    side = 1 << 16
    boxes = torch.tensor([0, side, 0, side], dtype=torch.int32).repeat(1, 200, 1)
    with pytest.raises(MemoryError, match="200 splats cover 3355443200 tiles; expected below 2\\^31"):
        tile_lists(boxes, torch.zeros(1, 200), side, side)
