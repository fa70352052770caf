"""Sampling along rays where they matter: a known density, its picture with few samples, and proposals that learn."""

import math

import pytest
import torch
from scenes import RADIUS, Ball, background, material

from usd.core.config import ConfigError, parse
from usd.math.camera import Cameras, Window, orbit_cameras_deg
from usd.math.volume import alpha_from_density, transmittance
from usd.renderer import enlarge
from usd.renderer.importance import coarse_edges, fine_places
from usd.renderer.nerf_volume import NerfVolumeRenderer
from usd.renderer.neus_volume import NeusVolumeRenderer

SMALL = {"encoding_config": {"n_levels": 2, "log2_hashmap_size": 10, "base_resolution": 8}}
MARCH = {"radius": 0.6, "num_samples_per_ray": 24}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def renderer(ball: Ball, **options: object) -> NerfVolumeRenderer:
    config = parse(NerfVolumeRenderer.Config, {**MARCH, **options}, "system.renderer")
    return NerfVolumeRenderer(config, geometry=ball, material=material(), background=background())


def cameras(size: int = 10) -> Cameras:
    return orbit_cameras_deg([10.0, -30.0], [20.0, 140.0], 1.5, 40.0, size)


def chords(views: Cameras) -> torch.Tensor:
    """How long each ray runs inside the ball."""
    o, d = views.rays()
    square = RADIUS**2 - (o.square().sum(-1) - (o * d).sum(-1).square())
    return 2 * square.clamp_min(0).sqrt()


def test_places_follow_a_known_density() -> None:
    """Of exponential absorption exp(-s t) the weights' quantiles are -log(1 - u (1 - exp(-s L))) / s."""
    sigma, length, n = 3.0, 2.0, 2000
    edges = torch.linspace(0, length, n + 1)[None]
    alpha = alpha_from_density(torch.full((1, n), sigma), torch.full((1, n), length / n))
    weights = alpha * transmittance(alpha)
    places = fine_places(edges, weights, 64, None)
    u = (torch.arange(64) + 0.5) / 64
    expected = -torch.log1p(-u * (1 - math.exp(-sigma * length))) / sigma
    assert (places[0] - expected).abs().max() < 0.02
    drawn = fine_places(edges.expand(50, -1), weights.expand(50, -1), 64, seeded())
    assert (drawn.diff(dim=-1) >= 0).all() and (drawn.mean(0) - expected)[:-1].abs().max() < 0.05


def test_coarse_edges_span_the_cube_and_ascend() -> None:
    options = parse(NerfVolumeRenderer.Config, MARCH)
    o, d = torch.tensor([[-2.0, 0, 0], [-2.0, 5, 0]]), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    edges = coarse_edges(o, d, options, 8, seeded())
    torch.testing.assert_close(edges[0, [0, -1]], torch.tensor([1.4, 2.6]))
    assert (edges[0].diff() > 0).all() and (edges[1] == edges[1, 0]).all(), "a ray that misses has no length"


@pytest.mark.parametrize("density", [3.0, 40.0])
def test_few_samples_show_a_ball_as_exactly_as_many_steps_do(density: float) -> None:
    views = cameras()
    one = renderer(Ball(density), estimator="importance", num_samples_per_ray=48).eval()
    rendered = one.render(views, frozenset({"samples"}))
    error = (rendered.opacity[:, 0] - (1 - torch.exp(-density * chords(views)))).abs()
    inside = (chords(views) == 0) | (chords(views) > 0.2)
    assert error[inside].max() < 0.05 and set(one.state_dict()) == set()
    assert rendered.samples is not None and len(rendered.samples.t) <= 200 * (48 + 64)


def test_weights_and_the_light_that_is_left_sum_to_one() -> None:
    one = renderer(Ball(2.0), estimator="importance").train()
    rendered = one.render(cameras(), frozenset({"samples"}), seeded())
    samples = rendered.samples
    assert samples is not None
    total = torch.zeros(200).index_add(0, samples.ray_index, samples.weight)
    torch.testing.assert_close(total, rendered.opacity.flatten(), atol=1e-5, rtol=1e-4)
    rendered.rgb.sum().backward()
    assert one.scene.geometry.sigma.grad.abs() > 0


def test_a_proposal_learns_where_the_ball_is() -> None:
    """Twelve samples a ray, spread evenly, find the front of a dense ball badly; where the proposal says, well."""
    options = {"estimator": "proposal", "num_samples_per_ray_proposal": 24, "num_samples_per_ray": 12}
    one = renderer(Ball(60.0), **options, proposal_network_config=SMALL)
    views, field = cameras(), one.proposal_field
    o, d = views.rays()
    front = -(o * d).sum(-1) - chords(views) / 2 + 1 / 60

    def depth_error() -> torch.Tensor:
        with torch.no_grad():
            depth = one.eval().render(views, frozenset({"depth"})).depth
        assert depth is not None
        return (depth[:, 0] - front).abs()[chords(views) > 0.3].mean()

    before = depth_error()
    for step in range(80):
        one.train().update(step, seeded(step))
        rendered = one.render(views, frozenset(), seeded(step))
    assert depth_error() < before / 2
    rendered.rgb.sum().backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in field.parameters())
    inner = field(0.9 * RADIUS * torch.nn.functional.normalize(views.position, dim=-1))
    assert (inner > 3 * field(torch.full((1, 3), 0.55))).all(), (
        "dense at the front, thin in a corner of the cube"
    )


def test_a_resumed_proposal_goes_on_exactly() -> None:
    options = {"estimator": "proposal", "num_samples_per_ray_proposal": 8, "num_samples_per_ray": 8}
    ball = Ball(5.0)
    one, other = (renderer(ball, **options, proposal_network_config=SMALL).train() for _ in range(2))
    one.render(cameras(4), frozenset(), seeded(1))
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.render(cameras(4), frozenset(), seeded(2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert one.state_dict()["proposal_field.steps"] == 2


@pytest.mark.parametrize("kind", ["ProgressiveBandHashGrid", "ProgressiveBandFrequency"])
def test_a_progressive_proposal_switches_its_levels_on(kind: str) -> None:
    bands = {"otype": kind, "start_level": 1, "update_steps": 10, "n_masking_step": 20, "n_frequencies": 4}
    network = {"encoding_config": {**SMALL["encoding_config"], **bands}}
    one = renderer(Ball(5.0), estimator="proposal", proposal_network_config=network)
    counts = []
    for step in (0, 20):
        one.update(step, seeded())
        counts.append(int((one.proposal_field.encoding(torch.full((1, 3), 0.37)) != 0).sum()))
    assert counts[0] < counts[1]


def test_rays_that_meet_nothing_teach_a_proposal_nothing() -> None:
    one = renderer(Ball(5.0), estimator="proposal", far_plane=0.5, proposal_network_config=SMALL).train()
    before = {name: value.clone() for name, value in one.state_dict().items() if "steps" not in name}
    rendered = one.render(cameras(4), frozenset({"samples"}), seeded())
    assert rendered.samples is not None and len(rendered.samples.t) == 0 and (rendered.rgb == 1).all()
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in before.items())
    assert one.state_dict()["proposal_field.steps"] == 1, "processes whose rays meet something step, too"


def test_a_surface_is_sampled_by_importance_too() -> None:
    from usd.geometry.implicit_sdf import ImplicitSDF

    torch.manual_seed(0)
    encoding = {"n_levels": 2, "log2_hashmap_size": 8}
    shape = {"shape_init": "sphere", "shape_init_params": 0.4, "pos_encoding_config": encoding, "radius": 0.6}
    options = {**MARCH, "estimator": "importance", "learned_variance_init": 0.45}
    config = parse(NeusVolumeRenderer.Config, options, "system.renderer")
    scene = {"material": material(), "background": background()}
    one = NeusVolumeRenderer(config, geometry=ImplicitSDF(parse(ImplicitSDF.Config, shape)), **scene)
    rendered = one.train().render(cameras(), frozenset({"samples", "normal_perturb"}), seeded())
    middle = rendered.opacity[:, 0, 4:6, 4:6]
    assert (middle > 0.95).all() and rendered.opacity[:, 0, 0, 0].max() < 0.05
    samples = rendered.samples
    assert samples is not None and samples.normal is not None and samples.normal_perturb is not None
    near = (samples.normal - samples.normal_perturb).norm(dim=-1)
    assert 0 < near.mean() < 0.3


def test_pictures_of_a_subgrid_are_enlarged_between_its_pixels() -> None:
    """A picture that is linear in its pixels' places stays so."""
    views, at = cameras(16), Window(1, 2, 4, 3, 4, 5)
    thin = renderer(Ball(0.0)).eval().render(views, frozenset({"depth"}), None, at)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    plane = (x + 10 * y).expand(2, 1, 16, 16)
    grid = plane[:, :, 1::4, 2:13:5]
    full = enlarge(type(thin)(rgb=grid, opacity=grid), 16, 16, at)
    torch.testing.assert_close(full.rgb[:, :, 1:14, 2:13], plane[:, :, 1:14, 2:13], atol=1e-3, rtol=1e-4)
    assert enlarge(thin, 16, 16, at).rgb.shape == (2, 3, 16, 16)


def test_another_estimator_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"system\.renderer\.estimator: .*occgrid, importance, proposal"):
        renderer(Ball(1.0), estimator="octree")
