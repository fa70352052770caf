"""Weighted losses: ``system.loss.lambda_NAME`` is the weight of the loss NAME, a number or a schedule over steps."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import ranks
from usd.core.config import ConfigError, Schedule
from usd.core.errors import UserError, did_you_mean, listing

PREFIX = "lambda_"
Weights = dict[str, Schedule]


def loss_keys(names: Iterable[str]) -> list[str]:
    """Return the keys of ``system.loss`` that these losses have."""
    return [PREFIX + name for name in names]


def read_weights(
    given: Mapping[str, Schedule], defaults: Mapping[str, float], aliases: Mapping[str, str] | None = None
) -> Weights:
    """Return the weight of every loss of ``defaults``, as given by ``lambda_NAME`` keys or as it is there.

    ``aliases`` are other names of losses. Raises ``ConfigError`` for unknown keys, and for two names of one loss with
    different weights.
    """
    aliases = aliases or {}
    keys = loss_keys([*defaults, *aliases])
    weights = {name: Schedule.constant(value) for name, value in defaults.items()}
    first: dict[str, str] = {}
    for key, schedule in given.items():
        if key not in keys:
            hint = did_you_mean(key, keys) or f" Known keys: {listing(keys)}."
            raise ConfigError(f"system.loss.{key}: unknown key.{hint}")
        name = aliases.get(key.removeprefix(PREFIX), key.removeprefix(PREFIX))
        other = first.setdefault(name, key)
        if given[other] != schedule:
            raise ConfigError(
                f"system.loss.{key}: is another name of {other} and says {schedule.plain()}, not "
                f"{given[other].plain()}; expected one of the two"
            )
        weights[name] = schedule
    return weights


def active_weights(weights: Mapping[str, Schedule], step: int) -> dict[str, float]:
    """Return the losses with a weight above 0 at ``step``, and their weights."""
    now = {name: schedule(step) for name, schedule in weights.items()}
    return {name: weight for name, weight in now.items() if weight > 0}


def total_loss(losses: Mapping[str, Tensor], step: int) -> Float[Tensor, ""]:
    """Return the sum of the losses. Raises ``UserError`` where there is none."""
    if not losses:
        raise UserError(f"step {step}: no loss is active; set a system.loss.lambda_* above 0")
    return torch.stack([loss.float().reshape(()) for loss in losses.values()]).sum()


def as_scalar(value: float | int | Tensor) -> Float[Tensor, ""]:
    """Return a figure as a tensor without gradient: where it is if it is one already, on the CPU otherwise."""
    return value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))


def process_averages(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars as numbers; those of several processes averaged, all at once."""
    device = next(iter(scalars.values())).device
    with torch.no_grad():
        # Together, and not one by one: a GPU is given each operator as a launch of its own.
        numbers = torch.stack([_number_on(device, x) for x in scalars.values()])
    return dict(zip(scalars, ranks.averaged(numbers.double()).tolist()))


def _number_on(device: torch.device, x: Tensor) -> Float[Tensor, ""]:
    """Return a number of one dimension or none as a floating one without dimensions."""
    exact = x.to(device) if x.is_floating_point() else x.to(device, torch.float64)
    return exact.reshape(()) if x.dim() else exact


def loss_without_effect(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Return a loss of zero that depends on every weight that learns."""
    return torch.stack([0.0 * p.sum() for p in parameters if p.requires_grad]).sum()
