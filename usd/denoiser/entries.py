"""``load/models.yaml``: names of models, and what is known of each before anything of it is on this disk."""

import dataclasses
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from usd.core.config import option, parse
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.places import resource
from usd.denoiser.zero123_condition import PoseConvention

ALIAS_FILE = resource("load/models.yaml")
FORMER_KEYS = {"licence": "license", "fourth_number": "pose_convention"}
"""Keys of 0.1.0's alias file, and their present names."""
CARDS = ("card-8gb", "card-12gb", "card-24gb")
"""Keys of ``memory``: the presets 8gb-models, 12gb and 24gb."""


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One model of ``load/models.yaml``; the file's head explains the fields."""

    denoiser: str = option(help="kind of denoiser that runs the model")
    path: str | None = option(None, "folder or single file of a model that comes with the package")
    repository: str | None = option(None, "Hugging Face id of the model")
    revision: str = option("main", "branch, tag or commit of the repository")
    file: str | None = option(None, "single file of the repository, where the model is that")
    mirrors: tuple[str, ...] = option((), "other ids of the same weights")
    former_ids: tuple[str, ...] = option((), "older ids that mean this model")
    license: str = option("", "license of the model's weights")
    gated: bool = option(False, "whether its terms have to be accepted on its page, with a login")
    architecture: str = option("", "entry of usd/denoiser/architectures.py with the sizes of its networks")
    stored: Literal["fp32", "fp16", "bf16"] = option("fp32", "precision of the weights that are fetched")
    size: float | None = option(None, "GB (10^9 bytes) that are fetched", gt=0)
    needs: tuple[str, ...] = option((), "the networks that read its conditions, which are fetched with it")
    memory: dict[str, float] = option({}, "GiB of its weights that stay on a card while training, by preset")
    checksums: dict[str, str] = option({}, "SHA-256 of files of the repository, by their paths in it")
    unverified: tuple[str, ...] = option((), "fields of the entry that nobody has checked against the hub")
    note: str = option("", "sentence on the model")
    pose_convention: PoseConvention | None = option(
        None, "last number of Zero-1-to-3's pose; unset: as the model's files say"
    )


@cache
def model_entries(file: Path = ALIAS_FILE) -> dict[str, ModelEntry]:
    """Return the aliases, by name. Raises UserError when the file is missing or wrong."""
    from omegaconf import OmegaConf

    if not file.is_file():
        raise UserError(f"{file}: is missing; expected the list of model aliases")
    table = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(table, dict):
        raise UserError(f"{file}: expected aliases with their models")
    entries = {str(name): entry for name, entry in table.items()}
    return {
        name: checked(parse(ModelEntry, _with_present_keys(entry, at), at), at)
        for name, entry in entries.items()
        for at in [f"{file.name}: {name}"]
    }


def checked(entry: ModelEntry, where: str) -> ModelEntry:
    """Return an entry whose parts go together. Raises UserError for one whose parts do not."""
    unknown = sorted(set(entry.memory) - set(CARDS))
    if unknown:
        raise UserError(f"{where}.memory: '{unknown[0]}' is no preset; expected {', '.join(CARDS)}")
    for file, digest in entry.checksums.items():
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UserError(
                f"{where}.checksums: '{digest}' of {file} is no SHA-256; expected 64 digits of 0-9 and a-f"
            )
    remote = [name for name in ("mirrors", "size", "gated", "checksums") if getattr(entry, name)]
    if remote and entry.repository is None:
        raise UserError(f"{where}.{remote[0]}: is said of a model without a repository; expected repository")
    return entry


def _with_present_keys(entry: object, where: str) -> object:
    """Return an entry whose former keys, which are still read, have their present names; say so."""
    if not isinstance(entry, Mapping):
        return entry
    for old, new in FORMER_KEYS.items():
        if old in entry and new not in entry:
            say(f"note: {where}.{old} is read as {new}, as this key is called now")
            entry = {new if key == old else key: value for key, value in entry.items()}
    return entry


def entry_of(name: str) -> ModelEntry | None:
    """Return the alias with this name or (former) id."""
    entries = model_entries()
    ids = ((e, (e.repository, *e.mirrors, *e.former_ids)) for e in entries.values())
    by_id = {i.partition("@")[0]: entry for entry, names in ids for i in names if i}
    return entries.get(name) or by_id.get(name)


def repositories(name: str, entry: ModelEntry | None) -> list[tuple[str, str]]:
    """Return ids and revisions in the order in which they are tried. A mirror's revision stands behind an @."""
    if entry is not None:
        mirrors = [mirror.partition("@") for mirror in entry.mirrors]
        first = [(entry.repository, entry.revision)] if entry.repository else []
        return [*first, *((mirror, revision or "main") for mirror, _, revision in mirrors)]
    known = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    return [(known[1], known[2] or "main")] if known and not name.startswith(".") else []
