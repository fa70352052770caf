"""The mesh renderer: its pictures, its promises, and shapes found from pictures alone."""

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scenes import Ball, background, material
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
from shapes import sphere, square, views

from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.registry import find
from usd.core.types import Mesh
from usd.geometry import ExplicitSurface
from usd.kernels import rasterize_nvdiffrast
from usd.kernels.rasterize import Tracer, View, rasterize
from usd.losses.mesh import uniform_laplacian
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.renderer import Window
from usd.renderer.rasterizer import Rasterizer, with_border

ALL = frozenset({"foreground", "depth", "normal", "mesh"})


class Shape(ExplicitSurface):
    """Free vertices; features are the position, so colors are a function of the place."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        super().__init__(None)
        self.radius, self.n_features = 1.0, 3
        self.vertices = torch.nn.Parameter(vertices)
        self.register_buffer("faces", faces)
        self.faces: Tensor

    def surface(self) -> Mesh:
        return Mesh(self.vertices, self.faces)

    def features(self, x: Tensor) -> Tensor:
        return 4 * x


def renderer(geometry: ExplicitSurface, **options: object) -> Rasterizer:
    config = parse(Rasterizer.Config, options, "system.renderer")
    return Rasterizer(
        config, geometry=geometry, material=material(), background=background(color=[0.2, 0.4, 0.6])
    )


def ball(level: int = 3) -> Shape:
    return Shape(*sphere(level))


# ------------------------------------------------------------------------------------------------------ pictures


def test_the_published_name_is_this_renderer() -> None:
    assert find("renderer", "nvdiff-rasterizer") is find("renderer", "rasterizer") is Rasterizer
    assert parse(Rasterizer.Config, {"context_type": "cuda"}).implementation == "built-in"


def test_a_ball_looks_like_a_ball() -> None:
    """Depth, normals and colors of the pixel in the middle, in closed form."""
    cameras = views(33, 3)
    shown = renderer(ball(4)).render(cameras, ALL)
    assert shown.depth is not None and shown.normal is not None
    toward = torch.nn.functional.normalize(cameras.position, dim=1)
    assert torch.allclose(shown.depth[:, 0, 16, 16], torch.full((3,), 1.0), atol=2e-3)
    assert torch.allclose(shown.normal[:, :, 16, 16], toward, atol=1e-2)
    assert torch.allclose(shown.rgb[:, :, 16, 16], (2 * toward).sigmoid(), atol=1e-2)
    assert torch.allclose(shown.rgb[:, :, 0, 0], torch.tensor([0.2, 0.4, 0.6]).expand(3, 3))


def test_parts_fit_together() -> None:
    shown = renderer(ball()).render(views(24, 2, 30), ALL)
    assert shown.foreground is not None and shown.normal is not None and shown.mesh is not None
    behind = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1)
    assert torch.allclose(shown.rgb, shown.foreground + (1 - shown.opacity) * behind, atol=1e-6)
    assert shown.rgb.shape == (2, 3, 24, 30) and shown.rgb.min() >= 0 and shown.rgb.max() <= 1
    length = shown.normal.norm(dim=1, keepdim=True)
    assert torch.allclose(length, (shown.opacity > 0).float(), atol=1e-5)
    assert ((shown.opacity > 0) & (shown.opacity < 1)).sum() > 20
    assert shown.mesh.vertices.requires_grad


def test_a_half_covered_pixel_shows_the_depth_of_what_covers_it() -> None:
    shown = renderer(ball()).render(views(24), ALL)
    assert shown.depth is not None
    thin = (shown.opacity > 0) & (shown.opacity < 0.5)
    assert thin.any() and shown.depth[thin].min() > 1.0 and shown.depth[thin].max() < 1.6


def test_only_what_is_needed_comes_back() -> None:
    shown = renderer(ball(1)).render(views(8))
    assert [shown.foreground, shown.depth, shown.normal, shown.samples, shown.mesh] == [None] * 5


@pytest.mark.parametrize(
    "window", [Window(0, 0, 24, 24), Window(3, 5, 9, 12), Window(10, 0, 1, 1), Window(12, 12, 12, 12)]
)
def test_a_window_is_cut_from_the_whole(window: Window) -> None:
    """Antialiasing looks beyond the window's border."""
    drawer, cameras = renderer(ball(2)), views(24, 2)
    part, whole = drawer.render(cameras, ALL, None, window), drawer.render(cameras, ALL)
    rows, columns = (
        slice(window.top, window.top + window.height),
        slice(window.left, window.left + window.width),
    )
    for name in ("rgb", "opacity", "depth", "normal"):
        assert torch.allclose(getattr(part, name), getattr(whole, name)[:, :, rows, columns], atol=2e-4), name


def test_without_antialiasing_silhouettes_are_hard() -> None:
    shown = renderer(ball(2), antialias=False).render(views(24))
    assert set(shown.opacity.unique().tolist()) == {0.0, 1.0}


def test_a_material_that_needs_normals_gets_them() -> None:
    lit = find("material", "diffuse-with-point-light-material")
    shape = ball(4)
    drawer = Rasterizer(parse(Rasterizer.Config, {}), shape, lit(parse(lit.Config, {})).eval(), background())
    shown = drawer.eval().render(views(33)).rgb[0]
    middle, edge = shown[:, 16, 16], shown[:, 16, 6]
    assert (edge < 0.8 * middle).any()


# ------------------------------------------------------------------------------------------------------ gradients


def test_gradients_of_all_parts_are_finite_differences() -> None:
    """Color, depth and normal, in double precision, by every vertex at once."""
    vertices, faces = sphere(1, dtype=torch.float64)
    cameras = views(16, 2, dtype=torch.float64)
    shape = Shape(vertices * torch.tensor([1.0, 0.8, 0.6]), faces)
    drawer = renderer(shape)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 7, 16, 16, generator=generator, dtype=torch.float64)
    way = torch.randn(vertices.shape, generator=generator, dtype=torch.float64)

    def loss() -> Tensor:
        shown = drawer.render(cameras, ALL)
        assert shown.depth is not None and shown.normal is not None
        return (torch.cat([shown.rgb, shown.depth, shown.normal * shown.opacity], 1) * weight).sum()

    loss().backward()
    assert shape.vertices.grad is not None
    slope, start, h = (shape.vertices.grad * way).sum(), shape.vertices.detach().clone(), 1e-7
    ends = []
    for sign in (1, -1):
        shape.vertices.data = start + sign * h * way
        ends.append(loss().detach())
    assert slope.item() == pytest.approx((ends[0] - ends[1]).item() / (2 * h), rel=1e-3)


def test_a_shape_is_found_from_its_silhouettes() -> None:
    """A ball becomes an ellipsoid, shifted, by masks of six views alone."""
    vertices, faces = sphere(3)
    cameras = orbit_cameras_deg(
        [0.0, 0.0, 30.0, 30.0, -40.0, 80.0], [0.0, 90.0, 45.0, 200.0, 300.0, 0.0], 1.8, 45.0, 40
    )
    target = Shape(vertices * torch.tensor([1.1, 0.6, 0.8]) + torch.tensor([0.05, 0.0, 0.1]), faces)
    with torch.no_grad():
        wanted = renderer(target).render(cameras).opacity
    shape = Shape(vertices.clone(), faces)
    before = mask_iou(renderer(shape).render(cameras).opacity, wanted)
    fit(shape, cameras, wanted, steps=40)
    after = mask_iou(renderer(shape).render(cameras).opacity, wanted)
    assert before < 0.8 and after > 0.98
    extent = shape.vertices.detach().amax(0) - shape.vertices.detach().amin(0)
    assert torch.allclose(extent, torch.tensor([1.1, 0.6, 0.8]), atol=0.06)


def fit(shape: Shape, cameras: Cameras, wanted: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(shape.parameters(), lr=0.01)
    drawer = renderer(shape)
    for _ in range(steps):
        shown = drawer.render(cameras).opacity
        smooth = uniform_laplacian(shape.vertices, shape.faces).square().sum(-1).mean()
        loss = (shown - wanted).square().mean() + 0.5 * smooth
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def mask_iou(a: Tensor, b: Tensor) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_density_field_cannot_be_rasterized() -> None:
    with pytest.raises(UserError, match=r"needs a geometry that is a mesh .* got Ball"):
        Rasterizer(parse(Rasterizer.Config, {}), Ball(1.0), material(), background())


def test_a_vanished_surface_and_numbers_that_are_none_end_in_one_line() -> None:
    gone = Shape(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(UserError, match="the mesh has no faces"):
        renderer(gone).render(views(8))
    broken = ball(1)
    broken.vertices.data[0, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        renderer(broken).render(views(8))


def test_it_gives_what_it_declares() -> None:
    shown = renderer(ball(1)).render(views(8), Rasterizer.outputs)
    assert all(getattr(shown, name) is not None for name in Rasterizer.outputs)


def test_samples_along_rays_are_refused() -> None:
    with pytest.raises(UserError, match="lambda_orient"):
        renderer(ball(1)).render(views(8), frozenset({"samples"}))


def test_a_mesh_out_of_sight_is_background() -> None:
    shape = ball(1)
    shape.vertices.data += 50
    shown = renderer(shape).render(views(8), ALL)
    assert shown.opacity.max() == 0 and shown.rgb.std((2, 3)).max() < 1e-6
    shown.rgb.sum().backward()


def test_a_window_with_steps_is_every_so_many_pixels_of_the_picture() -> None:
    one = renderer(ball(2))
    full, thin = (one.render(views(20, 2, 30), ALL, None, at) for at in (None, Window(3, 1, 5, 9, 4, 3)))
    assert torch.allclose(thin.rgb, full.rgb[:, :, 3::4, 1:28:3][:, :, :5], atol=1e-6)


# ------------------------------------------------------------------------------------------------------- nvdiffrast


def test_nvdiffrast_is_asked_for_and_missing() -> None:
    if importlib.util.find_spec("nvdiffrast"):
        pytest.skip("nvdiffrast is installed")
    with pytest.raises(UserError, match=r"^system\.renderer\.implementation: .*built-in"):
        renderer(ball(1), implementation="nvdiffrast")


@pytest.mark.parametrize("window", [Window(0, 0, 20, 30), Window(4, 9, 11, 8)])
def test_what_nvdiffrast_draws_is_read_as_its_manual_says(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rasterizer written from the manual (clip space, row 0 at y = -1, face numbers from 1) sees the same faces."""
    monkeypatch.setattr(
        rasterize_nvdiffrast,
        "package",
        lambda: SimpleNamespace(rasterize=by_the_manual, antialias=lambda c, *_: c),
    )
    vertices, faces = sphere(1)
    near, flat = square(0.7, 0.1, torch.float32)
    mesh = Mesh(torch.cat([vertices, near]), torch.cat([faces, flat + len(vertices)]))
    cameras = views(20, 2, 30)
    view = View(cameras, window.top, window.left, window.height, window.width)
    seen, blend = rasterize_nvdiffrast.rasterize_nvdiffrast(mesh.vertices, mesh.faces, view, None)
    expected = rasterize(Tracer(mesh.vertices, mesh.faces), view)
    assert torch.equal(seen.pixel, expected.pixel)
    assert (seen.face == expected.face).float().mean() > 0.97
    same = seen.face == expected.face
    assert torch.allclose(seen.t[same], expected.t[same], atol=1e-4)
    picture = seen.picture(seen.t[:, None])
    assert torch.equal(blend(picture), picture)


def by_the_manual(
    glctx: object, positions: Tensor, faces: Tensor, resolution: tuple[int, int]
) -> tuple[Tensor, None]:
    """(u, v, z/w, face number + 1) for every pixel, rows from y = -1 upwards."""
    height, width = resolution
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    pixels = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).view(-1, 1, 2)
    pictures = []
    for clip in positions:
        a, b, c = (clip[:, :2] / clip[:, 3:])[faces.long()].unbind(1)
        double = cross(b - a, c - a)
        weights = torch.stack(
            [cross(b - pixels, c - pixels), cross(c - pixels, a - pixels), cross(a - pixels, b - pixels)], -1
        )
        weights = weights / double[:, None]
        depth = (weights * (clip[:, 2] / clip[:, 3])[faces.long()]).sum(-1)
        depth = torch.where((weights >= 0).all(-1), depth, torch.inf)
        z, face = depth.min(1)
        number = torch.where(z.isfinite(), face + 1, 0)
        pictures.append(torch.stack([z * 0, z * 0, z, number.to(z)], -1).view(height, width, 4))
    return torch.stack(pictures), None


def cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def test_the_border_never_leaves_the_picture() -> None:
    view = with_border(views(24), Window(0, 3, 24, 10))
    assert (view.top, view.left, view.height, view.width) == (0, 2, 24, 12)
