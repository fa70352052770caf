"""Gaussian splats as a geometry: starts, colors, how their number changes, surfaces, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from usd.core.config import spec
from usd.core.errors import ConfigError, UserError
from usd.core.registry import build
from usd.geometry.custom_mesh import CustomMesh
from usd.geometry.gaussian_splatting import GaussianSplatting
from usd.geometry.splat_density import DensityConfig, DensityControl, SplatRows, _overlap
from usd.kernels.splat import composite, project, splat_view
from usd.material import Material
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.splats import write_splats
from usd.system.conversion import ConversionSource, paint_splats


def cloud(count: int = 50, **options: object) -> GaussianSplatting:
    chosen = spec("geometry", "gaussian-splatting", {"n_splats": count, **options})
    made = build(chosen, GaussianSplatting)
    made.initialize()
    return made


def adam(geometry: GaussianSplatting) -> torch.optim.Adam:
    """An optimizer that has taken a step, every row with a state of its own."""
    optimizer = torch.optim.Adam(geometry.parameters(), lr=1e-3)
    for parameter in geometry.parameters():
        rows = torch.arange(1.0, len(parameter) + 1).view(-1, *(1,) * (parameter.dim() - 1))
        parameter.grad = rows.expand_as(parameter).clone()
    optimizer.step()
    return optimizer


def rows_of(geometry: GaussianSplatting, optimizer: torch.optim.Adam) -> SplatRows:
    records = {"slope": geometry.slope, "count": geometry.count}
    return SplatRows(geometry._parameters_by_name(), optimizer, records)


def state(optimizer: torch.optim.Adam, parameter: Tensor) -> Tensor:
    return optimizer.state[parameter]["exp_avg"]


@pytest.mark.parametrize(("kind", "mean"), [("sphere", 0.5), ("blob", 0.45)])
def test_they_start_as_a_shape_as_large_as_their_neighbors_are_far(kind: str, mean: float) -> None:
    splats = cloud(500, shape_init=kind).splats()
    assert float(splats.means.norm(dim=1).mean()) == pytest.approx(mean, rel=0.1)
    assert float(splats.opacities.mean()) == pytest.approx(0.1)
    assert 0.01 < float(splats.scales.median()) < 0.15 and torch.equal(
        splats.scales[:, 0], splats.scales[:, 2]
    )


def test_they_start_from_points_and_splats_of_files(tmp_path: Path) -> None:
    file = tmp_path / "points.ply"
    file.write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n0 0 0.5 255 0 0\n0.25 0 0 0 255 51\n"
    )
    made = cloud(shape_init=f"points:{file}")
    assert made.splats().means.tolist() == [[0, 0, 0.5], [0.25, 0, 0]]
    shown = made.harmonics()[:, 0] / math.sqrt(4 * math.pi) + 0.5
    assert torch.allclose(shown, torch.tensor([[1.0, 0, 0], [0, 1, 0.2]]), atol=1e-6)
    splats = cloud(7).splats()
    file.write_bytes(write_splats(splats.colored(cloud(7).harmonics()), "ply"))
    again = cloud(shape_init=f"points:{file}").splats()
    for a, b in zip(vars(splats).values(), vars(again).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_none_is_thinner_than_the_least_scale_and_all_others_are_as_they_were_given() -> None:
    given = replace(cloud(3).splats(), scales=torch.tensor([[1e-4, 0.01, 0.02], [0.3, 0.4, 0.5], [1e-9] * 3]))
    made = cloud(least_scale=0.01)
    made.take(given.colored(cloud(3).harmonics()))
    scales = made.splats().scales
    assert torch.allclose(scales, given.scales.clamp_min(0.01), rtol=1e-4)
    (slope,) = torch.autograd.grad(scales.sum(), made.scales)
    # d sqrt(e^2s + l^2) / ds is the whole scale where it is large, and nothing where it is the least one.
    assert torch.allclose(slope[1], given.scales[1], rtol=2e-3) and slope[2].max() < 1e-5
    again = cloud(3)
    again.take(made.splats().colored(made.harmonics()))
    assert torch.allclose(again.splats().scales, scales, rtol=1e-5), (
        "files and other stages get what is shown"
    )


def test_a_checkpoint_may_hold_any_number_of_them() -> None:
    large, small = cloud(30, sh_degree=2), cloud(5, sh_degree=2)
    known = list(small.parameters())
    small.load_state_dict(large.state_dict())
    assert torch.equal(small.means, large.means) and len(small.slope) == 30
    assert all(a is b for a, b in zip(known, small.parameters(), strict=True))  # those of the optimizer


def test_taking_rows_keeps_what_the_optimizer_knows_of_them() -> None:
    made = cloud(4)
    optimizer = adam(made)
    before = state(optimizer, made.means).clone()
    rows = rows_of(made, optimizer)
    rows.take(torch.tensor([3, 0, 0]), torch.tensor([False, False, True]))
    assert torch.equal(state(optimizer, made.means)[:2], before[[3, 0]])
    assert not state(optimizer, made.means)[2].any() and len(made.means) == 3
    made.means.grad = torch.ones_like(made.means)
    optimizer.step()  # it goes on


def test_what_is_pulled_far_is_cloned_where_small_and_split_where_large() -> None:
    made = cloud(3)
    optimizer = adam(made)
    with torch.no_grad():
        made.scales.copy_(torch.tensor([[0.001], [0.1], [0.1]]).log().expand(3, 3))
        made.opacities.zero_()
    rows = rows_of(made, optimizer)
    rows.records["slope"], rows.records["count"] = torch.tensor([1.0, 1.0, 0.0]), torch.ones(3)
    where = made.means.detach().clone()
    DensityControl(DensityConfig(start=0), 1.0)(rows, 100, torch.Generator().manual_seed(0))
    assert len(made.means) == 5  # the clone, both halves of the large one, and two as they were
    scales = made.scales.exp()[:, 0].sort().values.tolist()
    assert scales == pytest.approx([0.001, 0.001, 0.0625, 0.0625, 0.1])
    assert sum(bool((made.means == one).all(1).any()) for one in where) == 2
    assert not rows.records["slope"].any()


def test_the_most_pulled_win_where_there_is_room_for_few() -> None:
    made = cloud(4)
    optimizer = adam(made)
    with torch.no_grad():
        made.scales.fill_(math.log(1e-3))
    rows = rows_of(made, optimizer)
    rows.records["slope"], rows.records["count"] = torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.ones(4)
    DensityControl(DensityConfig(start=0, most=6), 1.0)(rows, 100, torch.Generator())
    assert torch.equal(made.means[4:], made.means[[1, 3]])


def test_faint_ones_are_dropped_and_opacities_are_reset() -> None:
    made = cloud(3)
    optimizer = adam(made)
    with torch.no_grad():
        made.opacities.copy_(torch.logit(torch.tensor([0.001, 0.5, 0.9])))
        made.scales.fill_(math.log(0.1))
    rows = rows_of(made, optimizer)
    control = DensityControl(DensityConfig(start=0, every=100, reset_every=200), 1.0)
    control(rows, 100, torch.Generator())
    assert torch.allclose(made.opacities.sigmoid(), torch.tensor([0.5, 0.9]))
    control(rows, 200, torch.Generator())
    assert float(made.opacities.sigmoid().max()) == pytest.approx(0.01)
    assert not state(optimizer, made.opacities).any()


def test_moved_ones_look_together_as_one_did() -> None:
    """Two in one place: the middle of the picture keeps its opacity, and the rest nearly (arXiv 2404.09591)."""
    made = cloud(2, shape_init="sphere")
    optimizer = adam(made)
    with torch.no_grad():
        made.means.zero_()
        made.scales.fill_(math.log(0.1))
        made.rotations.copy_(torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4))
        made.opacities.copy_(torch.logit(torch.tensor([0.6, 0.001])))
    view = splat_view(orbit_cameras_deg(0.0, 0.0, 2.0, 45.0, 33))

    def opacity() -> Tensor:
        with torch.no_grad():
            return composite(project(made.splats(), view), torch.zeros(1, len(made), 3)).opacity[0]

    before = opacity()
    config = DensityConfig(strategy="mcmc", start=0, noise=0.0, growth=0.0)
    DensityControl(config, 1.0)(rows_of(made, optimizer), 100, torch.Generator().manual_seed(0))
    assert torch.allclose(made.opacities.sigmoid(), torch.tensor(1 - math.sqrt(0.4)), atol=1e-5)
    assert torch.allclose(opacity(), before, atol=0.03) and float(before.max()) > 0.55


def test_the_overlap_of_one_is_its_opacity() -> None:
    o = torch.tensor([0.3, 0.3])
    assert _overlap(o, torch.tensor([1, 2])).tolist() == pytest.approx([0.3, 0.6 - 0.09 / math.sqrt(2)])


def test_jitter_moves_faint_ones_only() -> None:
    made = cloud(2)
    optimizer = adam(made)
    with torch.no_grad():
        made.scales.fill_(math.log(0.1))
        made.opacities.copy_(torch.logit(torch.tensor([0.0002, 0.9])))
    where = made.means.detach().clone()
    control = DensityControl(DensityConfig(strategy="mcmc", noise=100.0), 1.0)
    control(rows_of(made, optimizer), 7, torch.Generator().manual_seed(0))
    moved = (made.means - where).norm(dim=1)
    assert float(moved[0]) > 1e-5 and float(moved[1]) < 1e-20


@pytest.fixture(scope="module")
def ball() -> GaussianSplatting:
    """An opaque red ball of radius 0.3."""
    made = cloud(3000, shape_init="sphere", shape_init_params=0.3, initial_opacity=0.95, radius=0.5)
    made.paint(torch.tensor([[0.8, 0.1, 0.1]]).expand(3000, 3))
    return made


def test_a_mesh_of_them_is_the_surface_they_show(ball: GaussianSplatting) -> None:
    config = replace(ball.config, fusion=replace(ball.config.fusion, resolution=48, views=16, size=96))
    ball.config = config
    mesh = ball.export_mesh()
    assert float((mesh.vertices.norm(dim=1) - 0.3).abs().mean()) < 2 / 47  # two cells
    colors = ball.query(mesh.vertices, frozenset({"features"})).features
    assert colors is not None
    assert torch.allclose(colors.sigmoid(), torch.tensor([0.8, 0.1, 0.1]).expand(len(colors), 3), atol=1e-3)


def test_what_shows_nothing_has_no_surface(ball: GaussianSplatting) -> None:
    faint = cloud(5, initial_opacity=0.01)
    faint.config = replace(faint.config, fusion=replace(faint.config.fusion, resolution=8, views=4, size=16))
    with pytest.raises(UserError, match="no picture of the Gaussians is even half opaque"):
        faint.export_mesh()
    with pytest.raises(UserError, match="expected null"):
        ball.export_mesh(threshold=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape_init": "cube"}, "'cube' is no shape"),
        ({"shape_init": "sphere", "shape_init_params": [1.0, 2.0, 3.0]}, "a sphere has one radius"),
        ({"shape_init": "points:/nowhere.ply"}, "/nowhere.ply: cannot be read"),
    ],
)
def test_a_start_that_is_none_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises((UserError, ConfigError), match=message):
        cloud(5, **options)


def test_none_left_is_one_line() -> None:
    made = cloud(3)
    optimizer = adam(made)
    with torch.no_grad():
        made.opacities.fill_(-20.0)
    with pytest.raises(UserError, match="no Gaussian is left"):
        made.after_step(500, optimizer, torch.Generator())


def test_they_start_on_the_surface_of_an_earlier_training_in_its_colors(tmp_path: Path) -> None:
    file = tmp_path / "square.ply"
    file.write_text(
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
        "-0.5 -0.5 0.1\n0.5 -0.5 0.1\n0.5 0.5 0.1\n-0.5 0.5 0.1\n3 0 1 2\n3 0 2 3\n"
    )
    mesh = build(spec("geometry", "custom-mesh", {"shape_init": f"mesh:{file}"}), CustomMesh)
    material = build(spec("material", "no-material", {}), Material)
    made = GaussianSplatting.convert(cloud(200).config, mesh)
    assert torch.allclose(made.means[:, 2], torch.tensor(0.1)) and len(made) == 200
    paint_splats(made, ConversionSource(mesh, material, spec("material", "no-material", {})), True)
    features = mesh.query(made.means, frozenset({"features"})).features
    assert features is not None
    shown = made.harmonics()[:, 0] / math.sqrt(4 * math.pi) + 0.5
    assert torch.allclose(shown, features.sigmoid(), atol=1e-5)
    again = GaussianSplatting.convert(cloud(3).config, made)
    assert torch.equal(again.means, made.means) and torch.equal(again.constant, made.constant)
