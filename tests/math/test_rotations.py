"""Rotation vectors against the matrix exponential."""

import torch

from usd.math.rotations import rotate


def cross_matrix(w: torch.Tensor) -> torch.Tensor:
    x, y, z = w.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=w.dtype)


def test_it_is_the_exponential_of_the_cross_product() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(32, 3, generator=generator, dtype=torch.float64)
    vectors[:8] *= 1e-4
    points = torch.randn(32, 3, generator=generator, dtype=torch.float64)
    expected = torch.stack([torch.linalg.matrix_exp(cross_matrix(w)) @ x for w, x in zip(vectors, points)])
    assert torch.allclose(rotate(vectors, points), expected, atol=1e-12)


def test_it_has_a_gradient_at_zero() -> None:
    vector = torch.zeros(1, 3, requires_grad=True)
    rotate(vector, torch.tensor([[1.0, 0, 0]]))[0, 1].backward()
    assert vector.grad is not None and torch.allclose(vector.grad, torch.tensor([[0.0, 0, 1]]))
