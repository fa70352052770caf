"""Every number that a configuration can set, in every component: finite, within bounds, refused by its own key."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import pytest

from usd.app.experiment import CheckpointConfig, TrainerConfig
from usd.core import registry
from usd.core.config import ConfigError, Schedule, parse
from usd.system.optimizer import OptimizerConfig

Option = tuple[str, dataclasses.Field, Any]
"""A name for messages, and a field with its type."""


def filled(hint: Any, number: float) -> Iterator[Any]:
    """Values of a type, as YAML would say them, with ``number`` in one of their places."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is float:
        yield number
    elif hint is Schedule:
        yield from (
            number,
            [number, 1.0, 5],
            [0, 1.0, number, 5],
            {"steps": [0, 5], "values": [0.5, number]},
        )
    elif origin in (Union, types.UnionType):
        yield from (value for member in inner for value in filled(member, number))
    elif origin in (tuple, list):
        count = 1 if inner[-1] is Ellipsis else len(inner)
        for i in range(count):
            yield from ([0.5] * i + [value] + [0.5] * (count - i - 1) for value in filled(inner[0], number))
    elif origin is dict:
        yield from ({"some": value} for value in filled(inner[1], number))


def options(cls: type, name: str) -> Iterator[Option]:
    """Every option of a configuration that is no component, with those inside mappings of options."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint is not Schedule:
            yield from options(hint, f"{name}.{field.name}")
        elif "part" not in field.metadata:
            yield f"{name}.{field.name}", field, hint


@pytest.fixture(scope="module")
def known() -> list[Option]:
    components = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
    classes = [(f"{kind}/{name}", registry.find(kind, name).Config) for kind, name in components]
    ours = [("trainer", TrainerConfig), ("checkpoint", CheckpointConfig)]
    return [option for name, cls in [*ours, *classes] for option in options(cls, name)]


def complaint(option: Option, value: Any) -> str:
    """What is said of a value; empty where it is accepted."""
    name, field, hint = option
    alone = dataclasses.make_dataclass(
        "Alone", [("x", hint, dataclasses.field(metadata=field.metadata, kw_only=True))]
    )
    try:
        parse(alone, {"x": value})
    except ConfigError as error:
        assert str(error).startswith("x"), (name, value, str(error))  # noqa: PT017
        return str(error)
    return ""


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_no_option_takes_a_number_that_is_not_finite_or_beyond_all_reason(known, number):
    tried = [(option, value) for option in known for value in filled(option[2], number)]
    assert len(tried) > 200
    assert not [(option[0], value) for option, value in tried if not complaint(option, value)]


def test_no_count_takes_more_than_any_machine_has(known):
    counts = [option for option in known if option[2] is int]
    assert len(counts) > 100
    assert not [
        option[0] for option in counts if not complaint(option, 2**40) or not complaint(option, 10**30)
    ]


LEAST = {
    "data/random-camera-datamodule.eval_camera_distance": (
        0.0,
        "x: 0 is out of range; expected > 0 and <= 10000",
    ),
    "data/random-camera-datamodule.eval_width": (
        10**5,
        "x: 100000 is out of range; expected >= 1 and <= 16384",
    ),
    "data/random-camera-datamodule.elevation_range": (
        [0, 91],
        "x: 91 is out of range; expected >= -90 and <= 90",
    ),
    "renderer/nerf-volume-renderer.radius": (-1.0, "x: -1 is out of range; expected > 0 and <= 10000"),
    "guidance/usd-guidance.guidance_scale": (-7.5, "x: -7.5 is out of range; expected >= 0 and <= 10000"),
    "system/autoencoder-system.channels": ([-8], "x: -8 is out of range; expected >= 1 and <= 8192"),
}


@pytest.mark.parametrize("name", LEAST)
def test_bounds_are_those_of_the_meaning(known, name):
    value, text = LEAST[name]
    assert [complaint(option, value) for option in known if option[0] == name] == [text]


OPTIMIZER = [
    ({"lr": -0.1}, "lr: -0.1 is out of range; expected >= 0"),
    ({"lr": math.nan}, "lr: nan is out of range; expected a finite number"),
    ({"lr": [0, 0.1, math.inf, 10]}, "lr: inf is out of range; expected a finite number"),
    ({"lr": [0, 0.1, -0.2, 10]}, "lr: -0.2 is out of range; expected >= 0"),
    ({"lr": 1e30}, "lr: 1e+30 is out of range; expected <= 1e+09"),
    ({"lr": 10**400}, "lr: an integer of more than 64 bits is out of range"),
    ({"betas": [0.9, math.nan]}, "betas: nan is out of range; expected a finite number"),
    ({"eps": 0}, "eps: 0 is out of range; expected > 0"),
    ({"weight_decay": -1}, "weight_decay: -1 is out of range; expected >= 0"),
    ({"momentum": 1}, "momentum: 1 is out of range; expected >= 0 and < 1"),
]


@pytest.mark.parametrize(("settings", "text"), OPTIMIZER, ids=[str(said)[:40] for said, _ in OPTIMIZER])
def test_settings_of_an_optimiser_are_checked_before_anything_is_built(settings, text):
    for key, values in {"args": settings, "params.geometry": {"geometry": settings}}.items():
        with pytest.raises(ConfigError) as caught:
            parse(OptimizerConfig, {key.partition(".")[0]: values}, "system.optimizer")
        assert str(caught.value) == f"system.optimizer.{key}.{text}"


def test_a_learning_rate_of_zero_may_hold_a_part_still_but_not_everything():
    with pytest.raises(ConfigError, match=r"system\.optimizer\.args\.lr: 0 trains nothing; expected > 0"):
        parse(OptimizerConfig, {"args": {"lr": 0}})
    assert parse(OptimizerConfig, {"args": {"lr": 0.1}, "params": {"background": {"lr": 0.0}}})


def test_what_is_published_and_usual_passes():
    args = {"lr": 0.01, "betas": [0.9, 0.99], "eps": 1.0e-15, "weight_decay": 0, "amsgrad": True}
    parsed = parse(OptimizerConfig, {"args": args, "params": {"geometry": {"lr": [0, 0.0, 0.01, 100]}}})
    assert parsed.args["betas"] == (0.9, 0.99)
    assert parsed.params["geometry"]["lr"] == Schedule((0, 100), (0.0, 0.01))
