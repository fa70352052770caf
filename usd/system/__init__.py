"""Systems: what is optimized, by which losses. The base class owns everything that is the same for all of them."""

import inspect
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.core import ranks
from usd.core.checkpoint import FORMAT, component_entries
from usd.core.config import Schedule, Spec, option, plain
from usd.core.errors import ConfigError, UserError, did_you_mean, listing
from usd.core.module import Component, Module
from usd.core.random import generator, mix
from usd.data import Data
from usd.data.reference import ReferenceConfig
from usd.denoiser import Execution
from usd.exporter import Exporter
from usd.math.rng import BatchShare, ShareGenerator
from usd.system.skipped import SkippedSteps, unbounded

ALIASES = {"elevation-system": "elevation_training"}

Setting = float | bool | tuple[float, ...] | None


@dataclass(frozen=True)
class OptimizerConfig:
    """``torch.optim`` by name. ``params`` gives module paths their own settings; else all weights share ``args``."""

    dotted_keys: ClassVar[frozenset[str]] = frozenset({"params"})  # module paths, whose dots belong to them

    name: str = option("AdamW", "a class of torch.optim")
    args: dict[str, Schedule | Setting] = option({}, "its arguments: lr (may be a schedule), betas, eps, ...")
    params: dict[str, dict[str, Schedule | Setting]] = option(
        {}, "module path -> settings of its parameters; lr may be a schedule"
    )

    def __post_init__(self) -> None:
        check_settings("system.optimizer.args", self.args)
        for path, settings in self.params.items():
            check_settings(f"system.optimizer.params.{path}", settings)
        common = _numbers(self.args.get("lr"))
        if common and max(common) == 0 and not any("lr" in own for own in self.params.values()):
            raise ConfigError("system.optimizer.args.lr: 0 trains nothing; expected > 0")


SHARES = ("momentum", "dampening", "alpha", "rho")
"""Settings of optimisers that are shares of what was before: from 0 to below 1."""


def check_settings(key: str, settings: Mapping[str, Schedule | Setting]) -> None:
    """Check the numbers of one group of ``torch.optim`` settings. Raises ``ConfigError`` that starts with ``key``."""
    for name, value in settings.items():
        for number in _numbers(value):
            if number < 0 or (name in SHARES and number >= 1) or (name == "eps" and number == 0):
                wanted = {"eps": "> 0"}.get(name, ">= 0 and < 1" if name in SHARES else ">= 0")
                raise ConfigError(f"{key}.{name}: {number:g} is out of range; expected {wanted}")


def _numbers(value: Schedule | Setting) -> tuple[float, ...]:
    """Every number of a setting; none of true, false and null."""
    if isinstance(value, Schedule):
        return value.values
    if isinstance(value, tuple):
        return value
    return () if value is None or isinstance(value, bool) else (value,)


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, beside TensorBoard and CSV which are always written."""

    enable: bool = option(False, "log there too; needs the package wandb")
    project: str = option("usd", "the project's name there")
    name: str | None = option(None, "the run's name; by default the trial's")


@dataclass(frozen=True)
class LoggersConfig:
    wandb: WandbConfig = option({}, "Weights & Biases")


@dataclass(frozen=True)
class PictureSource:
    """The reference picture that a configuration names, and the picture model that it would ask about it."""

    image_path: str
    reference: ReferenceConfig
    model: str
    running: Execution
    keys: tuple[str, str]  # of picture and model, for messages


S = TypeVar("S", bound="SystemConfig", default="SystemConfig", covariant=True)


class System(Component[S], torch.nn.Module):
    """Base of all systems.

    A subclass builds its parts in ``build`` (called once, at construction) and its losses in ``compute``. Parts named
    in ``transient`` (diffusion models) never enter a checkpoint; build those in ``on_fit_start``, so that testing and
    exporting need none of them. ``self.save_dir`` is the trial's folder for pictures, ``self.step`` the number of
    optimizer steps taken. Methods named as hooks of Lightning are called as those are (``usd.app.loop``), and between
    them ``self.trainer`` and ``self.data`` are there.
    """

    @dataclass(frozen=True)
    class Config:
        optimizer: OptimizerConfig = option({}, "how weights are updated")
        loggers: LoggersConfig = option({}, "where figures go beside TensorBoard and CSV")

        def picture_source(self) -> PictureSource | None:
            """None where there is no reference picture. What ``data.reference_elevation_deg: auto`` looks at."""
            return None

    transient: ClassVar[frozenset[str]] = frozenset({"guidance", "prompt_processor"})
    shares_batches: ClassVar[bool] = (
        False  # whether several processes can train it, each on a part of the batch
    )

    trainer: Any = None  # Lightning's Trainer; importing that takes longer than telling most mistakes
    data: Data | None = None

    def __init__(self, config: S) -> None:
        torch.nn.Module.__init__(self)
        Component.__init__(self, config)
        self.register_buffer("_place", torch.zeros(1), persistent=False)
        self.seed = 0
        self.save_dir = Path("outputs")
        self.figures: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self.skipped = SkippedSteps()
        self._restored_step = 0
        self._states: Mapping[str, Any] = {}
        self._parts, self._now = 1, 0
        self._settings: list[dict[str, Any]] = []
        self.build()

    # ------------------------------------------------------------------------------------------ for subclasses

    def build(self) -> None:
        """Makes the parts from ``self.config``."""
        raise NotImplementedError

    def compute(self, batch: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Named scalar losses, weights already applied; figures worth logging go to ``self.figures``."""
        raise NotImplementedError

    def validate(self, batch: Any, index: int) -> None:
        """Writes pictures of one batch of ``data.eval_batches('val')`` to ``self.save_dir``."""

    def test(self, batch: Any, index: int) -> None:
        """Writes pictures of one batch of ``data.eval_batches('test')`` to ``self.save_dir``."""

    def export(self, exporter: Exporter, folder: Path) -> list[Path]:
        """Writes what was made to ``folder`` with an exporter; returns the files."""
        raise UserError(f"{type(self).__name__} has nothing to export")

    def compare_export(self, exporter: Exporter, files: Sequence[Path], data: Data) -> str:
        """Return in a line how far exported files are from the object; empty where that cannot be compared."""
        return ""

    # --------------------------------------------------------------------------------------------- the machinery

    def attach(self, trainer: Any, data: Data) -> None:
        """Takes the trainer that runs this system, and the data that it runs on."""
        self.trainer, self.data = trainer, data

    @property
    def device(self) -> torch.device:
        """Where the system is now."""
        return self.get_buffer("_place").device

    @property
    def global_step(self) -> int:
        """Optimizer steps taken by the trainer."""
        return 0 if self.trainer is None else self.trainer.global_step

    @property
    def global_rank(self) -> int:
        """Which of several processes this is."""
        return ranks.rank()

    def log_dict(self, figures: Mapping[str, Any]) -> None:
        """Logs figures of this step."""
        self.trainer.lightning_module.log_dict(figures)

    def log(self, name: str, value: Any) -> None:
        """Logs one figure of this step."""
        self.log_dict({name: value})

    @property
    def step(self) -> int:
        """Optimizer steps taken, also when a finished trial is only tested or exported."""
        return max(self.global_step, self._restored_step)

    @property
    def share(self) -> BatchShare:
        """What of a batch is worked on now: by this process, in this one of ``trainer.batch_parts``."""
        return BatchShare(ranks.rank() * self._parts + self._now, 1, ranks.processes() * self._parts)

    def step_generator(self, step: int) -> torch.Generator:
        """The only randomness of a training step: a function of seed and step, whatever the number of parts."""
        part = self.share if self.share.total > 1 else None
        return ShareGenerator.seeded(self.device, mix(self.seed, "step", 0, step), part)

    def part(self, batch: Any) -> Any:
        """``share`` of a training batch; the whole where ``compute`` divides it itself."""
        return batch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._states = checkpoint.get("training_states", {})
        self.skipped = SkippedSteps(int(checkpoint.get("skipped_steps", 0)))

    def on_train_start(self) -> None:
        """Hands parts what they had learnt; starts all processes from the same numbers, whatever shape each made."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, part in self._transient_parts():
            part.load_training_state(self._states.get(name, {}))
        self._apply_settings()
        ranks.copy_from_first(x for name, x in own.items() if name.split(".")[0] not in self.transient)

    def _apply_settings(self) -> None:
        """The optimizer as configured: with its state, PyTorch takes the settings of the checkpoint, too."""
        for optimizer in self.trainer.optimizers:
            for group, settings in zip(optimizer.param_groups, self._settings, strict=False):
                group.update(settings)

    def configure_model(self) -> None:
        """Makes what could not be made in ``build``, before the optimizer looks for weights."""

    def on_fit_start(self) -> None:
        """Opens what training needs."""

    def on_fit_end(self) -> None:
        """Leaves what training made."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Follows up a step."""

    def on_validation_epoch_end(self) -> None:
        """Follows up all validation batches."""

    def on_test_epoch_start(self) -> None:
        """Gets ready for the test batches."""

    def on_test_epoch_end(self) -> None:
        """Follows up all test batches."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Updates every module. What draws from torch's global generator regardless is made to replay, too."""
        self._parts = self.trainer.accumulate_grad_batches
        self._now = batch_idx % self._parts
        if self._now:
            return
        self.skipped.begin()
        torch.manual_seed(mix(self.seed, "global", 0, self.global_step))
        source = generator(self.device, self.seed, "update", 0, self.global_step)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, Module):
                    module.update(self.global_step, source)

    def training_step(self, batch: Any, batch_idx: int) -> Float[Tensor, ""]:
        """The loss; where it is not finite one without effect, since every process has to take part in the step."""
        step = self.global_step
        self.figures = {}
        with ranks.together():
            losses = self.compute(self.part(batch), step, self.step_generator(step))
            total = summed_up(losses, step)
            figures = {name: torch.tensor(float(value)) for name, value in self.figures.items()}
            known = averages({"loss": total, **losses, **figures})
        self.skipped.doubt(unbounded({name: known[name] for name in losses}))
        self.losses = {name: known[name] for name in ("loss", *losses)}
        self.log_dict({f"train/{name}": value for name, value in known.items()})
        return without_effect(self.parameters()) if self.skipped.reason else total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets learning rates of this step, or takes its gradients away where something was not finite.

        Without gradients an optimizer changes nothing, its own state included. (A loss scaled for half floats overflows
        by design; its scaler has seen that by now and lowers the scale.)
        """
        for group in optimizer.param_groups:
            if group.get("lr_schedule") is not None:
                group["lr"] = Schedule.parse(group["lr_schedule"])(self.global_step)
        norm, culprit = gradient_norm(self.named_parameters())
        self.skipped.doubt(f"the gradient of '{culprit}' is not finite" if culprit else "")
        if self.skipped.end():
            norm = norm * torch.nan
            optimizer.zero_grad(set_to_none=True)
            self._say_skipped()
        self.log("train/grad_norm", norm)
        if self.skipped.total:
            self.log("train/skipped_steps", float(self.skipped.total))

    def _say_skipped(self) -> None:
        if self.skipped.worth_saying and ranks.rank() == 0:
            sys.stdout.write(
                f"step {self.global_step}: skipped, since {self.skipped.reason}; skipped so far: {self.skipped.total}\n"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = make_optimizer(self, self.config.optimizer)
        self._settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        return optimizer

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if ranks.rank() == 0:  # the others wait where they meet it again
            self.validate(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        if ranks.rank() == 0:
            self.test(batch, batch_idx)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def specs(self) -> dict[str, Spec]:
        """The components this system is configured with."""
        return {key: value for key, value in vars(self.config).items() if isinstance(value, Spec)}

    def state_dict(self, **arguments: Any) -> dict[str, Any]:  # type: ignore[override]  # torch's own signature
        full = super().state_dict(**arguments)
        return {key: value for key, value in full.items() if key.split(".")[0] not in self.transient}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["system"] = {"class": type(self).__name__, "config": plain(self.config)}
        checkpoint["components"] = component_entries(self.specs())
        checkpoint["seed"] = self.seed
        checkpoint["skipped_steps"] = self.skipped.total
        checkpoint["training_states"] = {
            name: part.training_state() for name, part in self._transient_parts()
        }

    def _transient_parts(self) -> Iterator[tuple[str, Module]]:
        """The parts that no checkpoint has, as far as they are open."""
        parts = ((name, getattr(self, name, None)) for name in sorted(self.transient))
        return ((name, part) for name, part in parts if isinstance(part, Module))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        check_weights(self.state_dict(), state_dict, type(self).__name__)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes weights and step from a loaded checkpoint, for testing and exporting."""
        self.load_state_dict(checkpoint["state_dict"])
        self._restored_step = int(checkpoint["global_step"])


SystemConfig = System.Config


def summed_up(losses: Mapping[str, Tensor], step: int) -> Float[Tensor, ""]:
    """The sum of the losses."""
    if not losses:
        raise UserError(f"step {step}: no loss is active; set a system.loss.lambda_* above 0")
    return torch.stack([loss.float().reshape(()) for loss in losses.values()]).sum()


def averages(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers; those of several processes averaged, all at once."""
    device = next(iter(scalars.values())).device
    numbers = torch.stack([x.detach().to(device, torch.float64).reshape(()) for x in scalars.values()])
    return dict(zip(scalars, ranks.averaged(numbers).tolist()))


def without_effect(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """A loss of zero that depends on every weight that learns."""
    return torch.stack([0.0 * p.sum() for p in parameters if p.requires_grad]).sum()


def gradient_norm(parameters: Iterable[tuple[str, Tensor]]) -> tuple[Float[Tensor, ""], str]:
    """The norm of all gradients together, and the first parameter whose gradient is not finite ("" where all are)."""
    gradients = {name: p.grad for name, p in parameters if p.grad is not None}
    if not gradients:
        return torch.zeros(()), ""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))])
    finite = zip(gradients, torch.isfinite(norms).tolist(), strict=True)
    return norms.norm(), next((name for name, good in finite if not good), "")


def make_optimizer(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The configured optimizer over ``module``'s parameters. Unknown names are errors with their key path."""
    cls = vars(torch.optim).get(config.name)
    if not isinstance(cls, type):
        known = [name for name, item in vars(torch.optim).items() if isinstance(item, type)]
        raise ConfigError(
            f"system.optimizer.name: torch.optim has no '{config.name}'.{did_you_mean(config.name, known)}"
        )
    accepted = [name for name in inspect.signature(cls).parameters if name != "params"]
    _refuse_unknown("system.optimizer.args", config.args, accepted)
    for path, settings in config.params.items():
        _refuse_unknown(f"system.optimizer.params.{path}", settings, accepted)
    _refuse_mistyped(cls, "system.optimizer.args", config.args)
    for path, settings in config.params.items():
        _refuse_mistyped(cls, f"system.optimizer.params.{path}", settings)
    groups = parameter_groups(module, config)
    settings = {key: value for key, value in config.args.items() if key != "lr"}
    try:
        _try_out(cls, groups, settings)
        return cls(groups, **settings)
    except Exception as error:  # each optimizer has its own kinds
        raise ConfigError(f"system.optimizer: {config.name}: {str(error).splitlines()[0]}") from error


def _refuse_mistyped(cls: type, key: str, settings: Mapping[str, Any]) -> None:
    """Raises ``ConfigError`` for a setting of another type than the optimizer's default for it."""
    defaults = inspect.signature(cls).parameters
    for name, value in settings.items():
        default = defaults[name].default
        if isinstance(default, bool) or not isinstance(default, int | float | tuple):
            continue
        if isinstance(default, tuple):
            if not isinstance(value, tuple) or len(value) != len(default):
                raise ConfigError(
                    f"{key}.{name}: expected {len(default)} numbers such as {list(default)}, got {_said(value)}"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float | Schedule):
            raise ConfigError(f"{key}.{name}: expected a number such as {default:g}, got {_said(value)}")
        elif isinstance(value, int | float) and (value < 0 or not math.isfinite(value)):
            raise ConfigError(f"{key}.{name}: {value:g} is out of range; expected >= 0")


def _said(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _try_out(cls: type, groups: list[dict[str, Any]], settings: Mapping[str, Any]) -> None:
    """Takes one step with a weight of no meaning: most optimizers look at their settings only then."""
    for group in groups:
        device = group["params"][0].device if group["params"] else "cpu"
        weight = torch.nn.Parameter(torch.zeros(1, 1, device=device))
        weight.grad = torch.zeros_like(weight)
        cls([{**group, "params": [weight]}], **settings).step(lambda: 0.0)


def _refuse_unknown(key: str, settings: Mapping[str, Any], accepted: list[str]) -> None:
    for name in settings:
        if name not in accepted:
            hint = did_you_mean(name, accepted) or f" Known: {listing(accepted)}."
            raise ConfigError(f"{key}.{name}: unknown key.{hint}")


def parameter_groups(module: torch.nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """One group per module path. A learning rate's schedule is kept as ``lr_schedule``, for every step to read."""
    common = {"lr": config.args["lr"]} if "lr" in config.args else {}
    if not config.params:
        return [{"params": [p for p in module.parameters() if p.requires_grad], **_group(common)}]
    items = config.params.items()
    return [{"params": _parameters_at(module, path), **_group({**common, **own})} for path, own in items]


def _group(settings: Mapping[str, Any]) -> dict[str, Any]:
    lr = settings.get("lr")
    scheduled = {"lr": lr(0), "lr_schedule": lr.plain()} if isinstance(lr, Schedule) else {}
    return {**settings, **scheduled}


def _parameters_at(module: torch.nn.Module, path: str) -> list[torch.nn.Parameter]:
    """Those of a parameter or module; none where a module has none, as a plain background does."""
    found = [p for name, p in module.named_parameters() if name == path or name.startswith(f"{path}.")]
    if not found and path not in dict(module.named_modules()):
        known = {name.rsplit(".", 1)[0] for name, _ in module.named_parameters()}
        hint = did_you_mean(path, known) or f" Known: {listing(known)}."
        raise ConfigError(f"system.optimizer.params.{path}: no parameters there.{hint}")
    return [p for p in found if p.requires_grad]


def check_weights(own: Mapping[str, Any], given: Mapping[str, Any], name: str) -> None:
    """Raises ``UserError`` when a checkpoint's weights are not those of this system."""
    wrong = sorted(set(own) ^ set(given))
    if wrong:
        side = "lacks" if wrong[0] in own else "has"
        raise UserError(f"the checkpoint is of another system: it {side} {wrong[0]}, unlike this {name}")
    for key, value in given.items():
        if isinstance(value, Tensor) and value.shape != own[key].shape:
            shapes = f"{list(value.shape)} there, {list(own[key].shape)} in this {name}"
            raise UserError(f"the checkpoint is of another configuration: {key} is {shapes}")
