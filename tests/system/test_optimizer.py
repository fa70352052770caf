"""Settings of an optimizer that it would only stumble over in its first step: one line with the key."""

import pytest
import torch

from usd.core.config import parse
from usd.core.errors import UserError
from usd.system.optimizer import OptimizerConfig, make_optimizer

BAD = {
    "lr=null": "args.lr: expected a number such as 0.001, got null",
    "lr=-1": "args.lr: -1 is out of range; expected >= 0",
    "betas=[]": "args.betas: expected 2 numbers such as [0.9, 0.999], got []",
    "betas=[0.9]": "args.betas: expected 2 numbers",
    "betas=null": "args.betas: expected 2 numbers such as [0.9, 0.999], got null",
    "betas=[2.0, 3.0]": "AdamW: Invalid beta parameter at index 0",
    "eps=null": "args.eps: expected a number such as 1e-08, got null",
    "weight_decay=true": "args.weight_decay: expected a number such as 0.01, got True",
    "fused=true foreach=true": "cannot be `True` together",
}


def made(name: str = "AdamW", args: object = None, params: object = None) -> torch.optim.Optimizer:
    given = {"name": name, "args": args or {}, "params": params or {}}
    return make_optimizer(torch.nn.Sequential(torch.nn.Linear(2, 2)), parse(OptimizerConfig, given))


def values(text: str) -> dict[str, object]:
    import yaml

    return {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in _items(text))}


def _items(text: str) -> list[str]:
    return text.split(" ") if "[" not in text else [text]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_setting_is_named(text):
    with pytest.raises(UserError) as error:
        made(args=values(text))
    assert BAD[text] in str(error.value) and str(error.value).startswith("system.optimizer")


def test_settings_of_one_part_are_looked_at_too():
    for settings, line in (
        ({"lr": None}, "lr: expected a number"),
        ({"betas": ()}, "betas: expected 2 numbers"),
    ):
        with pytest.raises(UserError, match=f"system.optimizer.params.0.{line}"):
            made(params={"0": settings})


def test_an_optimizer_that_cannot_take_a_step_here_is_refused_before_training():
    with pytest.raises(UserError, match="SparseAdam does not support dense gradients"):
        made("SparseAdam")


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "RMSprop", "Rprop", "LBFGS", "NAdam", "Adafactor"])
def test_trying_out_leaves_the_optimizer_untouched(name):
    optimizer = made(name)
    assert not optimizer.state and all(group["params"] for group in optimizer.param_groups)


def test_a_schedule_is_still_a_learning_rate():
    optimizer = made(args={"lr": [0, 0.1, 0.01, 100], "betas": [0.9, 0.99]})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_a_module_that_two_names_lead_to_is_trained_by_either_of_them():
    """A second name found no parameters, said nothing, and trained nothing."""
    module = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2), "other": torch.nn.Linear(2, 2)})
    module["second"] = module["first"]
    for name in ("first", "second"):
        config = parse(OptimizerConfig, {"name": "AdamW", "args": {"lr": 0.1}, "params": {name: {"lr": 0.2}}})
        optimizer = make_optimizer(module, config)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in module["first"].parameters()} <= {id(p) for p in trained}
        assert len(trained) == len({id(p) for p in trained})
