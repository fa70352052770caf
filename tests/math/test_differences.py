"""Finite differences are exact where theory says so."""

import torch

from usd.math import differences

EPS = torch.tensor(0.1, dtype=torch.float64)


def points() -> torch.Tensor:
    return torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_quadratics_are_differentiated_exactly() -> None:
    form = torch.tensor([[1.0, 0.3, -0.2], [0.3, -2.0, 0.5], [-0.2, 0.5, 0.7]], dtype=torch.float64)
    slope, x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), points()

    def field(at: torch.Tensor) -> torch.Tensor:
        return (at @ form * at).sum(-1)

    values = differences.corner_values(lambda at: at @ slope, x, EPS)
    assert torch.allclose(differences.gradient(values, EPS), slope.expand_as(x))
    values = differences.corner_values(field, x, EPS)
    found = differences.laplacian(values, field(x), EPS)
    assert torch.allclose(found, 2 * form.trace().expand_as(found))


def test_the_gradient_is_of_second_order() -> None:
    x = points()
    errors = []
    for eps in (EPS, EPS / 2):
        values = differences.corner_values(lambda at: at.sin().sum(-1), x, eps)
        errors.append(float((differences.gradient(values, eps) - x.cos()).abs().mean()))
    assert 3.5 < errors[0] / errors[1] < 4.5
