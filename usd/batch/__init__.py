"""Many objects over one machine or a cluster: one object a task, failures apart from one another, nothing done twice.

    usd batch pictures/ --config configs/usd-patch-mini.yaml [key=value ...]

Every object is a run of the launcher in a process of its own (``usd.batch.worker``), which a worker of Ray, or a thread
here, watches over (``usd.batch.launchers``). What an object's folder holds decides what is left to do: a finished one
is left alone, one that was cut off goes on from its last checkpoint.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["done", "failed", "crashed", "interrupted"]


@dataclass(frozen=True)
class Task:
    """One object: its name, what it is made of (a picture, or words) and how. Plain data: it travels.

    ``mesh`` is a file whose texture is made anew from the picture; empty where an object is made from nothing.
    ``problem`` says why nothing can be made of it, where that is known before it is tried.
    """

    name: str
    source: str
    folder: str
    configs: tuple[str, ...]
    overrides: tuple[str, ...]
    export: bool = True
    gpu: str | None = None
    threads: int = 1
    here: str = "."
    is_picture: bool = False
    problem: str = ""
    mesh: str = ""


@dataclass(frozen=True)
class Result:
    """The end of a task.

    ``failed``: by the user's doing, trying again is useless; ``interrupted``: asked to stop, with the step
    saved; ``crashed``: anything else.
    ``seconds`` are those of all attempts of this run of the batch; 0 where it was done before.
    """

    name: str
    status: Status
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""
    node: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def again(self) -> bool:
        """Return whether another attempt may help."""
        return self.status in ("crashed", "interrupted")


def log_of(task: Task) -> Path:
    """Return the path of the object's log: the output of all its processes."""
    return Path(task.folder) / "log.txt"
