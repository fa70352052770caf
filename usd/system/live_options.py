"""Options that may change between two steps of a running training: what they are, and how a change takes effect.

They are the guidance's scale and noise levels, weights of losses, learning rates, and the ranges of random cameras. A
value is read as it would be from YAML: a number, or a schedule over steps where the option is one. Cameras are drawn
ahead of the step that they are for, so that their options change ``AHEAD`` steps later: a change at a step has the same
effect whenever it is made again at that step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from usd.core.config import ConfigError, Plain, Schedule, key_of, parse, plain, plain_options
from usd.core.errors import did_you_mean, listing
from usd.data import Data
from usd.data.random_camera import RandomCameraConfig
from usd.guidance import Guidance
from usd.system import System
from usd.system.distillation import GUIDANCES, DistillationSystem
from usd.system.scene import SceneSystem

AHEAD = 2
"""Steps from a change of the data's options to the first batch that is drawn under them."""
OF_GUIDANCES = ("guidance_scale", "lambda_", "min_step_percent", "max_step_percent", "grad_clip")
OF_CAMERAS = ("camera_distance_range", "fovy_range", "elevation_range", "azimuth_range")


@dataclass(frozen=True)
class LiveOption:
    """One option: its present value as YAML writes it, its meaning, and what sets it (value, step)."""

    value: Plain
    help: str
    change: Callable[[object, int], None]


def live_options(
    system: System, data: Data, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, LiveOption]:
    """Return the options of a training that may change while it runs, by their keys."""
    found: dict[str, LiveOption] = {}
    if isinstance(system, DistillationSystem):
        for name in GUIDANCES.values():
            guidance = getattr(system, name)
            found.update(_guidance_options(f"system.{name}", guidance) if guidance is not None else {})
    if isinstance(system, SceneSystem):
        found.update(_loss_options(system))
    if system.config.scheduler is None:
        for optimizer in optimizers:
            found.update(_rate_options(optimizer, list(system.config.optimizer.groups)))
    if isinstance(data.config, RandomCameraConfig):
        found.update(_camera_options(data, data.config))
    return found


def change_option(options: Mapping[str, LiveOption], key: str, value: object, step: int) -> Plain:
    """Set an option from ``step`` on; return its value before. Raises ``ConfigError`` and leaves it as it was."""
    if key not in options:
        hint = did_you_mean(key, options) or f" Known: {listing(options)}."
        raise ConfigError(f"{key}: cannot change while a training runs.{hint}")
    options[key].change(value, step)
    return options[key].value


def _guidance_options(where: str, guidance: Guidance) -> dict[str, LiveOption]:
    config = guidance.config
    given = plain_options(config)

    def setter(key: str) -> Callable[[object, int], None]:
        return lambda value, _: guidance.change_config(
            parse(type(config), {**plain_options(guidance.config), key: value}, where)
        )

    return {
        f"{where}.{key_of(field.name)}": LiveOption(
            given[key_of(field.name)], field.metadata["option"].help, setter(key_of(field.name))
        )
        for field in fields(config)
        if field.name in OF_GUIDANCES and given[key_of(field.name)] is not None
    }


def _loss_options(system: SceneSystem) -> dict[str, LiveOption]:
    """Return the weights of the losses in use: others may need what the training has not opened."""

    def setter(name: str) -> Callable[[object, int], None]:
        return lambda value, _: system.weights.update(
            {name: _weights_over_steps(f"system.loss.lambda_{name}", value)}
        )

    return {
        f"system.loss.lambda_{name}": LiveOption(
            system.weights[name].plain(), f"weight of the loss {name}", setter(name)
        )
        for name in sorted(system.used_losses)
    }


def _rate_options(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, LiveOption]:
    keys = [f"system.optimizer.params.{name}.lr" for name in names] or ["system.optimizer.args.lr"]

    def setter(key: str, group: dict[str, object]) -> Callable[[object, int], None]:
        def change(value: object, step: int) -> None:
            rate = _weights_over_steps(key, value)
            group["lr_schedule"], group["lr"] = rate.plain(), rate(step)

        return change

    return {
        key: LiveOption(_rate(group), "learning rate", setter(key, group))
        for key, group in zip(keys, optimizer.param_groups, strict=True)
    }


def _rate(group: Mapping[str, object]) -> Plain:
    """Return the learning rate of a parameter group, or its schedule."""
    known = group.get("lr_schedule")
    return plain(group["lr"] if known is None else known)


def _camera_options(data: Data, config: RandomCameraConfig) -> dict[str, LiveOption]:
    given = plain_options(config)

    def setter(key: str) -> Callable[[object, int], None]:
        def change(value: object, step: int) -> None:
            changed = {**plain_options(data.latest_config), key: value}
            data.change_config(type(data)(parse(type(config), changed, "data")).config, step + AHEAD)

        return change

    helps = {field.name: field.metadata["option"].help for field in fields(config)}
    return {f"data.{key}": LiveOption(given[key], helps[key], setter(key)) for key in OF_CAMERAS}


def _weights_over_steps(key: str, value: object) -> Schedule:
    """Return a weight or rate from its YAML form. Raises ``ConfigError``."""
    try:
        schedule = Schedule.parse(value)
    except ValueError as problem:
        raise ConfigError(f"{key}: {problem}") from problem
    if not 0 <= schedule.minimum <= schedule.maximum <= 1e9:
        raise ConfigError(f"{key}: {schedule.minimum:g} is out of range; expected >= 0")
    return schedule
