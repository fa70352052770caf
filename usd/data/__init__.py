"""Data: batches as a function of (seed, step), so that a resumed run sees what an unbroken one would have seen."""

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from usd.core.errors import UserError
from usd.core.module import C, Component
from usd.core.random import generator

Split = Literal["val", "test"]


class Data(Component[C]):
    """Base of all data. A batch is any object with ``.to(device)``; it is never changed once made.

    Every process gets the whole batch; the system takes its part (``System.batch_share``).
    """

    workers: int = 0

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self.seed = 0

    def batch(self, step: int, generator: torch.Generator) -> Any:
        """The training batch of optimizer step ``step``; all randomness from ``generator`` (a CPU generator)."""
        raise NotImplementedError

    def eval_batches(self, split: Split) -> list[Any]:
        """The batches of a split: deterministic, the same at every call."""
        raise NotImplementedError

    def refuse_uneven(self, processes: int) -> None:
        """Raises ``UserError`` where that many processes cannot share every training batch."""
        raise UserError(f"--gpu: {type(self).__name__} makes batches for one process; expected one device")

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the data, under the name of its class."""
        return {}

    def prepare_data(self) -> None:
        """Makes what all processes read. One of them does it."""

    def setup(self, stage: str) -> None:
        """Reads what batches are made of. ``stage`` is fit, validate or test."""

    def train_dataloader(self, start: int = 0, times: int = 1) -> DataLoader:
        """Batches from step ``start`` on, each ``times`` times in a row."""
        return DataLoader(Steps(self, start, times), batch_size=None, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Listed(self.eval_batches("val")), batch_size=None)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(Listed(self.eval_batches("test")), batch_size=None)


class Steps(IterableDataset):
    """The endless sequence of training batches from step ``start`` on, in order whatever the number of workers.

    Each comes ``times`` times, for a system that works on a part of it at a time.
    """

    def __init__(self, data: Data, start: int, times: int = 1) -> None:
        self.data, self.start, self.times = data, start, times

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in itertools.count(first, stride):
            step = self.start + index // self.times
            yield self.data.batch(step, generator("cpu", self.data.seed, "data", 0, step))


class Listed(Dataset):
    """A list as a dataset."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]
