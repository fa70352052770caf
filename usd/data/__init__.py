"""Data: batches as a function of (seed, step), so that a resumed run sees what an unbroken one would have seen."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from usd.core.errors import UserError
from usd.core.module import C, Component
from usd.core.random import generator

Split = Literal["val", "test"]


@runtime_checkable
class Batch(Protocol):
    """The input of one step of a system: it moves to a device as a whole, and is never changed once made."""

    def to(self, device: "torch.device | str", /) -> "Batch":
        """Return the batch on another device."""


@dataclass(frozen=True)
class RunContext:
    """The run that a configuration is for, before anything is built: what ``Data.resolve`` may ask of it.

    ``estimate_elevation`` takes distance and vertical field of view (degrees) of the camera, and returns the elevation
    in degrees from which the reference picture was taken. It raises ``UserError``.
    """

    is_training: bool
    resume: Path | None
    estimate_elevation: Callable[[float, float], float]


class Data(Component[C]):
    """Base of all data.

    Every process gets the whole batch; the system takes its part (``System.batch_share``).
    """

    workers: int = 0

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self.seed = 0
        self._changes: list[tuple[int, C]] = []

    @property
    def latest_config(self) -> C:
        """The options in force after all changes so far."""
        return self._changes[-1][1] if self._changes else self.config

    def change_config(self, config: object, first_step: int) -> None:
        """Draw training batches from ``first_step`` on under other options of the same kind."""
        assert isinstance(config, type(self.config))
        self._changes.append((first_step, config))

    def training_batch(self, step: int) -> Batch:
        """Return the training batch of a step, under the options that are in force then."""
        due = [config for first, config in self._changes if first <= step]
        self.config = due[-1] if due else self.config
        return self.batch(step, generator("cpu", self.seed, "data", 0, step))

    @classmethod
    def resolve(cls, config: object, context: RunContext) -> object:  # noqa: ARG003 - for overrides
        """Return the options with what is to be found out once, when a run starts, in the place of ``auto``."""
        return config

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        """Return the training batch of optimizer step ``step``; all randomness from the CPU ``generator``."""
        raise NotImplementedError

    def eval_batches(self, split: Split) -> Sequence[Batch]:
        """Return the batches of a split: deterministic, the same at every call."""
        raise NotImplementedError

    def refuse_uneven(self, processes: int) -> None:
        """Raise ``UserError`` where that many processes cannot share every training batch."""
        raise UserError(
            f"--gpu: {type(self).__name__} makes batches for one process, not for {processes}; expected one device"
        )

    def state_dict(self) -> dict[str, object]:
        """Return what checkpoints keep of the data, under the name of its class."""
        return {}

    def prepare_data(self) -> None:
        """Make what all processes read. One of them does it."""

    def setup(self, stage: str) -> None:
        """Read what batches are made of. ``stage`` is fit, validate or test."""

    def train_dataloader(self, start: int = 0, times: int = 1) -> DataLoader:
        """Return batches from step ``start`` on, each ``times`` times in a row."""
        return DataLoader(StepDataset(self, start, times), batch_size=None, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the batches of the validation split."""
        return DataLoader(ListDataset(self.eval_batches("val")), batch_size=None)

    def test_dataloader(self) -> DataLoader:
        """Return the batches of the test split."""
        return DataLoader(ListDataset(self.eval_batches("test")), batch_size=None)


class StepDataset(IterableDataset):
    """The endless sequence of training batches from step ``start`` on, in order whatever the number of workers.

    Each comes ``times`` times, for a system that works on a part of it at a time.
    """

    def __init__(self, data: Data, start: int, times: int = 1) -> None:
        self.data, self.start, self.times = data, start, times

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in itertools.count(first, stride):
            step = self.start + index // self.times
            yield self.data.training_batch(step)


class ListDataset(Dataset):
    """A list as a dataset."""

    def __init__(self, items: Sequence[Batch]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.items[index]
