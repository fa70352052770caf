"""What happens around a training step: checkpoints, Ctrl-C, and the line that shows how it goes."""

import sys
import time
from pathlib import Path

import psutil
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from usd.app import interrupts
from usd.app.experiment import CheckpointConfig, Trial
from usd.core import checkpoint, ranks
from usd.core.console import say_error
from usd.core.errors import UserError
from usd.core.progress import Work, clock


class Interrupted(BaseException):
    """The user pressed Ctrl-C; the state of the step that was running is saved."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints through ours: written whole or not at all, tensors and plain containers only."""

    @override
    def save_checkpoint(
        self, checkpoint_: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write a checkpoint to ``path``, whole or not at all."""
        checkpoint.save_atomic(checkpoint_, path)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        """Return the checkpoint in ``path``. Raises ``UserError`` where it cannot be read."""
        return dict(checkpoint.load(path))


class SafePoints(Callback):
    """Hands signals back to us, which Lightning takes at the start of a loop; stops between two views if asked to."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning before a training."""
        interrupts.current().listen()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning before a validation."""
        interrupts.current().listen()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning before a test."""
        interrupts.current().listen()

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Stop after this view if asked to, unless a training goes on, which saves first."""
        if not interrupts.current().patient:  # a training saves first
            interrupts.current().check()

    @override
    def on_test_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Stop after this view if asked to."""
        interrupts.current().check()


class Checkpoints(Callback):
    """Writes ``ckpts/epoch=0-step=<n>.ckpt`` and ``last.ckpt``: at the configured steps, at the end, when told to stop.

    Ctrl-C and SIGTERM (a job scheduler, ``docker stop``) let the step end and save it.
    """

    def __init__(self, trial: Trial, config: CheckpointConfig) -> None:
        self.trial = trial
        self.config = config
        self.stop = interrupts.current()
        self._saved_step = -1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn requests to stop into ones that wait until the step is saved."""
        self.stop = interrupts.current()
        self.stop.patient, self.stop.speaks = True, ranks.rank() == 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save what is due after this step; save and stop if any process was asked to."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients of a part of a batch are not saved: a checkpoint lies between steps
        step, config = trainer.global_step, self.config
        if config.every_n_train_steps and step % config.every_n_train_steps == 0:
            self.save_numbered(trainer)
        elif config.save_last and config.last_every_n_steps and step % config.last_every_n_steps == 0:
            self._save_last(trainer)
        if self._agreed_to_stop(trainer):
            self._save_and_stop(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if any process was asked to during the validation."""
        if not trainer.sanity_checking and self._agreed_to_stop(trainer):
            self._save_and_stop(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, if it is not saved yet, and let requests stop at once again."""
        if trainer.global_step != self._saved_step:
            self.save_numbered(trainer)
        self.stop.patient = False

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let requests to stop take effect at once again."""
        self.stop.patient = False

    def _agreed_to_stop(self, trainer: Trainer) -> bool:
        """Return whether any of the processes was asked to stop: all of them stop after the same step.

        The answer is not written back: a request that comes while they agree is heard after the next step.
        """
        asked = self.stop.asked
        return (
            asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)
        )

    def _save_and_stop(self, trainer: Trainer) -> None:
        self._save(trainer, self.trial.last)
        raise Interrupted

    def save_numbered(self, trainer: Trainer) -> None:
        """Write this step's numbered checkpoint and ``last.ckpt``, as far as the options want them."""
        self._saved_step = trainer.global_step
        if self.config.save_top_k != 0:
            self._save(trainer, self.trial.ckpts / f"epoch=0-step={trainer.global_step}.ckpt")
        if self.config.save_last:
            self._save_last(trainer)
        for old in self._superseded() if trainer.is_global_zero else []:
            old.unlink()

    def _save_last(self, trainer: Trainer) -> None:
        self._save(trainer, self.trial.last)

    def _save(self, trainer: Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)

    def _superseded(self) -> list[Path]:
        keep = self.config.save_top_k
        numbered = sorted(self.trial.ckpts.glob("epoch=*-step=*.ckpt"), key=_step_of)
        return numbered[:-keep] if keep > 0 else []


class SkippedStepsLimit(Callback):
    """Ends a training in which more than ``limit`` steps in a row were skipped; ``last.ckpt`` has the last good state.

    Raises UserError.
    """

    def __init__(self, trial: Trial, limit: int) -> None:
        self.trial, self.limit = trial, limit

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Raise ``UserError`` after ``last.ckpt`` is saved, if more than ``limit`` steps in a row were skipped."""
        skipped = getattr(pl_module, "skipped", None)
        if skipped is None or skipped.in_a_row <= self.limit:
            return
        trainer.save_checkpoint(self.trial.last)
        raise UserError(
            f"step {trainer.global_step - 1}: skipped {skipped.in_a_row} in a row, the last since {skipped.reason}; "
            "nothing of them reached the weights. Lower the learning rate, or set half_precision_weights: false"
        )


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("=")[2])


class ProgressLine(Callback):
    """Losses, step time, memory and time left: a bar in a terminal, a line every few seconds elsewhere."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        self.every_seconds = every_seconds
        self._work: Work | None = None
        self._begun = self._last_line = 0.0
        self._first_step = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and the bar where somebody sees it."""
        self._begun, self._first_step = time.monotonic(), trainer.global_step
        self._work = Work("training", trainer.max_steps, trainer.global_step)

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Show the progress: in the bar, or as a line when one is due."""
        if not trainer.is_global_zero:
            return
        if self._work is not None and self._work.is_shown:
            self._work.show(trainer.global_step, self._text(trainer))
        elif self._is_due(trainer):
            self._last_line = time.monotonic()
            left = self._seconds(trainer) * (trainer.max_steps - trainer.global_step)
            text = f"{self._text(trainer)}  {clock(left)} left"
            say_error(f"step {trainer.global_step}/{trainer.max_steps}  {text}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._close()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the test's views."""
        self._close()
        self._work = Work("test views", sum(map(int, trainer.num_test_batches)))

    @override
    def on_test_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Show how many of them are rendered."""
        if self._work is not None:
            self._work.step()

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that the error's message stands alone."""
        self._close()

    def _close(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None

    def _is_due(self, trainer: Trainer) -> bool:
        taken = trainer.global_step - self._first_step
        late = time.monotonic() - self._last_line > self.every_seconds
        return taken == 1 or late or trainer.global_step == trainer.max_steps

    def _seconds(self, trainer: Trainer) -> float:
        """Return the time that a step has taken on average."""
        return (time.monotonic() - self._begun) / max(1, trainer.global_step - self._first_step)

    def _text(self, trainer: Trainer) -> str:
        return f"{losses_text(trainer)}  {seconds_text(self._seconds(trainer))}/step  {memory_text()}"


def losses_text(trainer: Trainer) -> str:
    """Return the total loss and the losses it is the sum of, as text."""
    losses = getattr(trainer.lightning_module, "losses", {})
    return "  ".join(f"{name} {float(value):.4g}" for name, value in losses.items())


def peak_memory_gib() -> float:
    """Return the most memory in GiB that this process has held; where the system does not say, what it holds now."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().rss / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def memory_text() -> str:
    """Return the peak GPU memory where one is used, else this process's memory, as text in GiB."""
    used = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_initialized()
        else psutil.Process().memory_info().rss
    )
    return f"{used / 2**30:.1f} GiB"


def seconds_text(seconds: float) -> str:
    """Return a duration in seconds as text, in s or ms."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
