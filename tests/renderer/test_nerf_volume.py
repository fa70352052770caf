"""The volume renderer against closed forms, and its promises about randomness, memory and gradients."""

import math

import pytest
import torch
from scenes import RADIUS, Ball, background, material

from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.core.types import Field, Render
from usd.geometry import Geometry, Volumetric
from usd.geometry.implicit_volume import ImplicitVolume
from usd.kernels.ray_march import RaySamples
from usd.losses.table import REGULARIZERS
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.renderer import Renderer, Window
from usd.renderer.nerf_volume import NerfVolumeRenderer
from usd.renderer.occupancy_marcher import OccupancyMarcher

ALL = frozenset({"foreground", "depth", "normal", "samples"})


def renderer(geometry: Geometry, **options: object) -> NerfVolumeRenderer:
    config = parse(
        NerfVolumeRenderer.Config, {"radius": 0.6, "num_samples_per_ray": 128, **options}, "system.renderer"
    )
    return NerfVolumeRenderer(config, geometry=geometry, material=material(), background=background())


def cameras(count: int = 2, height: int = 12, width: int = 12) -> Cameras:
    views = orbit_cameras_deg([10.0, -30.0, 60.0][:count], [20.0, 140.0, 260.0][:count], 1.5, 40.0, height)
    return views.resize(height, width)


def chords(views: Cameras) -> torch.Tensor:
    """How long each ray runs inside the ball."""
    o, d = views.rays()
    middle = -(o * d).sum(-1)
    square = RADIUS**2 - (o.square().sum(-1) - middle.square())
    return 2 * square.clamp_min(0).sqrt()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("density", [0.5, 3.0, 40.0])
def test_opacity_of_a_ball_is_that_of_its_chords(density: float) -> None:
    views = cameras()
    rendered = renderer(Ball(density), num_samples_per_ray=512).eval().render(views)
    expected = 1 - torch.exp(-density * chords(views))
    error = (rendered.opacity[:, 0] - expected).abs()
    away_from_the_rim = (chords(views) == 0) | (chords(views) > 0.2)
    assert error[away_from_the_rim].max() < 0.006 * max(1.0, density * math.exp(-0.2 * density))


def test_depth_of_a_dense_ball_is_its_front() -> None:
    views = cameras(1, 9, 9)
    rendered = renderer(Ball(2000.0), num_samples_per_ray=1024).eval().render(views, ALL)
    assert rendered.depth is not None and rendered.normal is not None
    assert rendered.depth[0, 0, 4, 4].item() == pytest.approx(1.5 - RADIUS, abs=3e-3)
    toward = torch.nn.functional.normalize(views.position[0], dim=0)
    assert torch.allclose(rendered.normal[0, :, 4, 4], toward, atol=1e-3)


def test_parts_fit_together() -> None:
    """rgb = foreground + (1 - opacity) background, and samples' weights sum to the opacity."""
    rendered = renderer(Ball(4.0)).eval().render(cameras(), ALL)
    assert rendered.foreground is not None and rendered.samples is not None
    assert torch.allclose(rendered.rgb, rendered.foreground + 1 - rendered.opacity, atol=1e-6)
    total = torch.zeros(2 * 12 * 12).index_add(0, rendered.samples.ray_index, rendered.samples.weight)
    assert torch.allclose(total.view(2, 1, 12, 12), rendered.opacity, atol=1e-5)
    assert rendered.rgb.min() >= 0 and rendered.rgb.max() <= 1 + 1e-6


def test_only_what_is_needed_comes_back() -> None:
    rendered = renderer(Ball(4.0)).eval().render(cameras())
    assert [rendered.foreground, rendered.depth, rendered.normal, rendered.samples] == [None] * 4


@pytest.mark.parametrize(("height", "width"), [(10, 16), (16, 10), (1, 1)])
def test_pictures_that_are_not_square(height: int, width: int) -> None:
    rendered = renderer(Ball(4.0)).eval().render(cameras(3, height, width), ALL)
    assert rendered.rgb.shape == (3, 3, height, width) and rendered.opacity.shape == (3, 1, height, width)


def test_several_cameras_are_each_rendered_as_alone() -> None:
    views, one = cameras(3), renderer(Ball(4.0)).eval()
    together = one.render(views).rgb
    assert torch.allclose(together, torch.cat([one.render(views[[i]]).rgb for i in range(3)]), atol=1e-6)


def test_a_window_is_cut_from_the_picture() -> None:
    views, one = cameras(2, 12, 16), renderer(Ball(4.0)).eval()
    part = one.render(views, ALL, window=Window(3, 5, 6, 7))
    whole = one.render(views, ALL)
    assert part.depth is not None and whole.depth is not None
    assert torch.allclose(part.rgb, whole.rgb[:, :, 3:9, 5:12], atol=1e-6)
    assert torch.allclose(part.depth, whole.depth[:, :, 3:9, 5:12], atol=1e-5)


@pytest.mark.parametrize("chunk", [130, 700, 5000])
def test_working_in_chunks_changes_nothing(chunk: int) -> None:
    views = cameras(2, 6, 6)
    with torch.no_grad():
        whole = renderer(Ball(4.0)).eval().render(views, ALL)
        parts = renderer(Ball(4.0), eval_chunk_size=chunk).eval().render(views, ALL)
    _assert_same(whole, parts)


def test_training_searches_all_rays_at_once_where_evaluation_saves_memory(monkeypatch) -> None:
    """A search makes a GPU wait: in training there are as few as ``train_chunk_size`` allows."""
    searched: list[int] = []
    march = OccupancyMarcher.march

    def counted(self: OccupancyMarcher, o: torch.Tensor, *rest: object) -> RaySamples:
        searched.append(len(o))
        return march(self, o, *rest)

    monkeypatch.setattr(OccupancyMarcher, "march", counted)
    steps, views = 32, cameras(1, 8, 8)
    options = {"eval_chunk_size": 16 * steps, "num_samples_per_ray": steps, "prune_alpha_threshold": False}
    renderer(Ball(4.0), **options).render(views, ALL)
    assert searched == [64]
    searched.clear()
    renderer(Ball(4.0), train_chunk_size=32 * steps, **options).render(views, ALL)
    assert searched == [32, 32]
    searched.clear()
    with torch.no_grad():
        renderer(Ball(4.0), **options).eval().render(views, ALL)
    assert searched == [16] * 4


def _assert_same(a: Render, b: Render) -> None:
    for name in ("rgb", "opacity", "foreground", "depth", "normal"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5), name


def volume(**options: object) -> ImplicitVolume:
    torch.manual_seed(0)
    grid = {"n_levels": 4, "log2_hashmap_size": 12, "base_resolution": 4}
    return ImplicitVolume(
        parse(ImplicitVolume.Config, {"radius": 0.6, "pos_encoding_config": grid, **options})
    )


def test_gradients_reach_every_parameter() -> None:
    geometry = volume(normal_type="analytic")
    one = renderer(geometry)
    rendered = one.render(cameras(), ALL | {"normal_perturb"}, seeded())
    others = {name for name, loss in REGULARIZERS.items() if {"mesh", "splats"} & loss.needs} | {
        "eikonal",
        "curvature",
    }
    losses = [loss(rendered) for name, loss in REGULARIZERS.items() if name not in others]
    (rendered.rgb.square().sum() + sum(losses)).backward()
    for name, parameter in geometry.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_hidden_samples_are_left_out_without_changing_gradients() -> None:
    """What less than a ten-thousandth of the light reaches cannot matter more than that."""
    grads, counts = [], []
    for prune in (True, False):
        geometry = Ball(60.0)
        rendered = renderer(geometry, prune_alpha_threshold=prune).eval().render(cameras(), ALL)
        rendered.rgb.square().sum().backward()
        assert rendered.samples is not None and geometry.tint.grad is not None
        counts.append(len(rendered.samples.t))
        grads.append(geometry.tint.grad)
    assert counts[0] < 0.5 * counts[1]
    assert torch.allclose(grads[0], grads[1], rtol=1e-3)


def test_the_generator_is_the_only_randomness() -> None:
    one, views = renderer(Ball(4.0)), cameras()
    first, again, other = (one.render(views, generator=seeded(s)).rgb for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(one.render(views).rgb, one.eval().render(views, generator=seeded(1)).rgb)


def test_randomized_can_be_switched_off() -> None:
    one, views = renderer(Ball(4.0), randomized=False), cameras()
    assert torch.equal(one.render(views, generator=seeded(1)).rgb, one.render(views).rgb)


def test_the_occupancy_grid_finds_the_ball_and_changes_no_picture() -> None:
    one, views = renderer(Ball(4.0), grid_resolution=16).eval(), cameras()
    before = one.render(views, ALL)
    for step in range(0, 512, 16):
        one.update(step, seeded(step))
    assert 0.1 < one.marcher.occupancy.fraction < 0.3
    lost = (before.opacity - one.render(views, ALL).opacity).abs()
    assert lost.max() < 0.15 and lost.mean() < 2e-3


def test_the_grid_is_updated_now_and_then_and_kept_in_checkpoints() -> None:
    one = renderer(Ball(4.0), grid_resolution=16)
    one.update(5, seeded())
    assert one.marcher.occupancy.fraction == 1
    one.update(16, seeded())
    fresh = renderer(Ball(4.0), grid_resolution=16)
    fresh.load_state_dict(one.state_dict())
    assert fresh.marcher.occupancy.fraction == one.marcher.occupancy.fraction < 1


def test_a_checkpoint_of_the_renderer_does_not_hold_the_geometry_again() -> None:
    assert set(renderer(volume()).state_dict()) == {"grid_value", "grid_binary"}


def test_a_window_with_steps_is_every_so_many_pixels_of_the_picture() -> None:
    one, needs = renderer(Ball(4.0), prune_alpha_threshold=False).eval(), frozenset({"depth"})
    full, thin = one.render(cameras(), needs), one.render(cameras(), needs, None, Window(1, 2, 4, 3, 3, 4))
    assert thin.rgb.shape == (2, 3, 4, 3) and thin.depth is not None and full.depth is not None
    assert torch.allclose(thin.rgb, full.rgb[:, :, 1::3, 2::4], atol=1e-5)
    assert torch.allclose(thin.depth, full.depth[:, :, 1::3, 2::4], atol=1e-5)


def test_colors_of_four_channels_are_rendered_like_colors_of_three() -> None:
    """As many channels as the material and the background give: a diffusion model's latents."""
    from usd.background.solid_color import SolidColor
    from usd.material.no_material import NoMaterial

    class Four(Ball):
        def query(self, x: torch.Tensor, needs: frozenset[str]) -> Field:
            three = super().query(x, needs)
            return Field(three.density, torch.cat([three.features, three.features[:, :1]], 1), three.normal)

    latent = NoMaterial(parse(NoMaterial.Config, {"n_output_dims": 4}))
    gray = SolidColor(parse(SolidColor.Config, {"n_output_dims": 4, "color": [1.0, 1.0, 1.0, 0.5]}))
    config = parse(NerfVolumeRenderer.Config, {"radius": 0.6, "num_samples_per_ray": 64})
    one = NerfVolumeRenderer(config, geometry=Four(4.0), material=latent, background=gray).eval()
    shown, colors = (
        one.render(cameras(), ALL),
        renderer(Ball(4.0), num_samples_per_ray=64).eval().render(cameras(), ALL),
    )
    assert shown.rgb.shape == (2, 4, 12, 12) and shown.normal is not None
    torch.testing.assert_close(shown.rgb[:, :3], colors.rgb)
    torch.testing.assert_close(shown.rgb[:, 3:], shown.rgb[:, :1] - 0.5 * (1 - shown.opacity))
    torch.testing.assert_close(shown.normal, colors.normal)


@pytest.mark.parametrize("train", [True, False])
def test_no_occupied_cell_is_the_background(train: bool) -> None:
    one = renderer(Ball(0.0)).train(train)
    one.update(0, seeded())
    assert one.marcher.occupancy.fraction == 0
    rendered = one.render(cameras(), ALL, seeded())
    assert torch.equal(rendered.rgb, torch.ones(2, 3, 12, 12)) and not rendered.opacity.any()
    if train:
        (rendered.rgb.sum() + REGULARIZERS["z_variance"](rendered) + rendered.opacity.sum()).backward()


def test_cameras_inside_the_cube_see_what_is_before_them() -> None:
    views = orbit_cameras_deg(0.0, 0.0, 0.2, 40.0, 8)
    rendered = renderer(Ball(1.0), num_samples_per_ray=512).eval().render(views)
    assert rendered.opacity[0, 0, 4, 4].item() == pytest.approx(1 - math.exp(-0.6), abs=0.02)


def test_near_and_far_planes_cut() -> None:
    nothing = renderer(Ball(4.0), far_plane=1.0).eval().render(cameras())
    assert not nothing.opacity.any()
    half = renderer(Ball(1.0), near_plane=1.5, num_samples_per_ray=512).eval().render(cameras(1, 9, 9))
    assert half.opacity[0, 0, 4, 4].item() == pytest.approx(1 - math.exp(-RADIUS), abs=0.01)


def test_a_surface_cannot_be_rendered_as_a_volume() -> None:
    class Plate(Geometry):
        pass

    with pytest.raises(UserError, match="needs a volumetric geometry, got Plate"):
        renderer(Plate(Plate.Config()))


def test_published_options_are_read_and_misspelt_ones_are_refused() -> None:
    assert isinstance(renderer(Ball(1.0)), Renderer) and issubclass(Ball, Volumetric)
    with pytest.raises(ConfigError, match=r"system\.renderer\.num_sample_per_ray: unknown key"):
        renderer(Ball(1.0), num_sample_per_ray=3)


def test_near_samples_have_the_square_of_their_distances_share_of_gradients() -> None:
    """The same picture; along one ray through a thin fog the gradient of a slab falls with its distance's square."""

    class Fog(Ball):
        def __init__(self) -> None:
            super().__init__(0.2)
            self.near = torch.nn.Parameter(torch.zeros(()))

        def query(self, x: torch.Tensor, needs: frozenset[str]) -> Field:
            # A parameter that is felt in a slab at distance 1.35 to 1.45 from the camera alone.
            field = super().query(x, needs)
            slab = ((x[:, 0] - 0.1).abs() < 0.05).to(x)
            return Field(density=0.2 + self.near * slab, features=field.features)

    views = orbit_cameras_deg([0.0], [0.0], 1.5, 1.0, 1)
    found = {}
    for distance in (0.0, 2.8):
        geometry = Fog()
        made = renderer(
            geometry, gradient_distance=distance, randomized=False, num_samples_per_ray=512
        ).train()
        rendered = made.render(views, frozenset({"foreground"}), seeded())
        rendered.opacity.sum().backward()
        found[distance] = rendered.opacity.detach(), float(geometry.near.grad)
    assert torch.equal(found[0.0][0], found[2.8][0])
    assert found[2.8][1] == pytest.approx(found[0.0][1] * (1.4 / 2.8) ** 2, rel=0.02)
