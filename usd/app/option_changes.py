"""Options that change while a training runs: each change is written down, kept in checkpoints, and can be replayed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from usd.app.experiment import Trial
from usd.app.loop import Loop
from usd.core import files, ranks
from usd.core.config import Plain, plain
from usd.core.console import say
from usd.core.errors import UserError
from usd.system.live_options import LiveOption, change_option, live_options

RECORD = "option-changes.jsonl"


@dataclass(frozen=True)
class OptionChange:
    """An option, its new value as YAML writes it, and the first step that it holds for."""

    step: int
    key: str
    value: Plain
    was: Plain = None

    @classmethod
    def read(cls, entry: object, where: str) -> "OptionChange":
        """Return the change that a line of a record says. Raises ``UserError`` that starts with ``where``."""
        if not isinstance(entry, Mapping) or not {"step", "key", "value"} <= set(entry):
            raise UserError(f"{where}: is no change of an option; expected step, key and value")
        step, key = entry["step"], entry["key"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0 or not isinstance(key, str):
            raise UserError(f"{where}: step is {step!r} and key {key!r}; expected a number and a name")
        return cls(step, key, plain(entry["value"]), plain(entry.get("was")))


def read_changes(path: Path) -> list[OptionChange]:
    """Return the changes of a record, in its order. Raises ``UserError`` with file and line."""
    where = f"trainer.option_changes: {path}"
    if not path.is_file():
        raise UserError(f"{where}: no such file; expected the {RECORD} of a trial")
    lines = enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
    try:
        read = [(number, json.loads(line)) for number, line in lines if line.strip()]
    except ValueError as error:
        raise UserError(f"{where}: is not readable JSON, a line a change ({error})") from error
    return [OptionChange.read(entry, f"{where}: line {number}") for number, entry in read]


class OptionChanges(Callback):
    """Applies changes of options between steps, those of ``planned`` at their steps and others when asked to.

    A training that goes on from a checkpoint makes those before it again, first of all.
    """

    def __init__(self, trial: Trial, planned: Sequence[OptionChange] = ()) -> None:
        self.trial = trial
        self.planned = sorted(planned, key=lambda change: change.step)
        self.made: list[OptionChange] = []
        self._resumed: list[OptionChange] = []

    @override
    def state_dict(self) -> dict[str, object]:
        """Return the changes so far, for checkpoints; nothing where there were none."""
        return {"changes": [asdict(change) for change in self.made]} if self.made else {}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take the changes before a checkpoint."""
        entries = state_dict.get("changes")
        assert isinstance(entries, list)
        read = [OptionChange.read(entry, "the checkpoint's changes") for entry in entries]
        self.made, self._resumed = list(read), list(read)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the data's options before the first batch is drawn."""
        start = max((change.step for change in self.made), default=-1)
        self.planned = [change for change in self.planned if change.step > start]
        options = self.options(trainer) if self._resumed else {}
        for change in self._resumed:
            if change.key.startswith("data."):
                change_option(options, change.key, change.value, change.step)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Restore the other options before the first step; make the changes that are planned for this one."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        for change in self._resumed:
            if not change.key.startswith("data."):
                change_option(self.options(trainer), change.key, change.value, change.step)
        self._resumed = []
        while self.planned and self.planned[0].step <= trainer.global_step:
            change = self.planned.pop(0)
            self.make(trainer, change.key, change.value)

    def options(self, trainer: Trainer) -> dict[str, LiveOption]:
        """Return what may change in the training that runs."""
        loop = trainer.lightning_module
        assert isinstance(loop, Loop)
        return live_options(loop.system, loop.data, trainer.optimizers)

    def make(self, trainer: Trainer, key: str, value: object) -> None:
        """Change an option from this step on, say so and write it down. Raises ``UserError`` where it cannot be."""
        step = trainer.global_step
        was = change_option(self.options(trainer), key, value, step)
        self.made.append(OptionChange(step, key, plain(value), was))
        say(f"step {step}: {key} is {json.dumps(plain(value))}, was {json.dumps(was)}")
        if ranks.rank() == 0:
            lines = (json.dumps(asdict(change)) + "\n" for change in self.made)
            files.write_atomically(self.trial.folder / RECORD, "".join(lines))
