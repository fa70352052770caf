"""A training in the browser: the callback between the training loop and the viewer, which it never waits for.

Everything is done between two steps: what people ask for on the page, and pictures, within a share of the time. With
several processes the first one serves the page, and what concerns all of them is agreed on at the end of a step.
"""

import time
from functools import partial
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from usd.app import interrupts
from usd.app.callbacks import Checkpoints, losses_text, seconds_text
from usd.app.experiment import Experiment
from usd.app.loop import Loop
from usd.app.open_viewer import NAP, open_viewer
from usd.app.option_changes import OptionChanges
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.progress import clock
from usd.data import Data
from usd.data.random_camera import CameraBatch, RandomCameras
from usd.data.views import ViewsData
from usd.math.camera import Cameras
from usd.system.scene import SceneSystem
from usd.viewer.server import require_viser
from usd.viewer.session import SHARED, Request, Subject

if TYPE_CHECKING:  # the library behind the page is an extra
    from usd.viewer.viewer import Viewer

CAMERA_SECONDS = 1.0


class LiveViewer(Callback):
    """Shows the training in the browser, and does between two steps what is asked for there."""

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints, changes: OptionChanges) -> None:
        require_viser()
        self.experiment, self.checkpoints, self.changes = experiment, checkpoints, changes
        self.options = experiment.viewer
        self.viewer: Viewer | None = None
        self.paused = self.options.start_paused
        self._began, self._waited, self._first_step, self._cameras_at = 0.0, 0.0, 0, 0.0
        self._is_first = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the page in the first process, or go on with it after an earlier stage."""
        self._began, self._first_step, self._is_first = time.monotonic(), trainer.global_step, True
        loop = trainer.lightning_module
        assert isinstance(loop, Loop)
        if not trainer.is_global_zero:
            return
        if not isinstance(loop.system, SceneSystem):
            say(f"note: --viewer: {type(loop.system).__name__} trains no object to look at")
            return
        self.viewer = open_viewer(self.options)
        subject = subject_of(self.experiment, loop.system, loop.data)
        panel = self.viewer.open(self.experiment.name, subject, training=True)
        panel.show_options(self.changes.options(trainer))
        panel.show_paused(self.paused)
        if self.paused:
            say("viewer: paused before the first step; resume on the page")

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Wait before the first step, where it starts paused."""
        if self._is_first:
            self._is_first = False
            self._serve(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Do what is asked for, and a piece of a picture."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.viewer is not None:
            loop = trainer.lightning_module
            assert isinstance(loop, Loop)
            with self.viewer.session.charged():
                self.viewer.history.add(trainer.global_step, loop.losses)
                self._note_cameras(batch)
        self._serve(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Answer the page between two validation views."""
        if self.viewer is not None:
            self.viewer.work()

    @override
    def on_test_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Answer the page between two test views."""
        if self.viewer is not None:
            self.viewer.work()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish what was asked for, and say that it is done."""
        if self.viewer is not None:
            self.viewer.finish_video()
        if self.viewer is not None and self.viewer.panel is not None:
            self.viewer.panel.show_finished()
            self.viewer.panel.status.content = f"**finished** at step {trainer.global_step}"

    def _note_cameras(self, batch: object) -> None:
        """Keep the cameras of a training batch for the page, about once a second."""
        assert self.viewer is not None
        subject = self.viewer.session.subject
        if subject is None or time.monotonic() - self._cameras_at < CAMERA_SECONDS:
            return
        self._cameras_at = time.monotonic()
        if isinstance(batch, CameraBatch):
            subject.cameras["training"] = batch.cameras
            if self.viewer.panel is not None:
                self.viewer.panel.refresh_cameras("training")

    # ------------------------------------------------------------------------------------------------- requests

    def _serve(self, trainer: Trainer) -> None:
        """Carry out requests until the training may go on."""
        goes_on = False
        while not goes_on:
            requests, goes_on = self._agreed(trainer)
            for request in requests:
                self._carry_out(trainer, request)

    def _agreed(self, trainer: Trainer) -> tuple[list[Request], bool]:
        """Return what all processes do now, and whether the next step comes after it: as the first one decides."""
        decided = self._decide(trainer) if trainer.is_global_zero else ([], True)
        if trainer.world_size == 1:
            return decided
        told: list[tuple[list[Request], bool]] = [decided]
        torch.distributed.broadcast_object_list(told, 0)
        return told[0]

    def _decide(self, trainer: Trainer) -> tuple[list[Request], bool]:
        """Answer the page, while the training is paused for as long as nothing else is to be done."""
        if self.viewer is None:
            return [], True
        while True:
            shared = [request for request in self.viewer.requests() if not self._did(request)]
            self.viewer.tell(partial(self._status, trainer))
            if not self.paused or interrupts.current().asked or self.viewer.closed:
                self.viewer.work()
                return shared, True
            if shared:
                return shared, False
            began = time.monotonic()
            if not self.viewer.work(free=True):
                time.sleep(NAP)
            self._waited += time.monotonic() - began

    def _did(self, request: Request) -> bool:
        """Pause or go on; return whether this was asked for, or anything else that concerns this process alone."""
        if request.kind in ("pause", "resume"):
            self.paused = request.kind == "pause"
            if self.viewer is not None and self.viewer.panel is not None:
                self.viewer.panel.show_paused(self.paused)
        return request.kind not in SHARED

    def _carry_out(self, trainer: Trainer, request: Request) -> None:
        """Save, end or change the training."""
        if request.kind == "save":
            self.checkpoints.save_numbered(trainer)
            self._tell(f"saved step {trainer.global_step}")
        elif request.kind == "stop":
            trainer.should_stop, self.paused = True, False
            say(f"viewer: ends at step {trainer.global_step}")
        else:
            try:
                self.changes.make(trainer, request.key, request.value)
                self._tell(f"{request.key} is {request.value} from step {trainer.global_step} on")
            except UserError as error:
                self._tell(str(error))

    def _tell(self, text: str) -> None:
        if self.viewer is not None:
            self.viewer.stage.say(text)

    def _status(self, trainer: Trainer) -> str:
        taken = trainer.global_step - self._first_step
        seconds = (time.monotonic() - self._began - self._waited) / max(1, taken)
        left = clock(seconds * (trainer.max_steps - trainer.global_step))
        state = "**paused**" if self.paused else f"{seconds_text(seconds)} a step, {left} left"
        return f"step **{trainer.global_step}** / {trainer.max_steps} · {state}\n\n{losses_text(trainer)}"


def subject_of(experiment: Experiment, system: SceneSystem, data: Data) -> Subject:
    """Return what the viewer needs to know of an experiment with an object."""
    return Subject(system, system.save_dir, experiment.exporter, named_cameras(data), device=system.device)


def named_cameras(data: Data) -> dict[str, Cameras]:
    """Return the cameras that data knows before a training begins, by name."""
    if isinstance(data, ViewsData):
        return {"training": data.train_views.cameras}
    if not isinstance(data, RandomCameras):
        return {}
    found: dict[str, Cameras] = {}
    reference = data.reference()
    if reference is not None:
        found["reference"] = reference
    found["evaluation"] = data.eval_batches("val")[0].cameras
    return found
