"""Checkpoints: tensors and plain containers only, written whole or not at all, and checked when they are read.

A checkpoint is a dict with at least ``format`` (this project's, below), ``global_step``, ``state_dict`` and
``components``: for every component of the system its kind, registered name and configuration, so that a later stage
can rebuild one of them without the experiment that made it.
"""

import errno
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Required, TypedDict, cast

import torch
from torch import Tensor

from usd.core import files, registry
from usd.core.config import Plain, Spec, plain, spec
from usd.core.errors import UserError, did_you_mean, listing

FORMAT = "usd-1"
UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    KeyError,
    ValueError,
    IndexError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class SavedComponent:
    """One component of a checkpoint: its spec, its weights (keys without the component's own prefix) and the step."""

    spec: Spec
    weights: dict[str, Tensor]
    step: int


def save_atomic(obj: Mapping[str, object], path: "Path | str") -> None:
    """Write beside ``path``, flush to disk, then rename: ``path`` holds the old or the new content, never half.

    Raises ``UserError`` when a weight is not finite, the disk is full or the folder cannot be written; the old file
    is then intact.
    """
    path = Path(path)
    _refuse_infinite(obj, path)
    try:
        with files.replace_atomically(path) as partial, open(partial, "wb") as file:
            writer = _ChecksumWriter(file)
            torch.save(dict(obj), writer)  # type: ignore[arg-type]  # it needs write and flush only
            file.seek(-len(NO_COMMENT), os.SEEK_END)
            file.write(_comment(writer.crc))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: could not be written ({_reason(error)}); what was there before is intact"
        ) from error


def _refuse_infinite(obj: Mapping[str, object], path: Path) -> None:
    """Raise ``UserError`` that names the first weights which are not finite."""
    weights = obj.get("state_dict")
    for name, value in weights.items() if isinstance(weights, Mapping) else ():
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise UserError(
                f"step {obj.get('global_step')}: {count} of {value.numel()} weights of '{name}' are not finite, so "
                f"{path.name} is not written; expected a lower learning rate or more precision"
            )


def _reason(error: BaseException) -> str:
    """Return why a checkpoint was not written.

    torch reports a full disk as a RuntimeError of its zip writer, whose cause or context may hold the OSError.
    """
    chain = [error, error.__cause__, error.__context__]
    full = any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain)
    if full or "PytorchStreamWriter" in str(error):
        return "no space left on the device"
    if "unexpected pos" in str(error):  # torch's zip writer, of a file that takes no more
        return "no space left on the device, or files of that size are not allowed (ulimit -f)"
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


# ---------------------------------------------------------------------------------------------------------- checksum

# A checkpoint is a zip file, and the checksum of all its bytes is the comment that a zip file may end in: torch and
# other programs read the file as before. Files of 0.1.0 have none; of those the checksum of each zip entry is checked,
# which torch writes but does not check.

CHECKSUM = b"usd-crc32:"
NO_COMMENT = b"\0\0"  # how a zip file without a comment ends: its length
END_MARK, END_RECORD = (
    b"PK\5\6",
    22,
)  # how the last record of a zip file begins, and its bytes without a comment


class _ChecksumWriter:
    """A file that torch writes to, from start to end, and the CRC-32 of what it wrote."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.crc = 0

    def write(self, data: "bytes | memoryview") -> int:
        """Write ``data``; return how many bytes that were."""
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.file.flush()


def _comment(crc: int) -> bytes:
    """Return the comment of a zip file with its length before it."""
    text = CHECKSUM + f"{crc:08x}".encode()
    return len(text).to_bytes(2, "little") + text


def _refuse_broken(path: Path) -> None:
    """Raise ``UserError`` where the bytes of a file are not those of a checkpoint as it was written."""
    try:
        whole = zipfile.is_zipfile(path) and _is_whole(path)
    except UNREADABLE as error:
        raise UserError(f"{path}: truncated, or not a checkpoint; use an earlier one") from error
    if not whole:
        raise UserError(f"{path}: truncated, or not a checkpoint; use an earlier one")


def _is_whole(path: Path) -> bool:
    """Return whether a zip file ends as a checkpoint does. Raises ``UserError`` for another checksum."""
    length = len(_comment(0))
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_RECORD - length))
        end = file.read()
        if end[-END_RECORD:].startswith(END_MARK) and end.endswith(NO_COMMENT):  # written by 0.1.0
            damaged = zipfile.ZipFile(file).testzip() is not None
        elif re.fullmatch(re.escape(_comment(0)[:-8]) + rb"[0-9a-f]{8}", end[-length:]):
            damaged = end[-length:] != _comment(zlib.crc32(NO_COMMENT, _crc_of(file, size - length)))
        else:
            return False
    if damaged:
        raise UserError(f"{path}: damaged (its checksum is not that of its content); use an earlier one")
    return True


def _crc_of(file: IO[bytes], size: int) -> int:
    """Return the CRC-32 of the first ``size`` bytes."""
    file.seek(0)
    crc, left = 0, size
    while left and (block := file.read(min(left, 1 << 20))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


# ----------------------------------------------------------------------------------------------------------- reading


class ComponentEntry(TypedDict):
    """One entry of a checkpoint's ``components``."""

    kind: str
    name: str
    config: Plain


class Checkpoint(TypedDict, total=False):
    """A checkpoint's content. The first four entries are always there; a trained one has Lightning's, too."""

    format: Required[str]
    global_step: Required[int]
    state_dict: Required[dict[str, Tensor]]
    components: Required[dict[str, ComponentEntry]]
    system: dict[str, object]
    seed: int
    skipped_steps: int
    training_states: dict[str, dict[str, object]]
    optimizer_states: list[dict[str, object]]
    lr_schedulers: list[object]
    loops: dict[str, object]


class ForeignCheckpointError(UserError):
    """A whole checkpoint, but not one of this project."""


def _other_program(content: object) -> str:
    """Return what to do with a checkpoint of threestudio's."""
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not any(str(key).startswith("geometry.") for key in weights):
        return ""
    return (
        ", but of threestudio's: a new training starts from it with system.weights, or with"
        " system.geometry_convert_from (docs/from-threestudio.md)"
    )


def load(path: "Path | str", map_location: "str | torch.device" = "cpu") -> Checkpoint:
    """Return the checkpoint at ``path``.

    Raises ``UserError`` when it is missing, truncated or damaged, ``ForeignCheckpointError`` when not one of ours.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such checkpoint{_nearby(path)}")
    _refuse_broken(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignCheckpointError(
            f"{path}: not a checkpoint of this project (it holds more than tensors)"
        ) from error
    except UNREADABLE as error:
        raise UserError(f"{path}: truncated, or not a checkpoint; use an earlier one") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ForeignCheckpointError(f"{path}: not a checkpoint of this project{_other_program(content)}")
    _refuse_incomplete(content, path)
    return cast(Checkpoint, content)


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a path means: itself, or the last one of a trial's folder. Raises ``UserError``."""
    if not path.is_dir():
        return path
    for candidate in (path / "ckpts" / "last.ckpt", path / "last.ckpt"):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path} is a folder without ckpts/last.ckpt; expected a checkpoint or a trial")


def _refuse_incomplete(content: Mapping[str, object], path: Path) -> None:
    """Raise ``UserError`` where an entry that is read later is missing, or is not what it should be."""
    step, weights, components = (content.get(key) for key in ("global_step", "state_dict", "components"))
    if not isinstance(step, int) or step < 0:
        raise UserError(f"{path}: does not say its step; expected global_step, a number of optimizer steps")
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path}: holds no weights; expected state_dict, tensors by name")
    if not isinstance(components, Mapping):
        raise UserError(f"{path}: does not say what it is made of; expected components")


def refuse_unresumable(content: Checkpoint, path: "Path | str") -> None:
    """Raise ``UserError`` where a loaded checkpoint lacks what training needs to go on, beyond its weights."""
    expected = {
        "optimizer_states": list,
        "lr_schedulers": list,
        "loops": Mapping,
        "pytorch-lightning_version": str,
    }
    wrong = [key for key, kind in expected.items() if not isinstance(content.get(key), kind)]
    states = content.get("optimizer_states", [])
    if wrong or "fit_loop" not in content["loops"] or not all(isinstance(state, Mapping) for state in states):
        missing = listing(wrong) if wrong else "the state of the optimizer or of its loops"
        raise UserError(
            f"{path}: training cannot go on from it, it lacks {missing}; it can only be tested and exported"
        )


def _nearby(path: Path) -> str:
    others = [file.name for file in path.parent.glob("*.ckpt")] if os.path.isdir(path.parent) else []
    return f"; there is {listing(others)}" if others else ""


def component_entries(specs: Mapping[str, Spec]) -> dict[str, ComponentEntry]:
    """Return the ``components`` entry of a checkpoint."""
    return {key: ComponentEntry(kind=s.kind, name=s.name, config=plain(s.config)) for key, s in specs.items()}


def differences(
    saved: Mapping[str, ComponentEntry], specs: Mapping[str, Spec]
) -> dict[str, tuple[object, object]]:
    """Return options that differ between a checkpoint's ``components`` and ``specs``: key -> (then, now)."""
    then, now = (dict(_options(entries, "")) for entries in (saved, component_entries(specs)))
    return {key: (then[key], now[key]) for key in now if key in then and then[key] != now[key]}


def _options(entries: Mapping[str, object], path: str) -> Iterator[tuple[str, object]]:
    """Yield key and value of every option below entries of ``components``."""
    for key, value in entries.items():
        name = {"config": path, "name": f"{path}_type"}.get(key, f"{path}.{key}" if path else key)
        yield from _options(value, name) if isinstance(value, Mapping) else [(name, value)]


def saved_component(checkpoint: Checkpoint, name: str) -> SavedComponent:
    """Return the component ``name`` (``geometry``, ``material``, ...) of a checkpoint. Raises ``UserError``."""
    known = checkpoint["components"]
    if name not in known:
        raise UserError(f"the checkpoint has no {name}; it has {listing(known)}.{did_you_mean(name, known)}")
    prefix = f"{name}."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return SavedComponent(_spec_of(known[name], name), weights, int(checkpoint["global_step"]))


def _spec_of(entry: object, name: str) -> Spec:
    """Return the spec of one entry of ``components``. Raises ``UserError`` for one that is no such entry."""
    said = entry if isinstance(entry, Mapping) else {}
    kind, registered = said.get("kind"), said.get("name")
    if not isinstance(kind, str) or not isinstance(registered, str):
        raise UserError(f"the checkpoint does not say what its {name} is; expected its kind, name and config")
    if name in registry.KINDS and kind != name:
        raise UserError(f"the checkpoint's {name} is said to be a {kind}; expected a {name}")
    try:
        return spec(kind, registered, said.get("config"), name)
    except UserError as error:
        raise UserError(f"the checkpoint's {error}") from error
