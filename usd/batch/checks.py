"""Checks of a task before its turn comes: its options are parsed and its sentence is read, without any weights."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from usd.batch import Task
from usd.batch.worker import configuration
from usd.core import loading
from usd.core.config import Spec
from usd.core.errors import ConfigError
from usd.core.registry import build

if TYPE_CHECKING:
    from usd.app.stages import Plan

MESH_OPTION = "system.geometry.shape_init"
OWN_STAGE = "stages.object: "
"""Prefix of errors in a recipe without stages, which its task puts into one."""


def check_task(task: Task) -> None:
    """Raise ``UserError`` where a task's options are not its recipe's, or its model cannot read its sentence.

    Nothing is written to the task's folder, and no model is fetched: a sentence is read where the model is on this
    disk.
    """
    planned = parsed_stages(task)
    if not task.is_picture:
        check_sentence(planned)


def parsed_stages(task: Task) -> "list[Plan]":
    """Return the stages of a task, parsed. Raises ``ConfigError`` for options that its recipe does not have."""
    from usd.app.stages import plans

    mesh = [loading.override(MESH_OPTION, f"mesh:{task.mesh}")] if task.mesh else []
    with tempfile.TemporaryDirectory(prefix="usd-check-") as folder:
        here = replace(task, folder=str(Path(folder, *Path(task.folder).parts[-2:])))
        try:
            return plans([configuration(here)], [*task.overrides, *mesh])
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix(OWN_STAGE)) from error


def check_sentence(planned: "Sequence[Plan]") -> None:
    """Raise ``UserError`` where the prompt processor of a training cannot read its prompt."""
    from usd.prompt_processor import PromptProcessor

    for plan in planned:
        prompts = getattr(plan.experiment.system.config, "prompt_processor", None)
        if plan.mode == "train" and isinstance(prompts, Spec):
            build(prompts, PromptProcessor).check_prompt()
