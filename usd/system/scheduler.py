"""Learning-rate schedulers: classes of ``torch.optim.lr_scheduler`` by name, one after another or together."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from usd.core.config import option
from usd.core.errors import ConfigError, did_you_mean, listing

Argument = bool | int | float | tuple[float, ...] | str | None


@dataclass(frozen=True)
class SchedulerItem:
    """One of the schedulers that SequentialLR or ChainedScheduler puts together."""

    name: str = option(help="class of torch.optim.lr_scheduler: LinearLR, ExponentialLR, MultiStepLR, ...")
    interval: Literal["step", "epoch"] = option(
        "step", "unit of a scheduler's steps; accepted, as one unit holds for all schedulers"
    )
    args: dict[str, Argument] = option({}, "arguments of the scheduler: gamma, milestones, ...")


@dataclass(frozen=True)
class SchedulerConfig(SchedulerItem):
    """A scheduler, or several of them: SequentialLR changes from one to the next at ``milestones``."""

    interval: Literal["step", "epoch"] = option(
        "step", "unit of the scheduler's steps; the epoch of random views never ends"
    )
    warmup_steps: int = option(0, "milestone of SequentialLR where milestones says none", ge=0)
    milestones: tuple[int, ...] = option(
        (), "steps at which SequentialLR changes to its next scheduler", ge=1
    )
    schedulers: tuple[SchedulerItem, ...] = option((), "schedulers of SequentialLR or ChainedScheduler")


def make_scheduler(optimizer: Optimizer, config: SchedulerConfig) -> LRScheduler:
    """Build the configured scheduler. Raises ``ConfigError`` that starts with ``system.scheduler``."""
    if config.name not in ("SequentialLR", "ChainedScheduler"):
        return _single(optimizer, config, "system.scheduler")
    parts = enumerate(config.schedulers)
    items = [_single(optimizer, item, f"system.scheduler.schedulers[{i}]") for i, item in parts]
    if config.name == "ChainedScheduler":
        return lr_scheduler.ChainedScheduler(items, optimizer) if items else _refuse_empty()
    milestones = list(config.milestones) or ([config.warmup_steps] if config.warmup_steps else [])
    if len(milestones) != len(items) - 1:
        raise ConfigError(
            f"system.scheduler.milestones: has {len(milestones)} steps; expected one less than the "
            f"{len(items)} schedulers"
        )
    return lr_scheduler.SequentialLR(optimizer, items, milestones)


def _refuse_empty() -> LRScheduler:
    """Raise ``ConfigError`` for a list of no schedulers."""
    raise ConfigError("system.scheduler.schedulers: is empty; expected at least one scheduler")


def _single(optimizer: Optimizer, item: SchedulerItem, key: str) -> LRScheduler:
    """Build one scheduler. Raises ``ConfigError`` for names and arguments that torch does not know."""
    known = scheduler_classes()
    if item.name not in known:
        raise ConfigError(
            f"{key}.name: torch.optim.lr_scheduler has no '{item.name}'.{did_you_mean(item.name, known)}"
        )
    accepted = [name for name in inspect.signature(known[item.name]).parameters if name != "optimizer"]
    for name in (name for name in item.args if name not in accepted):
        hint = did_you_mean(name, accepted) or f" Known: {listing(accepted)}."
        raise ConfigError(f"{key}.args.{name}: unknown key.{hint}")
    try:
        return _build_scheduler(known[item.name], optimizer, item.args)
    except (TypeError, ValueError) as error:  # what torch says of arguments that are missing or out of range
        raise ConfigError(f"{key}: {item.name}: {str(error).splitlines()[0]}") from error


def _build_scheduler(
    cls: type[LRScheduler], optimizer: Optimizer, args: Mapping[str, Argument]
) -> LRScheduler:
    """Build a scheduler of ``torch.optim``; steps that are lists there are lists again."""
    given = {
        name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in args.items()
    }
    return cls(optimizer, **given)  # type: ignore[arg-type]


def scheduler_classes() -> dict[str, type[LRScheduler]]:
    """Return the schedulers of torch that need nothing but their arguments, by name."""
    classes = {
        name: item
        for name, item in vars(lr_scheduler).items()
        if isinstance(item, type) and issubclass(item, LRScheduler) and not name.startswith("_")
    }
    apart = (
        "LRScheduler",
        "SequentialLR",
        "ChainedScheduler",
        "ReduceLROnPlateau",
        "LambdaLR",
        "MultiplicativeLR",
    )
    return {name: cls for name, cls in classes.items() if name not in apart}
