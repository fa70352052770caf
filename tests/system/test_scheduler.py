"""Learning-rate schedulers by name, as threestudio's recipes write them."""

import pytest
import torch

from usd.core.config import parse
from usd.core.errors import ConfigError
from usd.system.scheduler import SchedulerConfig, make_scheduler


def rates(config: dict[str, object], steps: int) -> list[float]:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = make_scheduler(optimizer, parse(SchedulerConfig, config, "system.scheduler"))
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_a_warm_up_then_an_exponential_decay() -> None:
    warm_up = {"name": "LinearLR", "args": {"start_factor": 0.5, "end_factor": 1.0, "total_iters": 2}}
    decay = {"name": "ExponentialLR", "args": {"gamma": 0.1}}
    config = {"name": "SequentialLR", "milestones": [2], "schedulers": [warm_up, decay]}
    assert rates(config, 5) == pytest.approx([0.5, 0.75, 1.0, 0.1, 0.01])


def test_steps_of_a_single_scheduler() -> None:
    assert rates({"name": "MultiStepLR", "args": {"milestones": [1, 3], "gamma": 0.5}}, 4) == [
        1,
        0.5,
        0.5,
        0.25,
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "ExponentalLR"}, "system.scheduler.name: .*Did you mean 'ExponentialLR'"),
        ({"name": "ExponentialLR", "args": {"gama": 1.0}}, "system.scheduler.args.gama: unknown key"),
        ({"name": "ExponentialLR"}, "system.scheduler: ExponentialLR: .*gamma"),
        ({"name": "SequentialLR", "milestones": [1]}, "system.scheduler.milestones: has 1 steps"),
        ({"name": "ChainedScheduler"}, "system.scheduler.schedulers: is empty"),
    ],
)
def test_what_torch_does_not_know_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rates(config, 1)
