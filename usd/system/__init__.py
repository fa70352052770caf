"""Systems: what is optimized, by which losses. The base class owns everything that is the same for all of them."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar, override

from usd.core import ranks
from usd.core.checkpoint import (
    FORMAT,
    Checkpoint,
    ForeignCheckpointError,
    checkpoint_of,
    component_entries,
)
from usd.core.checkpoint import load as load_checkpoint
from usd.core.config import Schedule, Spec, option, plain
from usd.core.console import say
from usd.core.errors import ConfigError, UserError, listing
from usd.core.module import Component, Module
from usd.core.random import generator, mix
from usd.core.types import Render
from usd.data import Data
from usd.data.reference import ReferenceConfig
from usd.denoiser import Execution
from usd.exporter import Exporter
from usd.math.camera import Cameras
from usd.math.rng import BatchShare, ShareGenerator
from usd.system.optimizer import Group, OptimizerConfig, gradient_norm, make_optimizer
from usd.system.scheduler import SchedulerConfig, make_scheduler
from usd.system.skipped import SkippedSteps, first_infinite
from usd.system.weighted_losses import as_scalar, loss_without_effect, process_averages, total_loss

if TYPE_CHECKING:  # importing Lightning takes longer than telling most mistakes
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

ALIASES = {
    "elevation-system": "elevation_training",
    "specialise-system": "specialize",
    "specialise": "specialize",
}


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, beside TensorBoard and CSV which are always written."""

    enable: bool = option(False, "whether figures go to Weights & Biases, too; needs the package wandb")
    project: str = option("usd", "project at Weights & Biases")
    name: str | None = option(None, "name of the run at Weights & Biases; by default the trial's")


@dataclass(frozen=True)
class LoggersConfig:
    """Loggers beside TensorBoard and CSV."""

    wandb: WandbConfig = option({}, "logger of Weights & Biases")


@dataclass(frozen=True)
class PictureSource:
    """The reference picture that a configuration names, and the picture model that it would ask about it."""

    image_path: str
    reference: ReferenceConfig
    model: str
    execution: Execution
    keys: tuple[str, str]  # of picture and model, for messages


S = TypeVar("S", bound="SystemConfig", default="SystemConfig", covariant=True)
B = TypeVar("B", default=object)
E = TypeVar("E", default=B, contravariant=True)


class System(Component[S], torch.nn.Module, Generic[S, B, E]):
    """Base of all systems, of a configuration S, training batches B and evaluation batches E.

    A subclass builds its components in ``build`` (called once, at construction) and its losses in ``compute``. Those
    named in ``transient`` (diffusion models) never enter a checkpoint; build them in ``on_fit_start``, so that testing
    and exporting need none of them. ``self.save_dir`` is the trial's folder for pictures, ``self.step`` the number of
    optimizer steps taken. Methods named as hooks of Lightning are called as those are (``usd.app.loop``), and between
    them ``self.trainer`` and ``self.data`` are there.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of every system."""

        optimizer: OptimizerConfig = option({}, "optimizer of the weights")
        scheduler: SchedulerConfig | None = option(
            None, "scheduler of the learning rates, in place of schedules of lr"
        )
        weights: Path | None = option(
            None,
            "checkpoint or trial whose weights a new training starts from, without its step and optimizer",
        )
        weights_ignore_modules: tuple[str, ...] = option(
            (), "modules whose weights are not taken from weights, such as material and background"
        )
        loggers: LoggersConfig = option({}, "loggers beside TensorBoard and CSV")

        def unread(self) -> Mapping[str, str]:
            """Return options of a start that there is none for."""
            return {} if self.weights is not None else {"weights_ignore_modules": "where weights is null"}

        def picture_source(self) -> PictureSource | None:
            """Return the reference picture and its model, for ``data.reference_elevation_deg: auto``; None without."""
            return None

    transient: ClassVar[frozenset[str]] = frozenset({"guidance", "prompt_processor"})
    shares_batches: ClassVar[bool] = (
        False  # whether several processes can train it, each on its part of a batch
    )

    data: Data | None = None
    _trainer: "Trainer | None" = None

    def __init__(self, config: S) -> None:
        torch.nn.Module.__init__(self)
        Component.__init__(self, config)
        self.register_buffer("_place", torch.zeros(1), persistent=False)
        self.seed = 0
        self.save_dir = Path("outputs")
        self.figures: dict[str, float | Tensor] = {}
        self.losses: dict[str, float] = {}
        self._logged: set[str] = set()
        self.skipped = SkippedSteps()
        self._restored_step = 0
        self._states: Mapping[str, Mapping[str, object]] = {}
        self._batch_parts, self._batch_part = 1, 0
        self._settings: list[Group] = []
        self.build()

    # ------------------------------------------------------------------------------------------ for subclasses

    def build(self) -> None:
        """Build the components that ``self.config`` names."""
        raise NotImplementedError

    def compute(self, batch: B, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return named scalar losses, weights already applied; figures worth logging go to ``self.figures``."""
        raise NotImplementedError

    def validate(self, batch: E, index: int) -> None:
        """Write pictures of one batch of ``data.eval_batches('val')`` to ``self.save_dir``."""

    def test(self, batch: E, index: int) -> None:
        """Write pictures of one batch of ``data.eval_batches('test')`` to ``self.save_dir``."""

    def export(self, exporter: Exporter, folder: Path) -> list[Path]:  # noqa: ARG002 - for overrides
        """Write what was made to ``folder`` with an exporter; return the files. Raises ``UserError``."""
        raise UserError(f"{type(self).__name__} has nothing to export")

    def evaluation_views(self, cameras: Cameras) -> Render:  # noqa: ARG002 - for overrides
        """Render the object as people and scores are shown it, on the CPU. Raises ``UserError`` without an object."""
        raise UserError(f"{type(self).__name__} trains no object that could be rendered")

    def compare_export(self, exporter: Exporter, files: Sequence[Path], data: Data) -> str:  # noqa: ARG002 - for overrides
        """Return in a line how far exported files are from the object; empty where that cannot be compared."""
        return ""

    # --------------------------------------------------------------------------------------------- the machinery

    def attach(self, trainer: "Trainer", data: Data) -> None:
        """Take the trainer that runs this system, and the data that it runs on."""
        self._trainer, self.data = trainer, data

    @property
    def trainer(self) -> "Trainer":
        """Lightning's trainer, while one runs this system."""
        assert self._trainer is not None, "no trainer runs this system now"
        return self._trainer

    @property
    def device(self) -> torch.device:
        """Device of the system's weights."""
        return self.get_buffer("_place").device

    @property
    def global_step(self) -> int:
        """Number of optimizer steps that the trainer has taken."""
        return 0 if self._trainer is None else self._trainer.global_step

    @property
    def global_rank(self) -> int:
        """Rank of this process among those that train together."""
        return ranks.rank()

    def log_dict(self, figures: Mapping[str, float | Tensor]) -> None:
        """Log figures of this step."""
        # Numbers stay on the CPU: the loggers would wait for each of them on a GPU.
        self.trainer.lightning_module.log_dict({name: as_scalar(value) for name, value in figures.items()})

    def log(self, name: str, value: float | Tensor) -> None:
        """Log one figure of this step."""
        self.log_dict({name: value})

    @property
    def step(self) -> int:
        """Number of optimizer steps taken, also when a finished trial is only tested or exported."""
        return max(self.global_step, self._restored_step)

    @property
    def share(self) -> BatchShare:
        """Part of a batch that is worked on now: by this process, in this one of ``trainer.batch_parts``."""
        first = ranks.rank() * self._batch_parts + self._batch_part
        return BatchShare(first, 1, ranks.processes() * self._batch_parts)

    def step_generator(self, step: int) -> torch.Generator:
        """Return the only randomness of a training step: a function of seed and step, however batches are divided."""
        part = self.share if self.share.total > 1 else None
        return ShareGenerator.seeded(self.device, mix(self.seed, "step", 0, step), part)

    def batch_share(self, batch: B) -> B:
        """Return ``share`` of a training batch; the whole where ``compute`` divides it itself."""
        return batch

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take what a checkpoint holds beside weights and optimizer."""
        self._states = checkpoint.get("training_states", {})
        self.skipped = SkippedSteps(int(checkpoint.get("skipped_steps", 0)))

    def on_train_start(self) -> None:
        """Hand components what they had learned; start all processes from the same numbers."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, component in self._transient_components():
            component.load_training_state(self._states.get(name, {}))
        self._apply_settings()
        ranks.copy_from_first(x for name, x in own.items() if name.split(".")[0] not in self.transient)

    def _apply_settings(self) -> None:
        """Set the optimizer as configured: with its state, PyTorch takes the settings of the checkpoint, too."""
        for optimizer in self.trainer.optimizers:
            for group, settings in zip(optimizer.param_groups, self._settings, strict=False):
                group.update(settings)

    def configure_model(self) -> None:
        """Build what could not be built in ``build``, before the optimizer looks for weights."""

    def on_fit_start(self) -> None:
        """Open what training needs; a new training takes the weights that it starts from."""
        if self.config.weights is not None and self.trainer.ckpt_path is None:
            self.start_from_weights(self.config.weights)

    def start_from_weights(self, path: Path) -> None:
        """Take the weights of an earlier training, but those of ``weights_ignore_modules``. Raises ``UserError``."""
        given, own = self.config.weights_ignore_modules, self.state_dict()
        kept = {key: value for key, value in own.items() if any(_is_below(key, name) for name in given)}
        try:
            saved = self._earlier_weights(checkpoint_of(path), kept)
        except UserError as error:
            raise type(error)(f"system.weights: {error}") from error
        there = [*own, *saved, *(name for name, _ in self.named_modules())]
        if unknown := [name for name in given if not any(_is_below(key, name) for key in there)]:
            raise ConfigError(
                f"system.weights_ignore_modules: no weights are called {unknown[0]}.*; expected modules such as "
                f"{listing({key.split('.')[0] for key in own})}"
            )
        taken = {
            key: value for key, value in saved.items() if not any(_is_below(key, name) for name in given)
        }
        self.load_state_dict({**kept, **taken})

    def _earlier_weights(self, path: Path, kept: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a checkpoint's weights, this project's or threestudio's, by names here. Raises ``UserError``."""
        try:
            return load_checkpoint(path)["state_dict"]
        except ForeignCheckpointError:
            from usd.system.threestudio_training import threestudio_state, weights_for

            state = threestudio_state(path)
            if state is None:
                raise
            own = {key: value for key, value in self.state_dict().items() if key not in kept}
            return weights_for(own, getattr(self, "geometry", None), state)

    def on_fit_end(self) -> None:
        """Write what training made."""

    def after_optimizer_step(self, step: int) -> None:
        """Let every module follow up a step, before anything is saved. Skipped steps have nothing to follow up."""
        if self.skipped.reason:
            return
        source = generator(self.device, self.seed, "after", 0, step)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, Module):
                    module.after_step(step, self.trainer.optimizers[0], source)

    def on_train_batch_end(self) -> None:
        """Follow up a batch."""

    def on_validation_epoch_end(self) -> None:
        """Follow up all validation batches."""

    def on_test_epoch_start(self) -> None:
        """Prepare for the test batches."""

    def on_test_epoch_end(self) -> None:
        """Follow up all test batches."""

    def on_train_batch_start(self, batch_idx: int) -> None:
        """Update every module. What draws from torch's global generator regardless is made to replay, too."""
        self._batch_parts = self.trainer.accumulate_grad_batches
        self._batch_part = batch_idx % self._batch_parts
        if self._batch_part:
            return
        self.skipped.begin()
        torch.manual_seed(mix(self.seed, "global", 0, self.global_step))
        self.update_modules(self.global_step)

    @torch.no_grad()
    def update_modules(self, step: int) -> None:
        """Bring every module up to date at the beginning of a step."""
        source = generator(self.device, self.seed, "update", 0, step)
        for module in self.modules():
            if isinstance(module, Module):
                module.update(step, source)

    def training_step(self, batch: B) -> Float[Tensor, ""] | None:
        """Return the loss; where it is not finite one without effect, as every process has to take part in a step."""
        step = self.global_step
        self.figures = {}
        with ranks.together():
            losses = self.compute(self.batch_share(batch), step, self.step_generator(step))
            total = total_loss(losses, step)
            figures = {name: as_scalar(value) for name, value in self.figures.items()}
            averages = process_averages({"loss": total, **losses, **figures})
        self.skipped.reject(first_infinite({name: averages[name] for name in losses}))
        self.losses = {name: averages[name] for name in ("loss", *losses)}
        # The loggers would repeat what a loss was when it stopped.
        stopped = dict.fromkeys(sorted(self._logged.difference(averages)), math.nan)
        self._logged.update(averages)
        self.log_dict({f"train/{name}": value for name, value in {**averages, **stopped}.items()})
        return loss_without_effect(self.parameters()) if self.skipped.reason else total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set learning rates of this step, or take its gradients away where something was not finite.

        Without gradients an optimizer changes nothing, its own state included. (A loss scaled for half floats overflows
        by design; its scaler has noticed that by now and lowers the scale.)
        """
        for group in optimizer.param_groups:
            if group.get("lr_schedule") is not None:
                group["lr"] = Schedule.parse(group["lr_schedule"])(self.global_step)
        norm, culprit = gradient_norm(self.named_parameters())
        self.skipped.reject(f"the gradient of '{culprit}' is not finite" if culprit else "")
        if self.skipped.end():
            norm = norm * torch.nan
            optimizer.zero_grad(set_to_none=True)
            self._say_skipped()
        self.log("train/grad_norm", norm)
        if self.skipped.total:
            self.log("train/skipped_steps", float(self.skipped.total))

    def _say_skipped(self) -> None:
        """Print a line on a skipped step, unless there were many."""
        if self.skipped.worth_saying:
            say(
                f"step {self.global_step}: skipped, since {self.skipped.reason}; skipped so far: {self.skipped.total}"
            )

    def configure_optimizers(self) -> "torch.optim.Optimizer | OptimizerLRSchedulerConfig | None":
        """Build the configured optimizer, and its scheduler; None where nothing is optimized."""
        optimizer = make_optimizer(self, self.config.optimizer)
        own = (
            {"params"} if self.config.scheduler is None else {"params", "lr"}
        )  # what a resumed run goes on with
        self._settings = [{k: v for k, v in g.items() if k not in own} for g in optimizer.param_groups]
        if self.config.scheduler is None:
            return optimizer
        if any("lr_schedule" in group for group in optimizer.param_groups):
            raise ConfigError("system.scheduler: a lr has a schedule of its own; expected one of the two")
        scheduler = make_scheduler(optimizer, self.config.scheduler)
        interval = self.config.scheduler.interval
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def validation_step(self, batch: E, batch_idx: int) -> None:
        """Validate in the first process; the others wait where they meet it again."""
        if ranks.rank() == 0:
            self.validate(batch, batch_idx)

    def test_step(self, batch: E, batch_idx: int) -> None:
        """Test in the first process."""
        if ranks.rank() == 0:
            self.test(batch, batch_idx)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def specs(self) -> dict[str, Spec]:
        """Return the components that this system is configured with."""
        return {key: value for key, value in vars(self.config).items() if isinstance(value, Spec)}

    def state_dict(  # type: ignore[override]  # torch's own signature
        self, *, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Return the weights that a checkpoint keeps: all but those of ``transient`` components."""
        full = super().state_dict(prefix=prefix, keep_vars=keep_vars)
        return {key: value for key, value in full.items() if key.split(".")[0] not in self.transient}

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Add what a checkpoint keeps beside weights and optimizer."""
        checkpoint["format"] = FORMAT
        checkpoint["system"] = {"class": type(self).__name__, "config": plain(self.config)}
        checkpoint["components"] = component_entries(self.specs())
        checkpoint["seed"] = self.seed
        checkpoint["skipped_steps"] = self.skipped.total
        checkpoint["training_states"] = {
            name: component.training_state() for name, component in self._transient_components()
        }

    def _transient_components(self) -> Iterator[tuple[str, Module]]:
        """Yield the components that no checkpoint has, as far as they are open."""
        components = ((name, getattr(self, name, None)) for name in sorted(self.transient))
        return ((name, component) for name, component in components if isinstance(component, Module))

    @override
    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> object:
        """Take the weights of a checkpoint. Raises ``UserError`` for those of another system."""
        modules = [(name, module) for name, module in self.named_modules() if isinstance(module, Module)]
        ragged = {f"{name}.{key}" for name, module in modules for key in module.ragged}
        check_weights(self.state_dict(), state_dict, type(self).__name__, ragged)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take weights and step from a loaded checkpoint, for testing and exporting."""
        self.load_state_dict(checkpoint["state_dict"])
        self._restored_step = int(checkpoint["global_step"])


SystemConfig = System.Config


def _is_below(key: str, module: str) -> bool:
    """Return whether a weight is a module's own."""
    return key == module or key.startswith(f"{module}.")


def check_weights(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str, ragged: Collection[str] = ()
) -> None:
    """Raise ``UserError`` when a checkpoint's weights are not those of this system; ``ragged`` have any length."""
    wrong = sorted(set(own) ^ set(given))
    if wrong:
        side = "lacks" if wrong[0] in own else "has"
        raise UserError(f"the checkpoint is of another system: it {side} {wrong[0]}, unlike this {name}")
    for key, value in given.items():
        first = 1 if key in ragged else 0
        if value.shape[first:] != own[key].shape[first:]:
            shapes = f"{list(value.shape)} there, {list(own[key].shape)} in this {name}"
            raise UserError(f"the checkpoint is of another configuration: {key} is {shapes}")
