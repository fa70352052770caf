import math

import pytest
import torch

from usd.math.safe import normalize, safe_div, safe_exp, safe_norm, safe_sqrt, trunc_exp


def gradient(function, *values: float) -> list[float]:
    x = torch.tensor(values, requires_grad=True)
    (g,) = torch.autograd.grad(function(x).sum(), x)
    return g.tolist()


def test_equal_to_the_textbook_where_it_is_finite():
    x = torch.linspace(0.1, 5, 50)
    torch.testing.assert_close(safe_exp(x), x.exp())
    torch.testing.assert_close(trunc_exp(x), x.exp())
    torch.testing.assert_close(safe_sqrt(x), x.sqrt())
    torch.testing.assert_close(safe_div(x, x + 1), x / (x + 1))
    v = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(safe_norm(v), v.norm(dim=-1))
    torch.testing.assert_close(normalize(v).norm(dim=-1), torch.ones(20))


def test_finite_where_the_textbook_is_not():
    assert safe_exp(torch.tensor(1e4)).isfinite()
    assert gradient(safe_sqrt, 0.0, -1.0) == [0.0, 0.0]
    assert gradient(lambda x: safe_norm(x[None]), 0.0, 0.0, 0.0) == [0.0, 0.0, 0.0]
    assert all(math.isfinite(g) for g in gradient(lambda x: normalize(x[None]), 0.0, 0.0, 0.0))
    assert safe_div(torch.tensor(3.0), torch.tensor(0.0)) == 0
    assert gradient(lambda x: safe_div(x[:1], x[1:]), 3.0, 0.0) == [0.0, 0.0]


@pytest.mark.parametrize(("x", "slope"), [(3.0, math.exp(3)), (20.0, math.exp(15)), (-30.0, math.exp(-15))])
def test_trunc_exp_bounds_its_gradient_not_its_value(x, slope):
    assert trunc_exp(torch.tensor(x)).item() == pytest.approx(math.exp(x), rel=1e-5)
    assert gradient(trunc_exp, x)[0] == pytest.approx(slope, rel=1e-5)
