"""Hugging Face: what of a model lies in its cache, and fetching it. Nothing else in the package downloads models."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from usd.core.errors import UserError, did_you_mean
from usd.core.places import resource
from usd.denoiser.entries import ModelEntry, model_entries, repositories
from usd.denoiser.weights import missing_shards, read_json, weight_files

LOG = logging.getLogger(__name__)
TIMEOUT_S = 5.0
UNREACHABLE = "unreachable"
EMBEDDED = (
    "or use the embedded models toybox-sd, toybox-zero123 and toybox-views (configs/usd-patch-mini.yaml)"
)


def missing_components(folder: Path, components: Sequence[str]) -> dict[str, str]:
    """Return the components ``a`` or ``a|b`` (either will do) that ``folder`` lacks, and what of each, in words.

    A download that was cut off leaves folders without their weights, or with some of their shards.
    """
    gaps = {each: [_gap(folder, choice) for choice in each.split("|")] for each in components}
    lacking = {each: words for each, words in gaps.items() if all(words)}
    # what is there in part says more than what is not there at all
    return {each: max(words, key=lambda said: "(" in said) for each, words in lacking.items()}


def _gap(folder: Path, component: str) -> str:
    """Return what a folder lacks of a subfolder, or of a file that is written ``./name``; "" where it has it all."""
    place = folder / component
    if component.startswith("./"):
        return "" if place.is_file() else component.removeprefix("./")
    if not place.is_dir():
        return component
    files = [file.name for file in place.iterdir() if file.is_file()]
    if "config.json" not in files or read_json(place / "config.json").get("weights_of"):
        return ""  # a scheduler, a tokenizer; or the weights lie elsewhere
    weights = weight_files(files, averaged=component == "unet")
    lost = missing_shards(weights) if weights else ["its weights"]
    return f"{component} ({', '.join(lost)})" if lost else ""


def find_or_fetch(name: str, entry: ModelEntry | None, components: Sequence[str], where: str) -> Path:
    """Return a folder in the Hugging Face cache with these components: what is there already, else downloaded.

    The repository and its mirrors are tried in order. Raises ``UserError``.
    """
    choices = repositories(name, entry)
    found = cached_folder(choices, components)
    if found is not None:
        return found
    reasons: list[str] = []
    for repository, revision in choices:
        try:
            return fetch(repository, revision, components, entry)
        except UserError as problem:  # of a file that is not what was published: nothing to go on with
            raise UserError(f"{where}: {problem}") from problem
        # the hub client raises its transport's errors, which differ between versions
        except Exception as problem:  # noqa: BLE001 - of no common class
            reasons.append(f"{repository} ({failure(problem, repository)})")
            if reasons[-1].endswith(f"({UNREACHABLE})"):
                break  # the mirrors are on the same host
    raise UserError(_absence(name, entry, components, reasons, where))


def cached_folder(choices: Sequence[tuple[str, str]], components: Sequence[str]) -> Path | None:
    """Return the first folder of the cache with these components; branch main counts for every repository."""
    there = dict.fromkeys([*choices, *((repository, "main") for repository, _ in choices)])
    folders = (find_in_cache(repository, revision) for repository, revision in there)
    return next(
        (folder for folder in folders if folder is not None and not missing_components(folder, components)),
        None,
    )


def find_in_cache(repository: str, revision: str) -> Path | None:
    """Return the folder of the cache with a revision of a repository, or with parts of it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def fetch(repository: str, revision: str, components: Sequence[str], entry: ModelEntry | None) -> Path:
    """Download the components of a repository and compare them with the published checksums. Raises UserError."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S, files_metadata=True)
    siblings = info.siblings or []
    files = files_to_fetch(
        [each.rfilename for each in siblings],
        components,
        half=entry is not None and entry.stored == "fp16",
    )
    terms = f"{entry.note}; license: {entry.license}" if entry else "license: see its page"
    if entry and entry.unverified:
        terms += f"; not verified here, see its page: {', '.join(entry.unverified)}"
    LOG.warning("fetching %s at %s (%s)", repository, revision, terms)
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=files))
    published = {each.rfilename: each.lfs.sha256 for each in siblings if each.lfs and each.rfilename in files}
    ours = entry.checksums if entry and repository == entry.repository else {}
    require_checksums(folder, {**published, **ours}, repository)
    return folder


def require_checksums(folder: Path, checksums: Mapping[str, str], repository: str) -> None:
    """Raise ``UserError`` for the first file that is not what was published; it is taken out of the cache."""
    for name, expected in checksums.items():
        file = folder / name
        if not file.is_file():
            continue
        found = sha256(file)
        if found != expected:
            file.resolve().unlink()
            file.unlink(missing_ok=True)
            raise UserError(
                f"{repository}: {name} has the SHA-256 {found[:12]}..., but {expected[:12]}... was published; "
                "it was removed: fetch it again"
            )


def cached_checksums(folder: Path) -> dict[str, str]:
    """Return the published SHA-256 of the large files of a snapshot: the cache names its blobs after them."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    named = {file.relative_to(folder).as_posix(): file.resolve().name for file in files}
    return {file: name for file, name in named.items() if re.fullmatch(r"[0-9a-f]{64}", name)}


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_to_fetch(files: Sequence[str], components: Sequence[str], half: bool = False) -> list[str]:
    """Return the files of a repository to fetch: each component's small files and one form of its weights."""
    folders = [choice for component in components for choice in component.split("|")]
    wanted = [file for file in files if file == "model_index.json"]
    wanted += [file for file in files if f"./{file}" in folders]
    for folder in folders:
        inside = [file.removeprefix(f"{folder}/") for file in files if file.startswith(f"{folder}/")]
        if folder == ".":  # a network published by itself
            inside = [file for file in files if "/" not in file]
        weights = weight_files(inside, averaged=folder == "unet", half=half)
        small = [file for file in inside if file.endswith((".json", ".txt", ".model", ".jinja"))]
        wanted += [f"{folder}/{file}".removeprefix("./") for file in [*small, *weights]]
    return wanted


def is_offline() -> bool:
    """Return whether the environment forbids the network to the hub's client."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def failure(problem: Exception, repository: str) -> str:
    """Return in a few words why a repository cannot be had."""
    kind = type(problem).__name__
    known = {"RepositoryNotFoundError": "not found", "GatedRepoError": f"gated: {access_to(repository)}"}
    offline = any(word in kind for word in ("Connect", "Timeout", "Offline", "Network"))
    return known.get(kind, UNREACHABLE if offline else f"{kind}: {str(problem).splitlines()[0][:80]}")


def access_to(repository: str) -> str:
    """Return how one gets access to a gated repository."""
    return (
        f"accept its terms and log in: https://huggingface.co/{repository}, then `hf auth login` or HF_TOKEN"
    )


def download_command(name: str, entry: ModelEntry | None, components: Sequence[str] = ()) -> str:
    """Return the command that fetches a model, or some of its components, on a machine with a network."""
    repository, revision = repositories(name, entry)[0]
    at = "" if revision == "main" else f" --revision {revision}"
    if entry is not None and entry.file is not None:
        return f"hf download {repository} {entry.file}{at}"
    patterns = [part for each in components if each != "." for part in each.split("|")]
    parts = "".join(f" --include '{_pattern(part)}'" for part in patterns)
    return f"hf download {repository}{at}{parts}"


def _pattern(component: str) -> str:
    """Return the pattern of a component's files in a repository."""
    return component.removeprefix("./") if component.startswith("./") else f"{component}/*"


def _absence(
    name: str, entry: ModelEntry | None, components: Sequence[str], reasons: Sequence[str], where: str
) -> str:
    """Return the one line that says what was tried, what is missing and what to do."""
    if entry is not None and entry.path:
        place = resource(entry.path)
        return f"{where}: model '{name}' comes with the package, but {place} is missing; restore it"
    tried = f"Hugging Face: {', '.join(reasons)}" if reasons else "it is no Hugging Face id"
    if reasons and reasons[-1].endswith(f"({UNREACHABLE})"):
        tried += f"; {_what_is_missing(name, entry, components)}"
    hint = "" if entry else did_you_mean(name, model_entries())
    return (
        f"{where}: model '{name}' cannot be had: no such folder; {tried}. "
        f"Give a downloaded folder, set HF_ENDPOINT to a mirror, {EMBEDDED}.{hint}"
    )


def _what_is_missing(name: str, entry: ModelEntry | None, components: Sequence[str]) -> str:
    """Return which components are not in the cache, and how to bring them there from elsewhere."""
    places = (find_in_cache(*each) for each in repositories(name, entry))
    folder = next((place for place in places if place is not None), None)
    missing = missing_components(folder, components) if folder is not None else dict.fromkeys(components, "")
    words = (
        "the whole model" if folder is None else f"{', '.join(missing.values())} (the rest is in {folder})"
    )
    why = "HF_HUB_OFFLINE is set; " if is_offline() else ""
    size = f", {entry.size:g} GB" if entry and entry.size and folder is None else ""
    gate = f", after you {access_to(entry.repository)}" if entry and entry.gated and entry.repository else ""
    command = f"{download_command(name, entry, list(missing))}{gate}"
    copy = "then copy its cache folder (~/.cache/huggingface/hub) here"
    return f"{why}missing: {words}{size}; where there is a network: {command}; {copy}"
