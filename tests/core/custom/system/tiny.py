"""A system that trains in milliseconds, for tests of the machinery around."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usd.core import ranks
from usd.core.config import Schedule, option
from usd.core.errors import UserError
from usd.core.module import Module
from usd.core.registry import register
from usd.math import rng
from usd.math.rng import BatchShare
from usd.system import System


class Counting(Module):
    """A network with a buffer that ``update`` changes, as an occupancy grid does."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.network = torch.nn.Linear(3, 1)
        self.register_buffer("grid", torch.zeros(5))

    def update(self, step: int, generator: torch.Generator) -> None:
        self.grid = 0.9 * self.grid + torch.rand(5, generator=generator)


@register("tiny-system")
class TinySystem(System):
    @dataclass(frozen=True)
    class Config(System.Config):
        target: float = option(1.0, "what every point should map to")
        weight: Schedule = option(1.0, "of the loss", ge=0)
        fail_at: int = option(-1, "step whose loss is not a number")
        fail_until: int = option(-1, "last of such steps, where there are several")
        break_at: int = option(-1, "step at which the process fails for a reason of its own")
        fail_in: int = option(0, "process in which it is not")
        pause: float = option(0.0, "seconds to wait in every step")

    config: Config
    shares_batches = True

    def build(self) -> None:
        self.geometry = Counting(self.config)

    def on_fit_start(self) -> None:
        self.guidance = torch.nn.Linear(2, 2).requires_grad_(False)

    def batch_share(self, batch: Any) -> Any:
        rows = BatchShare.of(len(batch.x), ranks.rank(), ranks.processes()).rows
        return replace(batch, x=batch.x[rows])

    def compute(self, batch: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = 0.1 * rng.normal(batch.x.shape, generator) + 0.01 * torch.randn(3)
        error = self.geometry.network(batch.x + noise) - self.config.target + self.geometry.grid.mean()
        if step == self.config.break_at and ranks.rank() == self.config.fail_in:
            raise UserError("this process has enough")
        c = self.config
        if c.fail_at >= 0 and c.fail_at <= step <= max(c.fail_at, c.fail_until) and ranks.rank() == c.fail_in:
            error = error * float("nan")
        time.sleep(self.config.pause)
        self.figures = {"grid": float(self.geometry.grid.mean())}
        above = error[error > 0]
        counted = ranks.mean_over(above.sum(), len(above))
        return {"square": self.config.weight(step) * error.square().mean(), "small": 0.1 * counted}

    def test(self, batch: Any, index: int) -> None:
        folder = self.save_dir / f"it{self.step}-test"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.txt").write_text(f"{self.geometry.network(batch.x).item():.6f}")

    def export(self, exporter: object, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.txt").write_text(str(self.geometry.network.weight.tolist()))
        return [folder / "weights.txt"]
