"""The surface renderer against closed forms of a ball, and its promises about visibility, memory and gradients."""

import pytest
import torch
from jaxtyping import Float
from scenes import RADIUS, Ball, background, material
from torch import Tensor

from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.core.types import Field, Mesh
from usd.geometry import DistanceField, Level, SignedDistance
from usd.geometry.implicit_sdf import ImplicitSDF
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.renderer import Window
from usd.renderer.neus_volume import NeusVolumeRenderer

SHARP = 0.7  # variance: sharpness exp(7), a layer of about 0.004


class BallDistance(SignedDistance):
    """The exact distance to a ball; its features are a tint."""

    def __init__(self) -> None:
        super().__init__(None)
        self.n_features, self.radius = 3, 0.6
        self.size = torch.nn.Parameter(torch.tensor(RADIUS))
        self.tint = torch.nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

    def start_from_mesh(self, mesh):
        return False

    def distance(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        return x.norm(dim=-1) - self.size

    def distance_field(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> DistanceField:
        length = x.norm(dim=-1, keepdim=True)
        laplacian = 2 / length[:, 0] if "laplacian" in needs else None
        return DistanceField(length[:, 0] - self.size, x / length, laplacian, self.tint.expand(len(x), 3))

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        raise NotImplementedError

    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        raise NotImplementedError


def renderer(geometry: SignedDistance | None = None, **options: object) -> NeusVolumeRenderer:
    values = {"radius": 0.6, "num_samples_per_ray": 512, "learned_variance_init": SHARP, **options}
    config = parse(NeusVolumeRenderer.Config, values, "system.renderer")
    return NeusVolumeRenderer(
        config, geometry=geometry or BallDistance(), material=material(), background=background()
    )


def cameras(count: int = 2, size: int = 12) -> Cameras:
    return orbit_cameras_deg([10.0, -30.0, 60.0][:count], [20.0, 140.0, 260.0][:count], 1.5, 40.0, size)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_hit(views: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the ball along each ray, and how far the ray passes its rim (negative: misses)."""
    o, d = views.rays()
    middle = -(o * d).sum(-1)
    square = RADIUS**2 - (o.square().sum(-1) - middle.square())
    return middle - square.clamp_min(0).sqrt(), square


def test_depth_opacity_and_normals_are_those_of_the_ball() -> None:
    views = cameras(3)
    seen = renderer().eval().render(views, frozenset({"depth", "normal"}))
    t, square = first_hit(views)
    assert seen.depth is not None and seen.normal is not None
    hit, missed = square > 0.02, square < -0.01
    assert (seen.opacity[:, 0][hit] > 0.99).all() and (seen.opacity[:, 0][missed] < 0.01).all()
    assert (seen.depth[:, 0][hit] - t[hit]).abs().max() < 3e-3
    o, d = views.rays()
    normal = torch.nn.functional.normalize(o + t[..., None] * d, dim=-1)
    assert (seen.normal.permute(0, 2, 3, 1)[hit] * normal[hit]).sum(-1).min() > 0.998


def test_volsdf_sees_the_same_ball() -> None:
    views = cameras(1)
    hit = first_hit(views)[1] > 0.05
    neus, volsdf = (
        renderer(use_volsdf=way).eval().render(views, frozenset({"depth"})) for way in (False, True)
    )
    assert neus.depth is not None and volsdf.depth is not None
    assert (neus.depth - volsdf.depth)[:, 0][hit].abs().max() < 0.01
    assert (volsdf.opacity[:, 0][hit] > 0.99).all()


def test_the_occupancy_grid_is_a_shell_and_changes_no_picture() -> None:
    one, views = renderer(grid_resolution=32).eval(), cameras()
    before = one.render(views)
    for look in range(6):
        one.update(16 * look, seeded(look))
    after = one.render(views)
    assert one.marcher.occupancy.fraction < 0.35
    assert torch.allclose(before.rgb, after.rgb, atol=2e-3)
    assert not one.grid_binary[16, 16, 16] and not one.grid_binary[0, 0, 0]


def test_hidden_samples_are_left_out_without_changing_picture_or_gradient() -> None:
    counts, grads = [], []
    for prune in (True, False):
        ball = BallDistance()
        seen = renderer(ball, prune_alpha_threshold=prune).eval().render(cameras(), frozenset({"samples"}))
        seen.rgb.square().sum().backward()
        assert seen.samples is not None and ball.tint.grad is not None
        counts.append(len(seen.samples.t))
        grads.append(ball.tint.grad)
    assert counts[0] < 0.7 * counts[1]
    assert torch.allclose(grads[0], grads[1], rtol=5e-3)


def test_working_in_chunks_changes_nothing() -> None:
    views, needs = cameras(), frozenset({"depth", "normal", "foreground"})
    with torch.no_grad():
        whole = renderer().eval().render(views, needs)
        parts = renderer(eval_chunk_size=5000).eval().render(views, needs)
    for name in ("rgb", "opacity", "depth", "normal", "foreground"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-5), name


def test_it_gives_what_it_declares() -> None:
    one = renderer()
    shown = one.render(cameras(1, 8), one.outputs)
    assert shown.samples is not None
    for name in one.outputs:
        assert getattr(shown, name, None) is not None or getattr(shown.samples, name) is not None, name
    with pytest.raises(ConfigError, match=r"system\.loss\.lambda_x: needs mesh, .* to be rasterizer$"):
        one.require(frozenset({"mesh", "rgb"}), "system.loss.lambda_x")


def test_single_rays_and_windows_are_cut_from_the_picture() -> None:
    views, one = cameras(2, 16), renderer().eval()
    whole = one.render(views, frozenset({"depth"}))
    part = one.render(views, frozenset({"depth"}), window=Window(3, 5, 6, 7))
    o, d = (rays.reshape(-1, 3) for rays in views.crop_rays(3, 5, 6, 7))
    rays = one.render_rays(o, d, frozenset({"depth", "samples"}))
    assert rays.rgb.shape == (1, 3, 1, len(o)) and whole.depth is not None and rays.samples is not None
    assert torch.allclose(part.rgb, whole.rgb[:, :, 3:9, 5:12], atol=1e-6)
    assert torch.allclose(rays.rgb[0, :, 0].T.view(2, 6, 7, 3).permute(0, 3, 1, 2), part.rgb, atol=1e-6)


def test_orthographic_cameras_see_the_ball_at_its_size() -> None:
    flat = cameras(1, 48)
    views = Cameras(flat.c2w, torch.zeros(1), 48, 48, torch.tensor([1.2]))
    area = renderer().eval().render(views).opacity.mean().item() * 1.2**2
    assert area == pytest.approx(torch.pi * RADIUS**2, rel=0.03)


def test_the_generator_is_the_only_randomness() -> None:
    one, views = renderer(num_samples_per_ray=64), cameras()
    first, again, other = (one.render(views, generator=seeded(s)).rgb for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(one.render(views).rgb, one.eval().render(views, generator=seeded(1)).rgb)


def test_rays_past_the_object_see_the_background_alone() -> None:
    one = renderer(grid_resolution=16).eval()
    one.update(0, seeded())
    o, d = torch.tensor([[5.0, 5, 5]]), torch.tensor([[1.0, 0, 0]])
    seen = one.render_rays(o, d, frozenset({"samples", "normal", "laplacian"}))
    assert torch.equal(seen.rgb, torch.ones(1, 3, 1, 1)) and seen.samples is not None
    assert len(seen.samples.t) == 0


@pytest.mark.parametrize("normals", ["analytic", "finite_difference"])
def test_gradients_reach_every_parameter(normals: str) -> None:
    torch.manual_seed(0)
    options = {
        "radius": 0.6,
        "normal_type": normals,
        "pos_encoding_config": {"n_levels": 3, "log2_hashmap_size": 10, "base_resolution": 4},
    }
    geometry = ImplicitSDF(parse(ImplicitSDF.Config, options))
    one = renderer(geometry, learned_variance_init=0.3, num_samples_per_ray=64)
    seen = one.render(cameras(), frozenset({"samples", "normal", "laplacian"}), seeded())
    assert seen.samples is not None and seen.normal is not None
    assert seen.samples.gradient is not None and seen.samples.laplacian is not None
    slope = (seen.samples.gradient.square().sum(-1) - 1).square().mean()
    (seen.rgb.square().sum() + seen.normal.square().sum() + slope).backward()
    for name, parameter in [*geometry.named_parameters(), ("variance", one.variance)]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_variance_that_is_not_trained_and_annealing() -> None:
    one = renderer(trainable_variance=False, cos_anneal_end_steps=100)
    assert not one.variance.requires_grad and one.anneal == 0
    one.update(50, seeded())
    assert one.anneal == 0.5 and one.sharpness.item() == pytest.approx(2.718281828 ** (10 * SHARP), rel=1e-4)


def test_a_density_is_refused() -> None:
    config = parse(NeusVolumeRenderer.Config, {})
    with pytest.raises(UserError, match="needs a signed distance"):
        NeusVolumeRenderer(config, geometry=Ball(1.0), material=material(), background=background())
