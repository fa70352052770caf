"""Visibility, interpolation and silhouettes: kernel against twin, closed forms, and finite differences of pictures."""

import math
import sys
from pathlib import Path

import pytest
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from shapes import ahead, sphere, square, views

from usd.kernels.rasterize import NO_FACE, Tracer, View, barycentric, interpolate, rasterize, whole
from usd.kernels.rasterize_antialias import antialias, crossings
from usd.kernels.rasterize_nvdiffrast import clip_positions
from usd.kernels.runtime import Implementation
from usd.math.camera import Cameras, orthographic_cameras, pinhole_cameras


def draw(
    vertices: Tensor,
    faces: Tensor,
    colors: Tensor,
    cameras: Cameras,
    implementation: Implementation = "auto",
) -> Tensor:
    """Antialiased pictures (B H W C+1): colors, and opacity last."""
    view = whole(cameras)
    tracer = Tracer(vertices, faces, implementation)
    seen = rasterize(tracer, view)
    weights, _ = barycentric(vertices, faces, view, seen)
    values = interpolate(colors, faces, seen, weights)
    picture = seen.picture(torch.cat([values, torch.ones_like(weights[:, :1])], 1))
    return antialias(picture, vertices, crossings(tracer, view, seen), view)


def opacity(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    return draw(vertices, faces, vertices[:, :0], cameras)[..., 0]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -------------------------------------------------------------------------------------------------- visibility


@pytest.mark.parametrize(("count", "height", "width"), [(1, 32, 32), (3, 20, 33), (1, 1, 1)])
def test_the_kernel_sees_what_its_twin_sees(count: int, height: int, width: int) -> None:
    vertices, faces = sphere(2)
    rays = whole(views(height, count, width)).rays
    face, t = Tracer(vertices, faces, "warp").cast(*rays)
    expected_face, expected_t = Tracer(vertices, faces, "torch").cast(*rays)
    assert (face == expected_face).double().mean() > 0.99  # a ray through an edge may choose either
    hit = (face != NO_FACE) & (expected_face != NO_FACE)
    assert ((face != NO_FACE) == (expected_face != NO_FACE)).double().mean() > 0.995
    assert torch.allclose(t[hit], expected_t[hit], atol=1e-5) and t[face == NO_FACE].isinf().all()


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_the_nearest_face_wins_and_what_is_behind_the_camera_is_not_seen(
    implementation: Implementation,
) -> None:
    near, faces = square(0.5, 0.4, torch.float32)
    far, behind = square(-0.5, 0.4, torch.float32)[0], square(5.0, 0.4, torch.float32)[0]
    vertices = torch.cat([far, near, behind])
    both = torch.cat([faces, faces + 4, faces + 8])
    seen = rasterize(Tracer(vertices, both, implementation), whole(ahead(16, dtype=torch.float32)))
    assert set(seen.face.tolist()) <= {2, 3} and len(seen) > 20


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_a_mesh_without_faces_shows_nothing(implementation: Implementation) -> None:
    tracer = Tracer(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), implementation)
    view = whole(views(4))
    seen = rasterize(tracer, view)
    assert len(seen) == 0 and len(crossings(tracer, view, seen)) == 0
    assert seen.picture(torch.zeros(0, 2)).shape == (1, 4, 4, 2)


# ----------------------------------------------------------------------------------------------- interpolation


def test_interpolated_positions_lie_on_the_rays() -> None:
    """Perspective-correct: weights are those of points in space."""
    vertices, faces = sphere(1)
    view = whole(views(24, 2))
    seen = rasterize(Tracer(vertices, faces), view)
    weights, t = barycentric(vertices, faces, view, seen)
    o, d = (rays[seen.pixel] for rays in view.rays)
    assert torch.allclose(weights.sum(1), torch.ones(len(seen)), atol=1e-5) and weights.min() > -1e-4
    assert torch.allclose(interpolate(vertices, faces, seen, weights), o + t[:, None] * d, atol=1e-5)
    assert torch.allclose(t, seen.t, atol=1e-5)


def test_a_slanted_floor_is_not_interpolated_in_the_picture() -> None:
    """On the floor z = -0.5 an attribute equal to x must be the hit's x, far from linear in the rows."""
    vertices = torch.tensor([[-9.0, -3, -0.5], [1.0, -3, -0.5], [1.0, 3, -0.5], [-9.0, 3, -0.5]]).double()
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    view = whole(ahead(33))
    seen = rasterize(Tracer(vertices, faces), view)
    weights, _ = barycentric(vertices, faces, view, seen)
    x = seen.picture(interpolate(vertices[:, :1], faces, seen, weights))[0, :, 16, 0]
    row = torch.arange(33)[18:]
    slope = (row + 0.5 - 16.5) / (0.5 * 33 / math.tan(math.radians(22.5)))
    expected = 2 - 0.5 / slope
    shown = (expected < 1) & (expected > -9)
    assert torch.allclose(x[row][shown], expected[shown].double(), atol=1e-6) and shown.sum() > 10


def test_gradients_of_attributes_and_positions_are_those_of_the_pictures_inside() -> None:
    vertices, faces = sphere(1, dtype=torch.float64)
    view = whole(views(12, 2, dtype=torch.float64))
    seen = rasterize(Tracer(vertices, faces), view)
    colors = noise(len(vertices), 2)

    def values(x: Tensor, c: Tensor) -> Tensor:
        weights, t = barycentric(x, faces, view, seen)
        return torch.cat([interpolate(c, faces, seen, weights), t[:, None]], 1)

    assert torch.autograd.gradcheck(
        values, (vertices.requires_grad_(), colors.requires_grad_()), fast_mode=True
    )


def test_tiny_faces_keep_their_digits() -> None:
    """In single precision too, a face of a thousandth of the object gives weights good to a percent."""
    vertices, faces = square(0.0, 5e-4)
    cameras = ahead(9)
    close = Cameras(cameras.c2w, torch.full_like(cameras.fov_y, 5e-4), 9, 9)
    exact, rough = (
        _weights(vertices.to(kind), faces, Cameras(close.c2w.to(kind), close.fov_y.to(kind), 9, 9))
        for kind in (torch.float64, torch.float32)
    )
    assert torch.allclose(exact, rough.double(), atol=1e-2)


def _weights(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    view = whole(cameras)
    seen = rasterize(Tracer(vertices, faces, "torch"), view)
    assert len(seen) == 81
    return interpolate(vertices, faces, seen, barycentric(vertices, faces, view, seen)[0]) * 1e3


# ------------------------------------------------------------------------------------------------- silhouettes


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(("level", "size"), [(0, 32), (1, 48), (5, 32)])
def test_the_covered_area_is_that_of_the_outline(level: int, size: int, parallel: bool) -> None:
    """Faces much smaller than a pixel (level 5) are no worse; orthographic cameras neither."""
    vertices, faces = sphere(level)
    vertices = vertices * torch.tensor([1.0, 0.8, 0.6])
    cameras = views(size, 3)
    if parallel:
        cameras = orthographic_cameras(cameras.c2w, 1.3, size, size)
    areas = opacity(vertices, faces, cameras).sum((1, 2))
    expected = [hull_area(vertices, whole(cameras[i : i + 1])) for i in range(3)]
    assert areas.tolist() == pytest.approx(expected, rel=4e-3 if level else 1e-2)  # its corners are sharp


def hull_area(vertices: Tensor, view: View) -> float:
    outline = view.project(vertices, torch.zeros(len(vertices), dtype=torch.long))[0]
    return float(ConvexHull(outline.double().numpy()).volume)


def test_growing_adds_the_outlines_length() -> None:
    """d area / d size, from the picture's gradient and from the outline's area."""
    vertices, faces = sphere(3)
    vertices = vertices * torch.tensor([1.0, 0.8, 0.6])
    factor, cameras = torch.ones((), requires_grad=True), views(96)
    (slope,) = torch.autograd.grad(opacity(factor * vertices, faces, cameras).sum(), factor)
    larger, smaller = (
        hull_area(vertices.double() * s, whole(views(96, dtype=torch.float64))) for s in (1.0001, 0.9999)
    )
    assert slope.item() == pytest.approx((larger - smaller) / 2e-4, rel=0.02)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("level", "size"), [(0, 24), (1, 24), (2, 24)])
def test_gradients_are_finite_differences_of_the_pictures(level: int, size: int, smooth: bool) -> None:
    """Colors and opacity, weighed at random, every vertex moved at random: silhouettes included."""
    vertices, faces = sphere(level, dtype=torch.float64)
    vertices = vertices * torch.tensor([1.0, 0.8, 0.6])
    cameras, colors = views(size, 2, dtype=torch.float64), noise(len(vertices), 2).sigmoid()
    weight = noise(2, 3, 6, 6, seed=2) if smooth else noise(2, 3, size, size, seed=2)
    weight = torch.nn.functional.interpolate(weight, (size, size), mode="bicubic").permute(0, 2, 3, 1)

    def loss(x: Tensor) -> Tensor:
        return (draw(x, faces, colors, cameras) * weight).sum()

    (slope,) = torch.autograd.grad(loss(vertices.requires_grad_()), vertices)
    with torch.no_grad():
        for seed in range(3):
            way = noise(*vertices.shape, seed=seed)
            change = (loss(vertices + 1e-7 * way) - loss(vertices - 1e-7 * way)) / 2e-7
            assert (slope * way).sum().item() == pytest.approx(change.item(), rel=1e-3, abs=1e-3)


def test_gradients_add_up_over_a_long_way() -> None:
    """Where the outline passes pixel centers nothing jumps: the gradients over two pixels sum to the difference."""
    vertices, faces = sphere(1, dtype=torch.float64)
    cameras = ahead(32)
    weight = torch.nn.functional.interpolate(noise(1, 1, 5, 5), (32, 32), mode="bicubic")[0]
    way = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64) * (2 * 2.0 * math.tan(math.radians(22.5)) / 32)

    def at(s: float) -> tuple[Tensor, Tensor]:
        share = torch.tensor(s, dtype=torch.float64, requires_grad=True)
        value = (opacity(vertices + share * way, faces, cameras) * weight).sum()
        return value.detach(), torch.autograd.grad(value, share)[0]

    steps = 50
    total = sum(at(2 * (k + 0.5) / steps)[1] for k in range(steps)) * 2 / steps
    difference = at(2.0)[0] - at(0.0)[0]
    assert float(total) == pytest.approx(float(difference), rel=0.03)


def test_only_the_outline_moves_the_mask() -> None:
    """Vertices inside the outline get a gradient of exactly zero; those on it are pushed outwards."""
    vertices, faces = sphere(3)
    (slope,) = torch.autograd.grad(
        opacity(vertices.requires_grad_(), faces, ahead(48, dtype=torch.float32)).sum(), vertices
    )
    toward = vertices.detach()[:, 0] / 0.5  # 1 nearest to the camera, 1/4 at the outline
    moved = slope.norm(dim=1) > 0
    assert not moved[(toward - 0.25).abs() > 0.2].any() and moved.sum() > 20
    outward = vertices.detach() * torch.tensor([0.0, 1, 1])
    assert (slope * outward).sum(1)[moved].sum() > 0.98 * (slope * outward).sum(1)[moved].abs().sum() > 0


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_pictures_of_kernel_and_twin_agree_and_stay_in_range(implementation: Implementation) -> None:
    vertices, faces = sphere(2)
    colors = noise(len(vertices), 3).sigmoid().float()
    cameras = views(32, 3)
    exact = draw(
        vertices.double(),
        faces,
        colors.double(),
        Cameras(cameras.c2w.double(), cameras.fov_y.double(), 32, 32),
    )
    picture = draw(vertices, faces, colors, cameras, implementation)
    assert (picture - exact).abs().mean() < 2e-4
    assert picture.min() >= 0 and picture.max() <= 1 + 1e-6


def test_an_object_smaller_than_a_pixel_stays_in_range() -> None:
    vertices, faces = sphere(0, radius=0.02, dtype=torch.float64)
    picture = opacity(vertices, faces, ahead(9))
    assert 0 < picture.sum() < 1 and picture.min() >= 0
    assert (picture > 0).sum() == 1


# -------------------------------------------------------------------------------------------- which edges count


def crossed(vertices: Tensor, faces: Tensor, cameras: Cameras) -> int:
    view = whole(cameras)
    tracer = Tracer(vertices, faces)
    return len(crossings(tracer, view, rasterize(tracer, view)))


def test_borders_of_open_meshes_are_silhouettes_and_diagonals_are_not() -> None:
    vertices, faces = square(0.0, 0.3)
    cameras = ahead(33)
    side = 0.6 * 16.5 / math.tan(math.radians(22.5)) / 2.0
    picture = opacity(vertices, faces, cameras)
    assert picture.sum().item() == pytest.approx(side**2, rel=0.01)
    assert crossed(vertices, faces, cameras) == 4 * (2 * int(side / 2) + 1)  # lines through it, twice each
    assert crossed(vertices, faces.flip(1), cameras) == crossed(vertices, faces, cameras)


def test_an_axis_aligned_square_is_covered_exactly_along_its_sides() -> None:
    vertices, faces = square(0.0, 0.3)
    picture = opacity(vertices, faces, ahead(33))[0]
    half = 0.3 * 16.5 / math.tan(math.radians(22.5)) / 2.0
    reach = 16.5 + half  # the right border, pixels
    expected = (reach - torch.arange(33)).clamp(0, 1)[16:].double()
    assert torch.allclose(picture[16, 16:], expected, atol=1e-9)


def test_hidden_outlines_blend_nothing() -> None:
    front, faces = square(0.5, 0.3)
    back = square(-0.5, 0.25)[0]
    cameras = ahead(33)
    both = torch.cat([faces, faces + 4])
    assert crossed(torch.cat([front, back]), both, cameras) == crossed(front, faces, cameras)


def test_an_outline_before_something_else_is_blended_with_it() -> None:
    front, faces = square(0.5, 0.2)
    back = square(-0.5, 0.9)[0]
    vertices = torch.cat([front, back])
    colors = torch.tensor([[1.0]] * 4 + [[0.0]] * 4, dtype=torch.float64)
    picture = draw(vertices, torch.cat([faces, faces + 4]), colors, ahead(33))[0]
    side = 0.4 * 16.5 / math.tan(math.radians(22.5)) / 1.5
    assert picture[..., 0].sum().item() == pytest.approx(side**2, rel=0.01)
    assert torch.allclose(picture[8:-8, 8:-8, 1], torch.ones((), dtype=torch.float64))


def test_seams_between_pieces_that_touch_are_no_silhouettes() -> None:
    """Two squares side by side that share no vertex (as exporters cut textured meshes) look like one."""
    left, faces = square(0.0, 0.2)
    aside = torch.tensor([0.0, 0.2, 0.0], dtype=torch.float64)
    vertices = torch.cat([left - aside, left + aside])
    picture = opacity(vertices, torch.cat([faces, faces + 4]), ahead(33))[0]
    assert torch.allclose(picture[14:19, 10:23], torch.ones((), dtype=torch.float64))
    view = whole(ahead(33))
    tracer = Tracer(vertices, torch.cat([faces, faces + 4]))
    found = crossings(tracer, view, rasterize(tracer, view))
    assert not ((found.inner % 33 > 13) & (found.inner % 33 < 19) & found.in_row).any()


def test_folds_between_two_pixels_count_once() -> None:
    """Three squares whose borders all lie between the same pixels blend like the widest one."""
    sizes = [0.300, 0.303, 0.306]
    parts = [square(0.5 - 0.2 * k, size * (1 + 0.1333 * k))[0] for k, size in enumerate(sizes)]
    faces = square(0.0, 1.0)[1]
    together = torch.cat([faces + 4 * k for k in range(3)])
    several = opacity(torch.cat(parts), together, ahead(33))
    assert several.max() <= 1 + 1e-12
    assert torch.allclose(several, opacity(parts[2], faces, ahead(33)), atol=1e-9)


def test_edges_that_pass_the_camera_are_left_out() -> None:
    vertices = torch.tensor([[3.0, -0.3, -0.2], [3.0, 0.3, -0.2], [-1.0, 0.0, -0.2]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    vertices.requires_grad_()
    picture = opacity(vertices, faces, ahead(32))
    picture.sum().backward()
    assert picture.sum() > 5 and vertices.grad is not None and vertices.grad.isfinite().all()


def test_a_window_is_cut_from_the_whole() -> None:
    vertices, _ = sphere(1, dtype=torch.float64)
    cameras = views(32, 2, dtype=torch.float64)
    view = View(cameras, 5, 7, 20, 16)
    d = view.rays[1]
    full = whole(cameras)
    assert torch.equal(d.view(2, 20, 16, 3), full.rays[1].view(2, 32, 32, 3)[:, 5:25, 7:23])
    camera = torch.zeros(len(vertices), dtype=torch.long)
    shift = full.project(vertices, camera)[0] - view.project(vertices, camera)[0]
    assert torch.allclose(shift, torch.tensor([7.0, 5.0], dtype=torch.float64).expand_as(shift))
    at = view.project(vertices, camera)[0]
    origin, through = view.rays_through(at, camera)
    depth = view.project(vertices, camera)[1]
    assert torch.allclose(origin + depth[:, None] * through, vertices, atol=1e-6)


@pytest.mark.parametrize("focal", [60.0, 90.0])
def test_a_principal_point_elsewhere_and_pixels_of_another_shape_only_move_and_stretch_the_picture(
    focal: float,
) -> None:
    """Antialiased pictures of a part are that part; with fx twice as large, every second column lies in between."""
    vertices, faces = sphere(2, dtype=torch.float64)
    colors = vertices + 0.5
    camera = views(40, dtype=torch.float64)
    numbers = torch.tensor([[focal, focal, 20.0, 20.0]], dtype=torch.float64)
    whole_picture = draw(vertices, faces, colors, pinhole_cameras(camera.c2w, numbers, 40, 40))
    moved = numbers - torch.tensor([0, 0, 7, 12.0])
    part = draw(vertices, faces, colors, pinhole_cameras(camera.c2w, moved, 20, 24))
    inside = (slice(None), slice(1, -1), slice(1, -1))
    assert torch.allclose(part[inside], whole_picture[:, 12:32, 7:31][inside], atol=1e-9)
    wide = pinhole_cameras(camera.c2w, numbers * torch.tensor([2, 1, 2, 1]), 40, 80)
    area = draw(vertices, faces, colors, wide)[..., 3].sum() / 2
    assert float(area) == pytest.approx(float(whole_picture[..., 3].sum()), rel=2e-3)


def test_nvdiffrasts_positions_are_those_of_the_pixels_for_any_principal_point() -> None:
    numbers = torch.tensor([[70.0, 50.0, 12.0, 25.0]], dtype=torch.float64)
    view = View(pinhole_cameras(ahead(40).c2w, numbers, 40, 36), 3, 5, 20, 24)
    points = 0.4 * noise(30, 3)
    x, y, _, w = clip_positions(points, view)[0].unbind(-1)
    seen = torch.stack([(x / w + 1) * 12, (y / w + 1) * 10], -1)
    assert torch.allclose(seen, view.project(points, torch.zeros(30).long())[0], atol=1e-8)
