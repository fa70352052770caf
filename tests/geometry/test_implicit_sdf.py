"""The signed distance: exact at the start, its derivatives agree with each other, its meshes are what it says."""

import math
from pathlib import Path

import pytest
import torch

from tests.geometry.shapes import points, small, torus, torus_file
from usd.core.config import ConfigError
from usd.core.errors import UserError
from usd.geometry.implicit_sdf import ImplicitSDF
from usd.math import mesh

NAME = "implicit-sdf"
ALL = frozenset({"gradient", "laplacian", "features"})
COARSE = {"n_levels": 1, "log2_hashmap_size": 12, "base_resolution": 2}


def sdf(**options: object) -> ImplicitSDF:
    return small(NAME, **{"isosurface_resolution": 40, **options})


def bumpy(**options: object) -> ImplicitSDF:
    """A distance that is no longer true."""
    made = sdf(**options)
    torch.nn.init.normal_(made.encoding.table, std=0.1, generator=torch.Generator().manual_seed(3))
    return made


@pytest.mark.parametrize(
    ("options", "radius"),
    [
        ({}, 0.5),
        ({"radius": 2.0}, 1.0),
        ({"shape_init": "sphere", "shape_init_params": 0.3}, 0.3),
        ({"sdf_bias": "sphere", "sdf_bias_params": 0.4}, 0.4),
        ({"sdf_bias": 0.1}, 0.4),
        ({"shape_init": "ellipsoid", "shape_init_params": [0.6, 0.6, 0.6]}, 0.6),
    ],
)
def test_it_starts_as_the_distance_to_a_sphere(options: dict, radius: float) -> None:
    x = points()
    assert torch.allclose(sdf(**options).distance(x), x.norm(dim=-1) - radius, atol=2e-4)


def test_the_start_is_eikonal_and_has_the_curvature_of_a_sphere() -> None:
    made, x = sdf(normal_type="analytic"), torch.nn.functional.normalize(points(), dim=-1) * 0.5
    field = made.distance_field(x, ALL)
    assert field.gradient is not None and field.laplacian is not None
    assert torch.allclose(field.gradient, x / 0.5, atol=5e-3)
    assert torch.allclose(field.laplacian, torch.tensor(2 / 0.5), atol=0.5)


def test_an_ellipsoid_is_zero_on_its_surface_and_eikonal_there() -> None:
    axes = torch.tensor([0.3, 0.5, 0.8])
    made = sdf(shape_init="ellipsoid", shape_init_params=axes.tolist(), normal_type="analytic")
    x = torch.nn.functional.normalize(points(), dim=-1) * axes
    field = made.distance_field(x, frozenset({"gradient"}))
    assert float(field.distance.detach().abs().max()) < 1e-3 and field.gradient is not None
    assert torch.allclose(field.gradient.norm(dim=-1), torch.ones(64), atol=2e-2)


def test_analytic_gradients_agree_with_finite_differences() -> None:
    """Trilinear cells have kinks at their faces: points near one of the two cells' faces are left out."""
    exact = bumpy(normal_type="analytic", pos_encoding_config=COARSE)
    close = bumpy(finite_difference_normal_eps=1e-3, pos_encoding_config=COARSE)
    close.load_state_dict({**exact.state_dict(), "eps": close.eps})
    x = points(256)
    x = x[(x.abs().amin(-1) > 0.01) & (((x + 1) * 32).frac() - 0.5).abs().amax(-1).lt(0.45)]
    a, b = (made.distance_field(x, frozenset({"gradient"})).gradient for made in (exact, close))
    assert a is not None and b is not None and len(x) > 50
    assert torch.allclose(a, b, atol=5e-3)
    assert float((a - x / x.norm(dim=-1, keepdim=True)).detach().norm(dim=-1).mean()) > 0.01


@pytest.mark.parametrize("kind", ["analytic", "finite_difference", "finite_difference_laplacian"])
def test_an_eikonal_loss_trains_every_weight_of_the_distance(kind: str) -> None:
    made = bumpy(normal_type=kind)
    field = made.distance_field(points(), frozenset({"gradient"}))
    assert field.gradient is not None and field.laplacian is None and field.features is None
    (field.gradient.norm(dim=-1) - 1).square().mean().backward()
    for name in ("encoding.table", "sdf_network.0.weight", "sdf_network.2.weight"):
        gradient = made.get_parameter(name).grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_second_derivatives_of_the_eikonal_loss_are_right() -> None:
    """The loss falls by the square of the gradient's norm when weights move a little against it."""
    made = bumpy(normal_type="analytic")
    weights = [p for n, p in made.named_parameters() if not n.startswith("feature")]

    def loss() -> torch.Tensor:
        gradient = made.distance_field(points(), frozenset({"gradient"})).gradient
        assert gradient is not None
        return (gradient.norm(dim=-1) - 1).square().mean()

    before = loss()
    slopes = torch.autograd.grad(before, weights)
    step = 1e-4 / math.sqrt(sum(float(s.square().sum()) for s in slopes))
    with torch.no_grad():
        for weight, slope in zip(weights, slopes):
            weight -= step * slope
    expected = step * sum(float(s.square().sum()) for s in slopes)
    assert float((before - loss()).detach()) == pytest.approx(expected, rel=0.1)


def test_without_gradients_nothing_is_kept() -> None:
    made = bumpy(normal_type="analytic")
    with torch.no_grad():
        field, plain = made.distance_field(points(), ALL), made.query(points(), frozenset({"normal"}))
    assert field.gradient is not None and not field.gradient.requires_grad
    assert plain.normal is not None and torch.allclose(plain.normal.norm(dim=-1), torch.ones(64), atol=1e-4)


def test_the_progressive_step_is_the_finest_level_s_cell() -> None:
    levels = {"otype": "ProgressiveBandHashGrid", "n_levels": 4, "base_resolution": 4, "per_level_scale": 2.0}
    levels |= {"log2_hashmap_size": 10, "start_level": 1, "start_step": 10, "update_steps": 5}
    made = sdf(finite_difference_normal_eps="progressive", pos_encoding_config=levels)
    generator, steps = torch.Generator(), []
    for step in (0, 14, 15, 20, 99):
        made.update(step, generator)
        steps.append(float(made.eps))
    assert steps == pytest.approx([2 / 4, 2 / 4, 2 / 8, 2 / 16, 2 / 32])
    again = sdf(finite_difference_normal_eps="progressive", pos_encoding_config=levels)
    again.load_state_dict(made.state_dict())
    assert float(again.eps) == float(made.eps)


def test_a_progressive_step_needs_a_progressive_grid() -> None:
    with pytest.raises(
        ConfigError, match=r"finite_difference_normal_eps: progressive .*ProgressiveBandHashGrid"
    ):
        sdf(finite_difference_normal_eps="progressive")


def test_gradients_without_a_normal_type_are_refused() -> None:
    with pytest.raises(UserError, match="normal_type: is null"):
        sdf(normal_type=None).distance_field(points(), frozenset({"gradient"}))


@pytest.mark.parametrize(
    "options", [{}, {"isosurface_coarse_to_fine": False}, {"isosurface_deformable_grid": True}]
)
def test_its_rasterized_surface_is_closed_and_trains_the_distance(options: dict) -> None:
    made = bumpy(**options, n_feature_dims=0)
    surface = made.surface()
    assert mesh.is_closed(surface.faces)
    if not options.get("isosurface_deformable_grid"):
        assert float(made.distance(surface.vertices.detach()).abs().max()) < 0.05
    surface.vertices.square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_surface_is_found_finely_where_the_object_is_small() -> None:
    ball = sdf(shape_init="sphere", shape_init_params=0.15)
    whole = sdf(shape_init="sphere", shape_init_params=0.15, isosurface_coarse_to_fine=False)
    assert len(ball.surface().vertices) > 4 * len(whole.surface().vertices)


def test_its_exported_mesh_is_at_the_threshold() -> None:
    made = sdf(isosurface_resolution=64, isosurface_threshold=0.1)
    out = made.export_mesh()
    assert mesh.is_closed(out.faces) and float(mesh.volume(out.vertices, out.faces)) > 0
    assert torch.allclose(out.vertices.norm(dim=-1), torch.tensor(0.6), atol=5e-3)
    assert float(made.export_mesh(48, -0.1).vertices.norm(dim=-1).max()) < 0.42


def test_an_empty_distance_says_so() -> None:
    made = sdf(sdf_bias=2.0)
    for make in (made.surface, made.export_mesh):
        with pytest.raises(UserError, match="empty surface: distances are between"):
            make()
    torch.nn.init.constant_(made.encoding.table, float("nan"))
    with pytest.raises(UserError, match="diverged"):
        made.export_mesh()


def test_it_starts_as_a_file(tmp_path: Path) -> None:
    made = sdf(shape_init=f"mesh:{torus_file(tmp_path)}", isosurface_resolution=56)
    start, x = made.initialize(), points()
    assert start is not None and start.color is not None
    assert torch.allclose(made.distance(x), torus(x), atol=0.02)
    assert mesh.euler_number(made.surface().faces) == 0


def test_it_takes_over_another_geometry() -> None:
    source = small("tetrahedra-sdf-grid", isosurface_resolution=40, shape_init_params=0.6)
    made, x = ImplicitSDF.convert(sdf().config, source), points()
    assert torch.allclose(made.distance(x), x.norm(dim=-1) - 0.6, atol=0.02)
    assert torch.equal(made.features(x), source.features(x))
