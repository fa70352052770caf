"""Pictures of a Gaussian scene: depth along rays, normals, windows, what is refused, and what training notes."""

import math

import pytest
import torch

from usd.background.solid_color import SolidColor
from usd.core.config import parse, spec
from usd.core.errors import ConfigError, UserError
from usd.core.registry import build
from usd.core.types import Render
from usd.evaluation.metrics import ssim
from usd.geometry import Geometry
from usd.geometry.gaussian_splatting import GaussianSplatting
from usd.losses.splats import (
    splat_opacity,
    splat_position,
    splat_scale,
    structural_dissimilarity,
    total_variation,
)
from usd.material.no_material import NoMaterial
from usd.math.camera import Window, orbit_cameras_deg, orthographic_cameras
from usd.renderer.splat import SplatRenderer

PARTS = frozenset({"foreground", "depth", "normal", "splats"})


def ball(count: int = 4000) -> GaussianSplatting:
    """A red ball of radius 0.3, of flat opaque Gaussians."""
    options = {"n_splats": count, "shape_init": "sphere", "shape_init_params": 0.3, "initial_opacity": 0.99}
    made = build(spec("geometry", "gaussian-splatting", options), GaussianSplatting)
    made.initialize()
    made.paint(torch.tensor([[0.9, 0.2, 0.1]]).expand(count, 3))
    with torch.no_grad():  # thin along x in their own axes, which point outward
        made.scales[:, 0] = math.log(1e-3)
        outward = torch.nn.functional.normalize(made.means, dim=1)
        half = torch.stack([1 + outward[:, 0], torch.zeros(count), -outward[:, 2], outward[:, 1]], 1)
        made.rotations.copy_(torch.nn.functional.normalize(half, dim=1))
    return made


def renderer(geometry: Geometry, **material: object) -> SplatRenderer:
    parts = (NoMaterial(parse(NoMaterial.Config, material)), SolidColor(parse(SolidColor.Config, {})))
    return SplatRenderer(parse(SplatRenderer.Config, {}), geometry, *parts)


@pytest.fixture(scope="module")
def picture() -> Render:
    return renderer(ball()).render(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 48), PARTS)


def test_a_ball_has_its_color_distance_and_normals(picture: Render) -> None:
    assert picture.foreground is not None and picture.depth is not None and picture.normal is not None
    middle = picture.foreground[0, :, 24, 24]
    assert torch.allclose(middle, torch.tensor([0.9, 0.2, 0.1]), atol=0.01)
    assert float(picture.rgb[0, :, 0, 0].min()) == 1  # white behind
    # Along a ray that passes the middle at a distance b the ball begins at sqrt(d^2 - b^2) - sqrt(r^2 - b^2).
    rays = orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 48).rays()[1][0]
    along = 1.5 * (-rays[..., 0])
    inside = 0.3**2 - (1.5**2 - along**2)
    seen = (inside > 0.02) & (picture.opacity[0, 0] > 0.95)
    distance = along - inside.clamp_min(0).sqrt()
    assert float((picture.depth[0, 0] - distance)[seen].abs().max()) < 0.03 and seen.sum() > 100
    hit = torch.tensor([1.5, 0.0, 0.0]) + distance[..., None] * rays
    cosine = (picture.normal[0].permute(1, 2, 0) * hit / 0.3).sum(-1)
    assert float(cosine[seen].min()) > 0.95


def test_a_window_is_a_part_of_the_picture(picture: Render) -> None:
    part = renderer(ball()).render(
        orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 48), PARTS, None, Window(10, 20, 8, 12)
    )
    assert torch.allclose(part.rgb, picture.rgb[:, :, 10:18, 20:32], atol=1e-4)


def test_parallel_rays_see_it_too() -> None:
    cameras = orthographic_cameras(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 32).c2w, 1.0, 32, 32)
    render = renderer(ball(16000)).render(cameras, PARTS)
    assert float(render.opacity.mean()) == pytest.approx(math.pi * 0.32**2, rel=0.1)  # with its soft rim
    assert render.depth is not None and float(render.depth[0, 0, 16, 16]) == pytest.approx(1.2, abs=0.02)


def test_training_notes_how_far_centers_are_pulled() -> None:
    geometry = ball(200)
    optimizer = torch.optim.Adam(geometry.parameters(), lr=1e-3)
    geometry.update(0, torch.Generator())
    render = renderer(geometry).render(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 32))
    render.rgb[..., :16].sum().backward()
    geometry.after_step(0, optimizer, torch.Generator())
    assert float(geometry.slope.max()) > 0 and float(geometry.count.max()) == 1
    seen_from_nowhere = geometry.count == 0
    assert not geometry.slope[seen_from_nowhere].any()


def test_losses_of_gaussians_are_what_they_say(picture: Render) -> None:
    assert picture.splats is not None
    assert float(splat_position(picture)) == pytest.approx(0.3, abs=1e-3)
    assert float(splat_scale(picture)) == pytest.approx(float(picture.splats.scales.sum()))
    sizes = picture.splats.scales.norm(dim=1)
    assert float(splat_opacity(picture)) == pytest.approx(
        float((sizes * picture.splats.opacities).sum()), rel=1e-5
    )
    flat = Render(torch.full((1, 3, 4, 4), 0.3), torch.ones(1, 1, 4, 4))
    assert float(total_variation(flat)) == 0
    steep = Render(torch.arange(4.0).expand(1, 3, 4, 4), torch.ones(1, 1, 4, 4))
    assert float(total_variation(steep)) == 1
    with pytest.raises(UserError, match="need Gaussians"):
        splat_position(flat)


def test_dissimilarity_is_that_of_the_usual_window_inside() -> None:
    a, b = torch.rand(2, 1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert float(structural_dissimilarity(a, a)) == pytest.approx(0, abs=1e-6)
    black = torch.nn.functional.pad
    a, b = (black(each, (5, 5, 5, 5)) for each in (a, b))
    inner = float(structural_dissimilarity(a, b)) * 2
    assert 1 - inner == pytest.approx(float(ssim(black(a, (5,) * 4), black(b, (5,) * 4))[0]), abs=1e-4)


def test_what_cannot_be_rendered_is_one_line() -> None:
    geometry = ball(10)
    with pytest.raises(UserError, match="Gaussians have colors of their own"):
        renderer(geometry, color_activation="none")
    with pytest.raises(UserError, match="have no samples along rays"):
        renderer(geometry).render(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8), frozenset({"samples"}))
    with torch.no_grad():
        geometry.scales[3] = math.nan
    with pytest.raises(UserError, match="scales of 1 of 10 Gaussians are not finite"):
        renderer(geometry).render(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))
    volume = build(spec("geometry", "implicit-volume", {}), Geometry)
    with pytest.raises((UserError, ConfigError), match="needs a geometry of Gaussians"):
        renderer(volume)
