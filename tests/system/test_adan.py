"""Adan against its equations: the first steps in closed form, decay, the limit of the gradients' norm."""

import copy

import pytest
import torch

from usd.core.config import parse
from usd.core.errors import UserError
from usd.system.adan import Adan
from usd.system.optimizer import OptimizerConfig, make_optimizer


def weight(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))


def step(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter, gradient: float) -> float:
    p.grad = torch.full_like(p, gradient)
    optimizer.step()
    return float(p.detach())


def test_the_first_two_steps_are_those_of_the_equations() -> None:
    p, (b1, b2, b3), (g1, g2) = weight(), (0.98, 0.92, 0.99), (2.0, -1.0)
    optimizer = Adan([p], lr=0.1, eps=1e-12)
    first = step(optimizer, p, g1)
    assert first == pytest.approx(1 - 0.1), "the first step is lr against the gradient's sign"
    d = g2 - g1
    m = (b1 * (1 - b1) * g1 + (1 - b1) * g2) / (1 - b1**2)
    v = (1 - b2) * d / (1 - b2**2)
    n = (b3 * (1 - b3) * g1**2 + (1 - b3) * (g2 + b2 * d) ** 2) / (1 - b3**2)
    assert step(optimizer, p, g2) == pytest.approx(first - 0.1 * (m + b2 * v) / n**0.5)


def test_decay_is_decoupled_and_the_norm_of_all_gradients_is_limited() -> None:
    decayed, free = weight(), weight()
    expected = step(Adan([free], lr=0.1), free, 3.0) / (1 + 0.1 * 0.5)
    assert step(Adan([decayed], lr=0.1, weight_decay=0.5), decayed, 3.0) == pytest.approx(expected)
    a, b = weight(), weight()
    a.grad, b.grad = torch.full_like(a, 30.0), torch.full_like(b, 40.0)
    Adan([{"params": [a]}, {"params": [b]}], max_grad_norm=5.0).step()
    assert float(a.grad) == pytest.approx(3.0, rel=1e-5) and float(b.grad) == pytest.approx(4.0, rel=1e-5)


def test_a_resumed_run_takes_the_same_steps() -> None:
    p, q = weight(), weight()
    optimizer = Adan([p], lr=0.1)
    step(optimizer, p, 2.0)
    resumed = Adan([q], lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    q.data.copy_(p.data)
    assert step(resumed, q, -1.0) == step(optimizer, p, -1.0)


def test_a_configuration_names_it() -> None:
    module = torch.nn.Linear(2, 2)
    given = {"name": "Adan", "args": {"lr": 0.01, "max_grad_norm": 5.0, "betas": [0.9, 0.8, 0.7]}}
    assert isinstance(make_optimizer(module, parse(OptimizerConfig, given)), Adan)
    for args, line in (
        ({"betas": [0.9, 0.99]}, "expected 3 numbers"),
        ({"betas": [1.0, 0.9, 0.9]}, "betas: 1 is"),
    ):
        with pytest.raises(UserError, match=line):
            make_optimizer(module, parse(OptimizerConfig, {"name": "Adan", "args": args}))
