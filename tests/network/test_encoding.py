"""Encodings and small networks."""

import math

import torch

from usd.core.config import parse
from usd.network.activation import activation
from usd.network.encoding import HashGrid, HashGridConfig, spherical_harmonics
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
    grid = HashGrid(parse(HashGridConfig, options))
    x = torch.rand(6, 3)
    assert grid(x).shape == (6, grid.n_output) and grid.n_output == 7
    assert torch.equal(grid(x)[:, :3], 2 * x - 1)


def test_truncated_exp_has_a_bounded_slope() -> None:
    x = torch.tensor([1.0, 40.0], requires_grad=True)
    y = activation("trunc_exp")(x)
    y.sum().backward()
    assert torch.allclose(y.detach(), x.detach().exp())
    assert x.grad is not None and torch.allclose(x.grad, torch.tensor([1.0, 15.0]).exp())
