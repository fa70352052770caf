"""Encodings and small networks."""

import math

import pytest
import torch

from usd.core.config import parse
from usd.core.errors import ConfigError
from usd.math.encodings import frequency, one_blob, triangle_wave
from usd.network.activation import activation
from usd.network.encoding import (
    DirectionEncoding,
    DirectionEncodingConfig,
    EncodingConfig,
    HashGrid,
    build_encoding,
    spherical_harmonics,
)
from usd.network.mlp import MLPConfig, mlp, sphere_mlp


def test_spherical_harmonics_are_orthonormal() -> None:
    x = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0))
    basis = spherical_harmonics(torch.nn.functional.normalize(x, dim=-1), 4)
    gram = 4 * math.pi * basis.T @ basis / len(basis)
    assert torch.allclose(gram, torch.eye(16), atol=2e-2)


def test_degrees_are_nested() -> None:
    x = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    for degree in (1, 2, 3):
        assert torch.equal(spherical_harmonics(x, 4)[:, : degree**2], spherical_harmonics(x, degree))


def test_a_network_has_the_layers_it_was_asked_for() -> None:
    network = mlp(5, 2, MLPConfig(n_neurons=8, n_hidden_layers=2))
    assert [tuple(p.shape) for p in network.parameters()] == [(8, 5), (8, 8), (2, 8)]
    assert torch.equal(network(torch.zeros(3, 5)), torch.zeros(3, 2))
    assert [tuple(p.shape) for p in mlp(5, 2, MLPConfig(n_hidden_layers=0)).parameters()] == [(2, 5)]


def test_geometric_initialization_is_about_the_distance_to_a_sphere() -> None:
    torch.manual_seed(0)
    network = sphere_mlp(7, MLPConfig(n_neurons=256, sphere_init_radius=0.4))
    x = torch.randn(200, 3)
    distance = network(torch.cat([x, torch.randn(200, 4)], 1))[:, 0]
    assert (distance - (x.norm(dim=-1) - 0.4)).abs().mean() < 0.1
    assert torch.equal(distance, network(torch.cat([x, torch.zeros(200, 4)], 1))[:, 0])


def test_normed_weights_are_directions_with_a_length() -> None:
    network = mlp(5, 2, MLPConfig(n_neurons=8, weight_norm=True))
    named = dict(network.named_parameters())
    length, direction = (named[f"0.parametrizations.weight.original{i}"] for i in (0, 1))
    expected = length * torch.nn.functional.normalize(direction, dim=1)
    assert torch.allclose(torch.as_tensor(network[0].weight), expected)


def test_the_position_comes_before_the_features() -> None:
    options = {"n_levels": 2, "log2_hashmap_size": 8, "base_resolution": 4, "include_xyz": True}
    grid = HashGrid(parse(EncodingConfig, options))
    x = torch.rand(6, 3)
    assert grid(x).shape == (6, grid.n_output) and grid.n_output == 7
    assert torch.equal(grid(x)[:, :3], 2 * x - 1)


def test_truncated_exp_has_a_bounded_slope() -> None:
    x = torch.tensor([1.0, 40.0], requires_grad=True)
    y = activation("trunc_exp")(x)
    y.sum().backward()
    assert torch.allclose(y.detach(), x.detach().exp())
    assert x.grad is not None and torch.allclose(x.grad, torch.tensor([1.0, 15.0]).exp())


def encode(x: torch.Tensor, **options) -> torch.Tensor:
    """What a configuration makes of points; its width is the one that it says."""
    made = build_encoding(parse(EncodingConfig, options, "here"), x.shape[1])
    found = made(x)
    assert found.shape == (len(x), made.n_output)
    return found


def test_a_configuration_names_each_encoding_without_weights() -> None:
    x = torch.rand(6, 3)
    assert torch.equal(encode(x, otype="Frequency"), frequency(x, 12))
    assert torch.equal(encode(x, otype="TriangleWave", n_frequencies=5), triangle_wave(x, 5))
    assert torch.equal(encode(x, otype="OneBlob", n_bins=8), one_blob(x, 8))
    assert torch.equal(encode(x, otype="Identity", scale=3.0, offset=-1.0), 3 * x - 1)
    assert torch.equal(encode(x, otype="SphericalHarmonics"), spherical_harmonics(2 * x - 1, 4))
    with_position = encode(x, otype="Frequency", n_frequencies=2, include_xyz=True)
    assert torch.equal(with_position, torch.cat([2 * x - 1, frequency(x, 2)], 1))
    waves = encode(x, otype="ProgressiveBandFrequency", n_frequencies=2, include_xyz=True)
    assert waves.shape == (6, 15) and torch.equal(waves[:, :3], 2 * x - 1)


def test_a_composite_encodes_slices_of_the_dimensions() -> None:
    x = torch.rand(6, 3)
    one, rest = {"otype": "Frequency", "n_dims_to_encode": 1}, {"otype": "Identity", "scale": 2.0}
    nothing = {"otype": "OneBlob", "n_dims_to_encode": 0}
    for nested, expected in (
        ([one, nothing, rest], [frequency(x[:, :1], 12), 2 * x[:, 1:]]),
        ([rest, one], [2 * x[:, :2], frequency(x[:, 2:], 12)]),
        ([one, {**one, "dims_to_encode_begin": 0}], [frequency(x[:, :1], 12)] * 2),
        ([{"otype": "Composite", "nested": [one, rest]}], [frequency(x[:, :1], 12), 2 * x[:, 1:]]),
    ):
        assert torch.equal(encode(x, otype="Composite", nested=nested), torch.cat(expected, 1))


def test_a_composite_sums_or_multiplies_equally_many_numbers() -> None:
    x = torch.rand(6, 3)
    each = [{"otype": "Identity", "n_dims_to_encode": 1}] * 3
    assert torch.allclose(encode(x, otype="Composite", nested=each, reduction="Sum"), x.sum(1, True))
    assert torch.allclose(encode(x, otype="Composite", nested=each, reduction="Product"), x.prod(1, True))


def test_a_composite_trains_its_grids_and_switches_their_levels_on() -> None:
    grid = {"otype": "ProgressiveBandHashGrid", "n_levels": 3, "log2_hashmap_size": 8, "base_resolution": 4}
    options = {"nested": [{**grid, "n_dims_to_encode": 2, "start_level": 1}, {"otype": "Frequency"}]}
    made = build_encoding(parse(EncodingConfig, {"otype": "Composite", **options}, "here"))
    (table,) = made.parameters()
    torch.nn.init.ones_(table)
    x = torch.rand(5, 3)
    assert made(x)[:, 2:6].eq(0).all()
    made.update(5000)
    assert torch.allclose(made(x)[:, :6], torch.ones(5, 6)) and torch.equal(
        made(x)[:, 6:], frequency(x[:, 2:], 12)
    )
    made(x).sum().backward()
    assert table.grad is not None and table.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give no numbers a point; expected some"),
        (
            {"nested": [{"otype": "Identity", "n_dims_to_encode": 4}]},
            "nested.0.n_dims_to_encode: 4 is out of range",
        ),
        (
            {"nested": [{"n_dims_to_encode": 2}, {"n_dims_to_encode": 2}]},
            "of dimensions 0 to 1, 2 to 3; expected 0 to 2",
        ),
        (
            {"nested": [{"otype": "Identity"}, {"otype": "OneBlob"}]},
            "without n_dims_to_encode; expected one at most",
        ),
        (
            {
                "reduction": "Sum",
                "nested": [{"otype": "OneBlob", "n_dims_to_encode": 1}, {"otype": "Identity"}],
            },
            "give 16, 2 numbers a point; expected some, and as many of each for a Sum",
        ),
        (
            {"nested": [{"otype": "SphericalHarmonics", "n_dims_to_encode": 2}]},
            "SphericalHarmonics: encodes 2 dimensions",
        ),
    ],
)
def test_a_composite_that_does_not_fit_is_one_clear_line(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        build_encoding(parse(EncodingConfig, {"otype": "Composite", **options}, "here"))


def test_directions_are_encoded_as_positions_are_where_that_is_named() -> None:
    """instant-ngp's own files have harmonics in a composite, whose rest is empty."""
    x = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    nested = [{"otype": "SphericalHarmonics", "degree": 4, "n_dims_to_encode": 3}, {"otype": "Identity"}]
    made = DirectionEncoding(parse(DirectionEncodingConfig, {"otype": "Composite", "nested": nested}, "here"))
    assert torch.allclose(made(x), spherical_harmonics(x, 4), atol=1e-6) and made.n_output == 16
    waves = DirectionEncoding(
        parse(DirectionEncodingConfig, {"otype": "Frequency", "n_frequencies": 4}, "here")
    )
    assert torch.equal(waves(x), frequency(0.5 * x + 0.5, 4))
