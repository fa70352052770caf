import math

import pytest
import torch

from usd.math.safe import trunc_exp


def gradient(function, *values: float) -> list[float]:
    x = torch.tensor(values, requires_grad=True)
    (g,) = torch.autograd.grad(function(x).sum(), x)
    return g.tolist()


def test_equal_to_the_textbook_where_it_is_finite():
    x = torch.linspace(0.1, 5, 50)
    torch.testing.assert_close(trunc_exp(x), x.exp())


@pytest.mark.parametrize(("x", "slope"), [(3.0, math.exp(3)), (20.0, math.exp(15)), (-30.0, math.exp(-30))])
def test_trunc_exp_bounds_its_gradient_not_its_value(x, slope):
    assert trunc_exp(torch.tensor(x)).item() == pytest.approx(math.exp(x), rel=1e-5)
    assert gradient(trunc_exp, x)[0] == pytest.approx(slope, rel=1e-5)
