"""Checkpoints: tensors and plain containers only, written whole or not at all.

A checkpoint is a dict with at least ``format`` (this project's, below), ``global_step``, ``state_dict`` and
``components``: for every part of the system its kind, registered name and configuration, so that a later stage
can rebuild one of them without the experiment that made it.
"""

import errno
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usd.core import registry
from usd.core.config import Spec, plain, spec
from usd.core.errors import UserError, did_you_mean, listing

FORMAT = "usd-1"


@dataclass(frozen=True)
class Part:
    """One component of a checkpoint: its spec, its weights (keys without the component's own prefix) and the step."""

    spec: Spec
    weights: dict[str, Tensor]
    step: int


def save_atomic(obj: Mapping[str, Any], path: "Path | str") -> None:
    """Writes beside ``path``, flushes to disk, then renames: ``path`` holds the old or the new content, never half.

    Raises ``UserError`` when the disk is full or the folder cannot be written; the old file is then intact.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            torch.save(dict(obj), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: could not be written ({_reason(error)}); what was there before is intact"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """torch reports a full disk as a RuntimeError of its zip writer; its cause or context may hold the OSError."""
    chain = [error, error.__cause__, error.__context__]
    full = any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain)
    if full or "PytorchStreamWriter" in str(error):
        return "no space left on the device"
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def load(path: "Path | str", map_location: "str | torch.device" = "cpu") -> dict[str, Any]:
    """The checkpoint at ``path``. Raises ``UserError`` when it is missing, truncated or not one of ours."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint{_nearby(path)}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: truncated, or not a checkpoint; use an earlier one")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a checkpoint of this project (it holds more than tensors)") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: truncated, or not a checkpoint; use an earlier one") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project")
    return content


def _nearby(path: Path) -> str:
    others = [file.name for file in path.parent.glob("*.ckpt")] if path.parent.is_dir() else []
    return f"; there is {listing(others)}" if others else ""


def describe(specs: Mapping[str, Spec]) -> dict[str, dict[str, Any]]:
    """The ``components`` entry of a checkpoint."""
    return {key: {"kind": s.kind, "name": s.name, "config": plain(s.config)} for key, s in specs.items()}


def differences(saved: Mapping[str, Any], specs: Mapping[str, Spec]) -> dict[str, tuple[Any, Any]]:
    """Options that differ between a checkpoint's ``components`` and ``specs``: key -> (then, now)."""
    then, now = (dict(_leaves(entries, "")) for entries in (saved, describe(specs)))
    return {key: (then[key], now[key]) for key in now if key in then and then[key] != now[key]}


def _leaves(entries: Any, path: str) -> Iterator[tuple[str, Any]]:
    for key, value in entries.items():
        name = {"config": path, "name": f"{path}_type"}.get(key, f"{path}.{key}" if path else key)
        yield from _leaves(value, name) if isinstance(value, Mapping) else [(name, value)]


def part(checkpoint: Mapping[str, Any], name: str) -> Part:
    """The component ``name`` (``geometry``, ``material``, ...) of a loaded checkpoint. Raises ``UserError``."""
    known = checkpoint["components"]
    if name not in known:
        raise UserError(f"the checkpoint has no {name}; it has {listing(known)}.{did_you_mean(name, known)}")
    entry = known[name]
    prefix = f"{name}."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return Part(_spec_of(entry, name), weights, int(checkpoint["global_step"]))


def _spec_of(entry: Any, name: str) -> Spec:
    """The spec that one entry of ``components`` stands for. Raises ``UserError`` for one that is no such entry."""
    fields = [entry.get(key) for key in ("kind", "name")] if isinstance(entry, Mapping) else []
    if len(fields) != 2 or not all(isinstance(field, str) for field in fields):
        raise UserError(f"the checkpoint does not say what its {name} is; expected its kind, name and config")
    if name in registry.KINDS and fields[0] != name:
        raise UserError(f"the checkpoint's {name} is said to be a {fields[0]}; expected a {name}")
    try:
        return spec(fields[0], fields[1], entry.get("config"), name)
    except UserError as error:
        raise UserError(f"the checkpoint's {error}") from error
