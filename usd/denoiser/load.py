"""One way in for every model: alias, folder, single file or hub id -> what lies on this disk.

Nothing here knows what a model computes or how it is stored (``components.py``). Downloads happen only in ``_fetch``.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from usd.core.config import option, parse
from usd.core.console import say
from usd.core.errors import UserError, did_you_mean
from usd.core.places import find_resource, output, resource
from usd.core.registry import find
from usd.denoiser import Denoiser, Execution, ImageTextDenoiser
from usd.denoiser.components import VIEW_GROUP_VOLUME, ModelComponents, open_components
from usd.denoiser.lora_file import is_lora_folder, with_lora
from usd.denoiser.weights import read_json, weight_files
from usd.denoiser.zero123_condition import PoseConvention

LOG = logging.getLogger(__name__)
ALIAS_FILE = resource("load/models.yaml")
HUB_TIMEOUT_S = 5.0
SINGLE_FILES = (".ckpt", ".safetensors", ".bin", ".pt")
FORMER_KEYS = {"licence": "license", "fourth_number": "pose_convention"}
"""Keys of 0.1.0's alias file, and their present names."""
TRANSFORMERS = {
    "SD3Transformer2DModel": "stable-diffusion-3",
    "FluxTransformer2DModel": "flux-1",
    "Flux2Transformer2DModel": "flux-2",
    "ZImageTransformer2DModel": "z-image",
    "SanaTransformer2DModel": "sana",
    "QwenImageTransformer2DModel": "qwen-image",
}
"""Denoisers by the class of their transformer."""
UNETS = {"UNetMV2DConditionModel": "wonder3d", "ImageDreamUNet": "imagedream"}
"""Denoisers by the class of their UNet, where that says it."""
MATRIX = 16
"""Numbers of a camera's matrix, by which UNets that are given cameras are known."""
ROLE_DENOISER = {"text": "stable-diffusion", "view": "zero123"}


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
    architecture: str = option("", "entry of usd/denoiser/architectures.py with the sizes of its networks")
    stored: Literal["fp32", "fp16"] = option("fp32", "precision of the weights that are fetched")
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
        name: parse(ModelEntry, _with_present_keys(entry, at), at)
        for name, entry in entries.items()
        for at in [f"{file.name}: {name}"]
    }


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


_open: "WeakValueDictionary[tuple[str, Execution], Denoiser]" = WeakValueDictionary()


def open_model(name: str, role: str, where: str, execution: Execution) -> Denoiser:
    """Return a model, the same object while it is in use; see ``usd.denoiser.open_text_denoiser``."""
    if not name:
        raise UserError(
            f"{where}: is empty; expected an alias of load/models.yaml, a folder or a Hugging Face id"
        )
    denoiser = _open.get((name, execution))
    if denoiser is None:
        denoiser = _open_located(name, role, where, execution)
        _open[name, execution] = denoiser
    return denoiser


@dataclasses.dataclass(frozen=True)
class ModelLocation:
    """A model on this disk: which denoiser runs it, where it lies (nowhere for a formula), and its LoRA."""

    name: str
    kind: str
    place: Path | None = None
    lora: Path | None = None
    scale: float = 1.0
    pose_convention: PoseConvention | None = None

    def options(self, execution: Execution) -> dict[str, object]:
        """Return the options of its denoiser."""
        options: dict[str, object] = {"folder": str(self.place), "execution": execution}
        if self.lora is not None:
            options |= {"lora_file": str(self.lora), "lora_scale": self.scale}
        return (
            options if self.pose_convention is None else options | {"pose_convention": self.pose_convention}
        )


def _open_located(name: str, role: str, where: str, execution: Execution) -> Denoiser:
    found = find_model(name, role, where)
    cls = find(Denoiser, found.kind)
    if found.place is None:
        return cls(parse(cls.Config, {}, where), name=name)
    key = f"{found.kind}: {found.place} + {found.lora} x {found.scale}"
    denoiser = _open.get((key, execution))
    if denoiser is None:
        denoiser = _open[key, execution] = cls(
            parse(cls.Config, found.options(execution), where), name=found.name
        )
    return denoiser


def open_controlled(
    name: str, control: str, where: str, execution: Execution, scale: float
) -> ImageTextDenoiser:
    """Open Stable Diffusion with a ControlNet; see ``usd.denoiser.open_control_denoiser``. Raises UserError."""
    base, network = find_model(name, "text", where), find_network(control, "control", where)
    if base.kind != "stable-diffusion":
        raise UserError(f"{where}: '{name}' takes no ControlNet; expected a model of Stable Diffusion's kind")
    key = f"{base.place} + {base.lora} x {base.scale} & {network} x {scale}"
    known = _open.get((key, execution))
    if isinstance(known, ImageTextDenoiser):
        return known
    cls = find(ImageTextDenoiser, "controlnet")
    options = base.options(execution) | {"control_folder": str(network), "control_scale": scale}
    denoiser = _open[key, execution] = cls(parse(cls.Config, options, where), name=base.name)
    return denoiser


def components_of(name: str, where: str) -> ModelComponents:
    """Return the components of a model by name, a LoRA after ' + ' added. Raises UserError."""
    found = find_model(name, "text", where)
    if found.place is None:
        raise UserError(f"{where}: '{name}' is a formula without weights; expected a model")
    base = open_components(found.place)
    return base if found.lora is None else with_lora(base, found.lora, found.scale)


Finder = Callable[[str, str, str], ModelLocation]
_finders: list[Finder] = []


def find_model(name: str, role: str, where: str) -> ModelLocation:
    """Return where a model lies that is named by alias, folder, single file or hub id. Raises UserError.

    It is fetched if need be; inside ``finding_by`` it is whatever the finder says.
    """
    return (_finders[-1] if _finders else find_published)(name, role, where)


@contextmanager
def finding_by(finder: Finder) -> Iterator[None]:
    """Have ``finder(name, role, where)`` locate every model that is opened inside."""
    before = dict(_open)
    _open.clear()
    _finders.append(finder)
    try:
        yield
    finally:
        _finders.pop()
        _open.clear()
        _open.update(before)


def find_published(name: str, role: str, where: str) -> ModelLocation:
    """Return where a model lies on this disk, fetched if need be. Raises UserError."""
    base, lora, scale = split_lora(name)
    entry = entry_of(base)
    place = local_model(entry.path if entry else base)
    if place is not None and place.is_dir() and is_lora_folder(place):
        return find_published(f"{_base_of(place, where)} + {place}", role, where)
    if place is None and entry is None and base.endswith(SINGLE_FILES):
        raise UserError(f"{where}: there is no file '{base}'; expected a single file, a folder or a hub id")
    kind = entry.denoiser if entry else _kind_of(place, base, role, where)
    components = find(Denoiser, kind).components
    if components and place is None:
        single = entry.file if entry else None
        place = _find_or_fetch(base, entry, (f"./{single}",) if single else components, where)
        place = place / single if single else place
    if place is None:
        return ModelLocation(name, kind)
    missing = missing_components(place, components) if place.is_dir() else []
    if missing:
        raise UserError(
            f"{where}: folder {place} has no {' nor '.join(missing)}; expected a diffusers {kind} folder"
        )
    convention = entry.pose_convention if entry else None
    return ModelLocation(name, kind, place, _lora_place(lora, where) if lora else None, scale, convention)


def split_lora(name: str) -> tuple[str, str, float]:
    """Return ``model + lora`` or ``model + lora x 0.8`` as model, LoRA and scale; no LoRA is ``""``."""
    match = re.fullmatch(r"(.+?) \+ (.+?)(?: x (-?\d*\.?\d+(?:e-?\d+)?))?", name)
    return (match[1], match[2], float(match[3] or 1)) if match else (name, "", 1.0)


def _lora_place(lora: str, where: str) -> Path:
    place = local_model(lora)
    if place is None:
        raise UserError(
            f"{where}: there is no LoRA '{lora}'; expected a file, or a folder of diffusers or peft"
        )
    return place


def _base_of(place: Path, where: str) -> str:
    """Return the model that the card of a LoRA's folder names. Raises UserError when there is none."""
    path = place / "lora.json"
    base = read_json(path).get("base_model") if path.is_file() else None
    if not base:
        raise UserError(
            f"{where}: {place} is a LoRA and does not say of which model; expected 'MODEL + {place}', "
            f"or a {path.name} in it with its base_model"
        )
    return str(base)


def local_model(text: str | None) -> Path | None:
    """Return ``text`` as a folder or file that exists: absolute, among the resources, or as typed at the shell."""
    if not text:
        return None
    given = Path(text).expanduser()
    places = [find_resource(given), output(given)]
    return next((place.resolve() for place in places if place and (place.is_dir() or place.is_file())), None)


def _kind_of(place: Path | None, name: str, role: str, where: str) -> str:
    """Return which denoiser runs a model that is no alias: by what it holds, or by the role that it is to play."""
    if place is not None:
        try:
            return denoiser_of(open_components(place))
        except UserError as problem:
            raise UserError(f"{where}: {problem}") from problem
    if "/" not in name and name in formulas():
        return name
    return ROLE_DENOISER[role]


def denoiser_of(model: ModelComponents) -> str:
    """Return which denoiser runs a model with these components."""
    if model.has(VIEW_GROUP_VOLUME):
        return "syncdreamer"
    own = UNETS.get(str(_option_of(model, "unet", "_class_name")))
    if own is not None:
        return own
    if _option_of(model, "unet", "projection_class_embeddings_input_dim") == MATRIX and model.has(
        "text_encoder"
    ):
        return "mvdream"
    if model.has("vision_encoder"):
        return "zero123plus"
    if model.has("image_encoder"):
        return "zero123"
    if model.has("transformer"):
        return _transformer_denoiser(model)
    if _option_of(model, "text_encoder", "model_type") == "t5":
        return "deep-floyd"
    return "instruct-pix2pix" if _option_of(model, "unet", "in_channels") == 8 else "stable-diffusion"


def _transformer_denoiser(model: ModelComponents) -> str:
    """Return which denoiser runs a transformer of diffusers. Raises ``UserError`` for one that none does."""
    name = str(model.config("transformer").get("_class_name"))
    if name not in TRANSFORMERS:
        raise UserError(
            f"{model.place}: its transformer is {name}, which no denoiser runs; "
            f"expected one of {', '.join(TRANSFORMERS)}"
        )
    return TRANSFORMERS[name]


def _option_of(model: ModelComponents, component: str, option: str) -> object:
    """Return an option of a component's configuration; None where it has no readable one."""
    try:
        return model.config(component).get(option) if model.has(component) else None
    except UserError:
        return None


def formulas() -> list[str]:
    """Return the names of denoisers that need no files."""
    from usd.core.registry import names

    return [name for name in names("denoiser") if not find(Denoiser, name).components]


def folder_of(name: str, components: Sequence[str], where: str) -> Path:
    """Return a folder on this disk with these components of a model, fetched if need be. Raises UserError."""
    entry = entry_of(name)
    return local_model(entry.path if entry else name) or _find_or_fetch(name, entry, components, where)


def find_network(name: str, role: str, where: str) -> Path:
    """Return the folder of a network that is published by itself, such as a ControlNet, fetched if need be.

    Raises UserError.
    """
    place = _finders[-1](name, role, where).place if _finders else folder_of(name, (".",), where)
    assert place is not None
    return place


def in_rehearsal() -> bool:
    """Return whether models are located by a finder, so that nothing about them is worth keeping on disk."""
    return bool(_finders)


def missing_components(folder: Path, components: Sequence[str]) -> list[str]:
    """Return the components ``a`` or ``a|b`` (either will do) of which ``folder`` has no subfolder."""
    return [
        component
        for component in components
        if not any(_is_there(folder, choice) for choice in component.split("|"))
    ]


def _is_there(folder: Path, component: str) -> bool:
    """Return whether a folder has a component: a subfolder, or a file that is written ``./name``."""
    place = folder / component
    return place.is_file() if component.startswith("./") else place.is_dir()


# ------------------------------------------------------------------------------------------------------------- the hub


def _find_or_fetch(name: str, entry: ModelEntry | None, components: Sequence[str], where: str) -> Path:
    """Return a folder in the Hugging Face cache with these components: what is there already, else downloaded."""
    repositories = _repositories(name, entry)
    there = dict.fromkeys([*repositories, *((repository, "main") for repository, _ in repositories)])
    folders = (_find_in_cache(repository, revision, components) for repository, revision in there)
    found = next((folder for folder in folders if folder is not None), None)
    if found is not None:
        return found
    reasons = []
    for repository, revision in repositories:
        try:
            return _fetch(repository, revision, components, entry)
        # the hub client raises its transport's errors, which differ between versions
        except Exception as problem:  # noqa: BLE001 - of no common class
            reasons.append(f"{repository} ({_failure(problem)})")
            if reasons[-1].endswith("(unreachable)"):
                break  # the mirrors are on the same host
    raise UserError(_absence(name, entry, reasons, where))


def _repositories(name: str, entry: ModelEntry | None) -> list[tuple[str, str]]:
    """Return ids and revisions in the order in which they are tried. A mirror's revision stands behind an @."""
    if entry is not None:
        mirrors = [mirror.partition("@") for mirror in entry.mirrors]
        first = [(entry.repository, entry.revision)] if entry.repository else []
        return [*first, *((mirror, revision or "main") for mirror, _, revision in mirrors)]
    known = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    return [(known[1], known[2] or "main")] if known and not name.startswith(".") else []


def _absence(name: str, entry: ModelEntry | None, reasons: Sequence[str], where: str) -> str:
    """Return the one line that says what was tried and what to do."""
    if entry is not None and entry.path:
        place = resource(entry.path)
        return f"{where}: model '{name}' comes with the package, but {place} is missing; restore it"
    tried = f"Hugging Face: {', '.join(reasons)}" if reasons else "it is no Hugging Face id"
    hint = "" if entry else did_you_mean(name, model_entries())
    return (
        f"{where}: model '{name}' cannot be had: no such folder; {tried}. "
        "Give a downloaded folder, set HF_ENDPOINT to a mirror, "
        f"or use the embedded models toybox-sd and toybox-zero123 (configs/usd-patch-mini.yaml).{hint}"
    )


def _failure(problem: Exception) -> str:
    kind = type(problem).__name__
    known = {"RepositoryNotFoundError": "not found", "GatedRepoError": "gated: accept its terms and log in"}
    offline = any(word in kind for word in ("Connect", "Timeout", "Offline", "Network"))
    return known.get(kind, "unreachable" if offline else f"{kind}: {str(problem).splitlines()[0][:80]}")


def _find_in_cache(repository: str, revision: str, components: Sequence[str]) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    return None if missing_components(folder, components) else folder


def _fetch(repository: str, revision: str, components: Sequence[str], entry: ModelEntry | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
    names = [sibling.rfilename for sibling in info.siblings or []]
    files = files_to_fetch(names, components, half=entry is not None and entry.stored == "fp16")
    terms = f"{entry.note}; license: {entry.license}" if entry else "license: see its page"
    if entry and entry.unverified:
        terms += f"; not verified here, see its page: {', '.join(entry.unverified)}"
    LOG.warning("fetching %s at %s (%s)", repository, revision, terms)
    return Path(snapshot_download(repository, revision=revision, allow_patterns=files))


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
