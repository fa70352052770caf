"""Optimizers: a class of ``torch.optim``, or Adan, by name, its settings checked first, parameter groups by module."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import Schedule, option
from usd.core.errors import ConfigError, did_you_mean, listing
from usd.system.adan import Adan

Setting = float | bool | tuple[float, ...] | None
Settings = Mapping[str, Schedule | Setting]
Group = dict[str, object]
"""A parameter group of ``torch.optim``: ``params``, and settings of their own."""

DECAYS = ("momentum", "dampening", "alpha", "rho")
"""Settings that are factors of a previous value: from 0 to below 1."""


@runtime_checkable
class OptimizerClass(Protocol):
    """A class of ``torch.optim``."""

    def __call__(self, params: Sequence[Group], /, **settings: object) -> torch.optim.Optimizer:
        """Build an optimizer of parameter groups."""


@dataclass(frozen=True)
class OptimizerConfig:
    """``torch.optim`` by name. ``params`` gives module paths their own settings; else all weights share ``args``."""

    dotted_keys: ClassVar[frozenset[str]] = frozenset({"params"})  # module paths, whose dots belong to them
    key: ClassVar[str] = "system.optimizer"  # where it stands, for messages

    name: str = option("AdamW", "a class of torch.optim, or Adan")
    args: dict[str, Schedule | Setting] = option(
        {}, "arguments of the optimizer: lr (may be a schedule), betas, eps, ..."
    )
    params: dict[str, dict[str, Schedule | Setting] | None] = option(
        {},
        "module path -> settings of its parameters; lr may be a schedule; null: not this path of a base file",
    )

    def __post_init__(self) -> None:
        check_settings(f"{self.key}.args", self.args)
        for path, settings in self.groups.items():
            check_settings(f"{self.key}.params.{path}", settings)
        common = _setting_numbers(self.args.get("lr"))
        if common and max(common) == 0 and not any("lr" in own for own in self.groups.values()):
            raise ConfigError(f"{self.key}.args.lr: 0 trains nothing; expected > 0")

    @property
    def groups(self) -> dict[str, dict[str, Schedule | Setting]]:
        """``params`` without the paths that are null."""
        return {path: settings for path, settings in self.params.items() if settings is not None}


def check_settings(key: str, settings: Settings) -> None:
    """Check the numbers of one group of ``torch.optim`` settings. Raises ``ConfigError`` that starts with ``key``."""
    for name, value in settings.items():
        for number in _setting_numbers(value):
            if number < 0 or (name in DECAYS and number >= 1) or (name == "eps" and number == 0):
                expected = {"eps": "> 0"}.get(name, ">= 0 and < 1" if name in DECAYS else ">= 0")
                raise ConfigError(f"{key}.{name}: {number:g} is out of range; expected {expected}")


def _setting_numbers(value: Schedule | Setting) -> tuple[float, ...]:
    """Return every number of a setting; none of true, false and null."""
    if isinstance(value, Schedule):
        return value.values
    if isinstance(value, tuple):
        return value
    return () if value is None or isinstance(value, bool) else (value,)


def make_optimizer(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the configured optimizer over ``module``'s parameters. Raises ``ConfigError`` for unknown names."""
    classes = {name: item for name, item in vars(torch.optim).items() if isinstance(item, type)} | {
        "Adan": Adan
    }
    cls = classes.get(config.name)
    if cls is None:
        raise ConfigError(
            f"{config.key}.name: torch.optim has no '{config.name}'.{did_you_mean(config.name, classes)}"
        )
    for key, settings in _settings_by_key(config):
        _refuse_unknown_settings(key, settings, _accepted(cls))
    for key, settings in _settings_by_key(config):
        _refuse_mistyped(cls, key, settings)
    make = cast(OptimizerClass, cls)
    groups = parameter_groups(module, config)
    settings = {key: value for key, value in config.args.items() if key != "lr"}
    try:
        _try_one_step(make, groups, settings)
        return make(groups, **settings)
    except Exception as error:  # each optimizer has its own kinds
        raise ConfigError(f"{config.key}: {config.name}: {str(error).splitlines()[0]}") from error


def _settings_by_key(config: OptimizerConfig) -> list[tuple[str, Settings]]:
    """Return the common settings and those of each module path, with their key paths."""
    own = [(f"{config.key}.params.{path}", settings) for path, settings in config.groups.items()]
    return [(f"{config.key}.args", config.args), *own]


def _accepted(cls: type) -> list[str]:
    """Return the names of an optimizer's settings."""
    return [name for name in inspect.signature(cls).parameters if name != "params"]


def _refuse_unknown_settings(key: str, settings: Settings, accepted: list[str]) -> None:
    """Raise ``ConfigError`` for a setting that the optimizer does not have."""
    for name in settings:
        if name not in accepted:
            hint = did_you_mean(name, accepted) or f" Known: {listing(accepted)}."
            raise ConfigError(f"{key}.{name}: unknown key.{hint}")


def _refuse_mistyped(cls: type, key: str, settings: Settings) -> None:
    """Raise ``ConfigError`` for a setting of another type than the optimizer's default for it."""
    defaults = inspect.signature(cls).parameters
    for name, value in settings.items():
        default = defaults[name].default
        if isinstance(default, bool) or not isinstance(default, int | float | tuple):
            continue
        if isinstance(default, tuple):
            if not isinstance(value, tuple) or len(value) != len(default):
                raise ConfigError(
                    f"{key}.{name}: expected {len(default)} numbers such as {list(default)}, got {_described(value)}"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float | Schedule):
            raise ConfigError(f"{key}.{name}: expected a number such as {default:g}, got {_described(value)}")
        elif isinstance(value, int | float) and (value < 0 or not math.isfinite(value)):
            raise ConfigError(f"{key}.{name}: {value:g} is out of range; expected >= 0")


def _described(value: Schedule | Setting) -> str:
    """Return a setting as YAML writes it."""
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _try_one_step(make: OptimizerClass, groups: Sequence[Group], settings: Settings) -> None:
    """Take one step with a weight of no meaning: most optimizers look at their settings only then."""
    for group in groups:
        own = group["params"]
        device = own[0].device if isinstance(own, list) and own else "cpu"
        weight = torch.nn.Parameter(torch.zeros(1, 1, device=device))
        weight.grad = torch.zeros_like(weight)
        make([{**group, "params": [weight]}], **settings).step(lambda: 0.0)


def parameter_groups(module: torch.nn.Module, config: OptimizerConfig) -> list[Group]:
    """Return one group per module path. A learning rate's schedule is kept as ``lr_schedule``, for every step to read.

    Raises ``ConfigError`` for a path without parameters.
    """
    common = {"lr": config.args["lr"]} if "lr" in config.args else {}
    if not config.groups:
        return [{"params": [p for p in module.parameters() if p.requires_grad], **_at_step_0(common)}]
    items = config.groups.items()
    return [
        {"params": _parameters_at(module, path, config.key), **_at_step_0({**common, **own})}
        for path, own in items
    ]


def _at_step_0(settings: Settings) -> Group:
    """Return settings with the learning rate that a schedule begins with, and the schedule beside it."""
    lr = settings.get("lr")
    scheduled = {"lr": lr(0), "lr_schedule": lr.plain()} if isinstance(lr, Schedule) else {}
    return {**settings, **scheduled}


def _parameters_at(module: torch.nn.Module, path: str, key: str) -> list[torch.nn.Parameter]:
    """Return those of a parameter or module; none where a module has none, as a plain background does.

    A module that two names lead to is found by either of them.
    """
    below = module.named_parameters(remove_duplicate=False)
    found = {id(p): p for name, p in below if name == path or name.startswith(f"{path}.")}
    if not found and path not in dict(module.named_modules()):
        known = {name.rsplit(".", 1)[0] for name, _ in module.named_parameters()}
        hint = did_you_mean(path, known) or f" Known: {listing(known)}."
        raise ConfigError(f"{key}.params.{path}: no parameters there.{hint}")
    return [p for p in found.values() if p.requires_grad]


def gradient_norm(parameters: Iterable[tuple[str, Tensor]]) -> tuple[Float[Tensor, ""], str]:
    """Return the norm of all gradients together, and the first parameter whose gradient is not finite, or ""."""
    gradients = {name: p.grad for name, p in parameters if p.grad is not None}
    if not gradients:
        return torch.zeros(()), ""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))]).cpu()
    finite = zip(gradients, torch.isfinite(norms).tolist(), strict=True)
    return norms.norm(), next((name for name, good in finite if not good), "")
