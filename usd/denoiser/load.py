"""One way in for every model: alias, folder or hub id -> a local folder -> its parts, each read by subfolder.

Nothing here knows what a model computes. Downloads happen only in ``_fetch``; everything after works on a folder.
"""

import dataclasses
import importlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from usd.core.config import ROOT, option, parse
from usd.core.errors import UserError, did_you_mean
from usd.core.registry import find
from usd.denoiser import Denoiser, Running
from usd.denoiser.zero123_condition import FourthNumber

LOG = logging.getLogger(__name__)
ALIAS_FILE = ROOT / "load" / "models.yaml"
HUB_TIMEOUT_S = 5.0
SINGLE_FILES = (".ckpt", ".safetensors", ".bin", ".pt")
ROLE_DENOISER = {"text": "stable-diffusion", "view": "zero123"}


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """One model of ``load/models.yaml``; the file's head explains the fields."""

    denoiser: str = option(help="file of usd/denoiser that runs it")
    path: str | None = option(None, "folder inside this repository")
    repository: str | None = option(None, "Hugging Face id")
    revision: str = option("main", "branch, tag or commit")
    mirrors: tuple[str, ...] = option((), "other ids of the same weights")
    former_ids: tuple[str, ...] = option((), "older ids that mean this model")
    licence: str = option("", "what its authors allow")
    note: str = option("", "what it is")
    fourth_number: FourthNumber = option("distance", "last number of Zero-1-to-3's pose")


@cache
def model_entries(file: Path = ALIAS_FILE) -> dict[str, ModelEntry]:
    """The aliases, by name. Raises UserError when the file is missing or wrong."""
    from omegaconf import OmegaConf

    if not file.is_file():
        raise UserError(f"{file}: is missing; expected the list of model aliases")
    table: Any = OmegaConf.to_container(OmegaConf.load(file))
    return {name: parse(ModelEntry, entry, f"{file.name}: {name}") for name, entry in table.items()}


def entry_of(name: str) -> ModelEntry | None:
    """The alias with this name or (former) id."""
    entries = model_entries()
    by_id = {i: e for e in entries.values() for i in (e.repository, *e.mirrors, *e.former_ids) if i}
    return entries.get(name) or by_id.get(name)


_open: "WeakValueDictionary[tuple[str, Running], Denoiser]" = WeakValueDictionary()


def open_model(name: str, role: str, where: str, running: Running) -> Denoiser:
    """See ``usd.denoiser.open_denoiser``. A model that is in use already is handed out again."""
    if not name:
        raise UserError(
            f"{where}: is empty; expected an alias of load/models.yaml, a folder or a Hugging Face id"
        )
    denoiser = _open.get((name, running))
    if denoiser is None:
        denoiser = _opened(name, role, where, running)
        _open[name, running] = denoiser
    return denoiser


def _opened(name: str, role: str, where: str, running: Running) -> Denoiser:
    entry = entry_of(name)
    if name.endswith(SINGLE_FILES):
        raise UserError(
            f"{where}: '{name}' is a single file; expected a diffusers folder, an alias or a hub id"
        )
    folder = _local_folder(entry.path if entry else name)
    kind = entry.denoiser if entry else _kind_of(folder, name, role)
    cls = find("denoiser", kind)
    if not cls.parts:
        return cls(parse(cls.Config, {}, where), name=name)
    if folder is None:
        folder = _fetched(name, entry, cls.parts, where)
    missing = missing_parts(folder, cls.parts)
    if missing:
        raise UserError(
            f"{where}: folder {folder} has no {' nor '.join(missing)}; expected a diffusers {kind} folder"
        )
    shared = _open.get((str(folder), running))
    if shared is not None:
        return shared
    options: dict[str, object] = {"folder": str(folder), "running": running}
    if entry is not None and entry.fourth_number != "distance":
        options["fourth_number"] = entry.fourth_number
    denoiser = _open[str(folder), running] = cls(parse(cls.Config, options, where), name=name)
    return denoiser


def _local_folder(text: str | None) -> Path | None:
    """``text`` as a folder: absolute, in the repository, or as typed at the shell."""
    if not text:
        return None
    given = Path(text).expanduser()
    folders = [given] if given.is_absolute() else [ROOT / given, given.absolute()]
    return next((folder.resolve() for folder in folders if folder.is_dir()), None)


def _kind_of(folder: Path | None, name: str, role: str) -> str:
    """Which denoiser runs a model that is no alias: by the parts of its folder, or by the role it is to play."""
    if folder is not None:
        return "zero123" if (folder / "image_encoder").is_dir() else "stable-diffusion"
    if "/" not in name and name in _denoisers_without_files():
        return name
    return ROLE_DENOISER[role]


def _denoisers_without_files() -> list[str]:
    from usd.core.registry import names

    return [name for name in names("denoiser") if not find("denoiser", name).parts]


def missing_parts(folder: Path, parts: Sequence[str]) -> list[str]:
    """Parts ``a`` or ``a|b`` (either will do) of which ``folder`` has no subfolder."""
    return [part for part in parts if not any((folder / choice).is_dir() for choice in part.split("|"))]


# ------------------------------------------------------------------------------------------------------------- the hub


def _fetched(name: str, entry: ModelEntry | None, parts: Sequence[str], where: str) -> Path:
    """A folder in the Hugging Face cache with these parts: what is there already, else downloaded."""
    repositories = _repositories(name, entry)
    revision = entry.revision if entry else "main"
    folders = (_cached(repository, revision, parts) for repository in repositories)
    found = next((folder for folder in folders if folder is not None), None)
    if found is not None:
        return found
    reasons = []
    for repository in repositories:
        try:
            return _fetch(repository, revision, parts, entry)
        except (
            Exception
        ) as problem:  # the hub client raises its transport's errors, which differ between versions
            reasons.append(f"{repository} ({_reason(problem)})")
            if reasons[-1].endswith("(unreachable)"):
                break  # the mirrors are on the same host
    raise UserError(_absent(name, entry, reasons, where))


def _repositories(name: str, entry: ModelEntry | None) -> list[str]:
    if entry is not None:
        return [*([entry.repository] if entry.repository else []), *entry.mirrors]
    return [name] if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith(".") else []


def _absent(name: str, entry: ModelEntry | None, reasons: Sequence[str], where: str) -> str:
    """The one line that says what was tried and what to do."""
    if entry is not None and entry.path:
        place = ROOT / entry.path
        return (
            f"{where}: model '{name}' comes with the repository, but {place} is missing; restore it with git"
        )
    tried = f"Hugging Face: {', '.join(reasons)}" if reasons else "it is no Hugging Face id"
    hint = "" if entry else did_you_mean(name, model_entries())
    return (
        f"{where}: model '{name}' cannot be had: no such folder; {tried}. "
        "Give a downloaded folder, set HF_ENDPOINT to a mirror, "
        f"or use the embedded models toybox-sd and toybox-zero123 (configs/usd-patch-mini.yaml).{hint}"
    )


def _reason(problem: Exception) -> str:
    kind = type(problem).__name__
    known = {"RepositoryNotFoundError": "not found", "GatedRepoError": "gated: accept its terms and log in"}
    offline = any(word in kind for word in ("Connect", "Timeout", "Offline", "Network"))
    return known.get(kind, "unreachable" if offline else f"{kind}: {str(problem).splitlines()[0][:80]}")


def _cached(repository: str, revision: str, parts: Sequence[str]) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    return None if missing_parts(folder, parts) else folder


def _fetch(repository: str, revision: str, parts: Sequence[str], entry: ModelEntry | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
    files = wanted_files([sibling.rfilename for sibling in info.siblings or []], parts)
    said = f"{entry.note}; licence: {entry.licence}" if entry else "licence: see its page"
    LOG.warning("fetching %s (%s)", repository, said)
    return Path(snapshot_download(repository, revision=revision, allow_patterns=files))


def wanted_files(files: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Of a repository's files, those worth fetching: each part's small files and one form of its weights."""
    folders = [choice for part in parts for choice in part.split("|")]
    wanted = [file for file in files if file == "model_index.json"]
    for folder in folders:
        inside = [file.removeprefix(f"{folder}/") for file in files if file.startswith(f"{folder}/")]
        weights = weight_files(inside)
        small = [file for file in inside if file.endswith((".json", ".txt", ".model"))]
        wanted += [f"{folder}/{file}" for file in [*small, *weights]]
    return wanted


# --------------------------------------------------------------------------------------------------------------- parts

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.(?P<form>safetensors|bin)"
)


def weight_files(files: Sequence[str]) -> list[str]:
    """The preferred form of a part's weights: safetensors before pickles, plain before a variant such as fp16."""
    groups: dict[tuple[bool, bool, str], list[str]] = {}
    for file in sorted(files):
        match = WEIGHTS.fullmatch(file)
        if match:
            variant = match["variant"] or ""
            groups.setdefault((match["form"] == "bin", bool(variant), variant), []).append(file)
    return groups[min(groups)] if groups else []


def _variant(folder: Path) -> str | None:
    files = weight_files([file.name for file in folder.iterdir()])
    match = WEIGHTS.fullmatch(files[0]) if files else None
    return match["variant"] if match else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError when it is missing or none."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: is missing; expected a diffusers folder with this file") from None
    except ValueError as problem:
        raise UserError(f"{path}: is not JSON ({problem})") from None
    if not isinstance(said, dict):
        raise UserError(f"{path}: expected a JSON object")
    return said


def load_network(library: str, name: str, folder: Path) -> torch.nn.Module:
    """A network of a library (imported only now), read from its subfolder, all weights present. Raises UserError."""
    cls = getattr(importlib.import_module(library), name)
    folder = weights_folder(folder)
    with _quiet(), readable(folder, name):
        options = {"variant": _variant(folder), "local_files_only": True, "output_loading_info": True}
        network, report = cls.from_pretrained(folder, **options)
        missing = sorted(map(str, report["missing_keys"]))
        if missing:
            raise UserError(f"{folder}: lacks {len(missing)} weights of {name}, such as {missing[0]}")
    return network


def weights_folder(part: Path) -> Path:
    """Where a part's weights lie: its subfolder, or the one that its config.json names as ``weights_of``.

    Models of one family may share a part (the embedded two share their autoencoder) without storing it twice.
    """
    path = part / "config.json"
    other = read_json(path).get("weights_of") if path.is_file() else None
    if other is None:
        return part
    folder = (part / str(other)).resolve()
    if not folder.is_dir():
        raise UserError(f"{path}: its weights are said to lie in {folder}, which is missing")
    return folder


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The plain tensors of a subfolder's weight file, on the CPU. Raises UserError."""
    from safetensors.torch import load_file

    with readable(folder, "weights"):
        files = weight_files([file.name for file in folder.iterdir()])
        if not files:
            raise UserError(f"{folder}: holds no weights; expected a .safetensors or .bin file")
        path = folder / files[0]
        safe = path.suffix == ".safetensors"
        return load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def readable(folder: Path, what: str) -> Iterator[None]:
    """Turns whatever a library raises over a bad file into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # each library has its own kinds
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{folder}: cannot be read as {what}: {first[:200]}") from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or loading reports from the model libraries inside; their settings are put back."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    bars = [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [(library, library.get_verbosity()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        for library in bars:
            library.enable_progress_bar()
