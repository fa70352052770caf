"""Lightning's loops around a system and its data. The only class of ours that Lightning knows as a module."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from usd.core.checkpoint import Checkpoint
from usd.data import Data
from usd.system import System
from usd.system.skipped import SkippedSteps


class Loop(LightningModule):
    """Hands every hook to the system and takes every batch from the data. Checkpoints hold the system's own names."""

    def __init__(self, system: System, data: Data) -> None:
        super().__init__()
        self.system, self.data = system, data

    @property
    def losses(self) -> Mapping[str, float]:
        """Losses of the last step, for the progress line."""
        return self.system.losses

    @property
    def skipped(self) -> SkippedSteps:
        """Steps that something not finite cost, for the callback that ends a training stuck in them."""
        return self.system.skipped

    def setup(self, stage: str) -> None:
        """Attach the system to the trainer and its data, then prepare the data for ``stage``."""
        self.system.attach(self.trainer, self.data)
        self.data.setup(stage)

    def prepare_data(self) -> None:
        """Let the data module prepare its files, once per machine."""
        self.data.prepare_data()

    # ------------------------------------------------------------------------------------------------- batches

    def train_dataloader(self) -> DataLoader:
        """Return the training batches from the current step on."""
        return self.data.train_dataloader(self.trainer.global_step, self.trainer.accumulate_grad_batches)

    def val_dataloader(self) -> DataLoader:
        """Return the validation views."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> DataLoader:
        """Return the test views."""
        return self.data.test_dataloader()

    # --------------------------------------------------------------------------------------------------- hooks

    def configure_model(self) -> None:
        """Let the system build what needs the device."""
        self.system.configure_model()

    def configure_optimizers(self) -> torch.optim.Optimizer | OptimizerLRSchedulerConfig | None:
        """Return the system's optimizer, with its schedule where it has one."""
        return self.system.configure_optimizers()

    def on_fit_start(self) -> None:
        """Pass the start of the fit on to the system."""
        self.system.on_fit_start()

    def on_fit_end(self) -> None:
        """Pass the end of the fit on to the system."""
        self.system.on_fit_end()

    def on_train_start(self) -> None:
        """Pass the start of the training on to the system."""
        self.system.on_train_start()

    @override
    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Pass a batch's start on to the system."""
        self.system.on_train_batch_start(batch_idx)

    @override
    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Pass a batch's end on to the system."""
        self.system.on_train_batch_end()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Pass the gradients, before the optimizer uses them, on to the system."""
        self.system.on_before_optimizer_step(optimizer)

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take an optimizer step, and let the system follow it up."""
        step = self.trainer.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.system.after_optimizer_step(step)

    def on_validation_epoch_end(self) -> None:
        """Pass the end of a validation on to the system."""
        self.system.on_validation_epoch_end()

    def on_test_epoch_start(self) -> None:
        """Pass the start of a test on to the system."""
        self.system.on_test_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Pass the end of a test on to the system."""
        self.system.on_test_epoch_end()

    @override
    def training_step(self, batch: object, batch_idx: int) -> Float[Tensor, ""] | None:
        """Return the system's loss of a batch; None skips the step."""
        return self.system.training_step(batch)

    def validation_step(self, batch: object, batch_idx: int) -> None:
        """Let the system render a validation view."""
        self.system.validation_step(batch, batch_idx)

    def test_step(self, batch: object, batch_idx: int) -> None:
        """Let the system render a test view."""
        self.system.test_step(batch, batch_idx)

    # --------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Add the state of the system and of the data to a checkpoint."""
        self.system.on_save_checkpoint(cast(Checkpoint, checkpoint))
        if state := self.data.state_dict():
            checkpoint[type(self.data).__qualname__] = state

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Restore the system from a checkpoint."""
        self.system.on_load_checkpoint(cast(Checkpoint, checkpoint))

    def state_dict(self, **arguments: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401 - torch's own signature
        """Return the system's state, whose keys do not name this module."""
        return self.system.state_dict(**arguments)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> object:
        """Load a state into the system."""
        return self.system.load_state_dict(state_dict, strict, assign)
