"""Checkpoints written by ``torch.save``: tensors are read, nothing in them is ever run.

Old checkpoints carry their trainer's own objects beside the weights (callbacks, settings). Those of known trainers are
replaced by empty ones; a file with any other object is refused, since a pickle can hold code.
"""

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import torch

from usd.core.errors import UserError

LOG = logging.getLogger(__name__)
TRAINERS = (
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
    "ldm",
    "numpy",
    "torchmetrics",
    "typing",
    "argparse",
)
PLAIN = (
    "collections.defaultdict",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    *(
        f"builtins.{name}"
        for name in ("object", "dict", "list", "tuple", "set", "int", "float", "str", "bool")
    ),
)
REFUSAL = re.compile(r"WeightsUnpickler error:\s*(.+)")


class EmptyObject:
    """Stands where a trainer's object stood. It takes whatever the file says about it and does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def empty_table(*_: object) -> dict[object, object]:
    """Return an empty table, to stand where one stood whose entries follow in the file."""
    return {}


def read_pickle(path: Path, zipped: bool) -> object:
    """Return what ``torch.save`` wrote, its tensors mapped from the file where it is ``zipped`` (as since 2020).

    Raises UserError for objects that are neither weights nor a known trainer's.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    foreign = [name for name in names if not _harmless(name)]
    if foreign:
        raise UserError(
            f"{path}: holds objects that are no weights ({', '.join(foreign[:3])}); refused, since such a file can "
            "run code. Expected tensors; a .safetensors file of the same model is safe"
        )
    if names:
        LOG.info("%s: ignored its trainer's objects (%s)", path.name, ", ".join(names))
    try:
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as problem:  # torch's own advice is to run what the file holds
        reason = REFUSAL.search(str(problem))
        raise UserError(
            f"{path}: cannot be read as weights: {reason[1][:200] if reason else 'it holds something else'}"
        ) from problem


def _stand_in(name: str) -> type[EmptyObject] | Callable[[Unpack[tuple[object, ...]]], dict[object, object]]:
    return empty_table if name.endswith("dict") else type("EmptyObject", (EmptyObject,), {})


def _harmless(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in TRAINERS or name in PLAIN
