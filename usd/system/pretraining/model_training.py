"""Base of the systems that train the embedded diffusion family: a running average of weights, and publishing."""

import copy
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import TypeVar, override

from usd.core import ranks
from usd.core.config import option
from usd.core.places import output
from usd.data.pictures import contact_sheet, write_picture
from usd.system import B, E, System

M = TypeVar("M", bound="TrainingConfig", default="TrainingConfig", covariant=True)
N = TypeVar("N", bound=nn.Module, default=nn.Module)


class ModelTraining(System[M, B, E], Generic[M, B, E, N]):
    """Base that trains a network N, ``self.network``, and keeps its running mean, ``self.average``.

    The mean is what is validated and published.

    A subclass makes ``network`` in ``build_network``, losses in ``compute``, figures and sheets in ``validate``, and
    writes diffusers or transformers folders in ``publish``.
    """

    @dataclass(frozen=True)
    class Config(System.Config):
        """Options of every training of a network."""

        ema_decay: float = option(0.999, "decay of the running average of weights, per step", ge=0, lt=1)
        bf16: bool = option(True, "compute in bfloat16 where that is safe (weights stay float32)")
        publish_to: str | None = option(
            None, "folder that finished weights are written to; relative to the working directory"
        )

    network: N
    average: N
    averaged_steps: Tensor

    def build(self) -> None:
        """Build the network and its average."""
        self.network = self.build_network()
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.register_buffer("averaged_steps", torch.zeros((), dtype=torch.long))

    def build_network(self) -> N:
        """Build the network as its training starts."""
        raise NotImplementedError

    def publish(self, folder: Path) -> None:
        """Write ``self.average`` as ordinary model folders below ``folder``."""
        raise NotImplementedError

    def autocast(self) -> AbstractContextManager:
        """Return a context in which networks compute in bfloat16, if that is wanted."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    @override
    @torch.no_grad()
    def on_train_batch_end(self) -> None:
        """Move the running average; early on it forgets faster, so that it never remembers the beginning."""
        self.averaged_steps += 1
        n = int(self.averaged_steps)
        decay = min(self.config.ema_decay, (1 + n) / (10 + n))
        for kept, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)
        for copied, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            copied.copy_(buffer)

    def on_validation_epoch_end(self) -> None:
        """Write the average below the trial."""
        self._write(self.save_dir / "model")

    def on_fit_end(self) -> None:
        """Write the average where it is published."""
        if self.config.publish_to:
            self._write(output(self.config.publish_to))

    def _write(self, folder: Path) -> None:
        """Publish to a folder, in the first process."""
        if ranks.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self.publish(folder)

    def log_validation(self, figures: dict[str, float]) -> None:
        """Log validation figures under ``val/``."""
        self.log_dict({f"val/{name}": value for name, value in figures.items()})

    def sheet_path(self, name: str) -> Path:
        """Return the file of a sheet of this step."""
        self.save_dir.mkdir(parents=True, exist_ok=True)
        return self.save_dir / f"it{self.global_step:06d}-{name}.png"


TrainingConfig = ModelTraining.Config

Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class Saveable(Protocol):
    """A model of diffusers or transformers."""

    def to(self, dtype: torch.dtype) -> "Saveable":
        """Convert the weights."""

    def save_pretrained(self, folder: Path) -> object:
        """Write the model to a folder."""


def write_rows(rows: list[Float[Tensor, "N 3 H W"]], path: Path) -> None:
    """Write rows of equally many pictures in [0, 1] as one PNG."""
    write_picture(path, contact_sheet(torch.cat([row.float() for row in rows]), len(rows[0])))


def half(module: Network) -> Network:
    """Return a float16 copy for storing."""
    return copy.deepcopy(module).to(torch.float16)


def save_half(module: Saveable, folder: Path) -> None:
    """Store a model of diffusers or transformers in float16, without the path that it was once read from."""
    copy.deepcopy(module).to(torch.float16).save_pretrained(folder)
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
    path.write_text(json.dumps(config, indent=2) + "\n")
