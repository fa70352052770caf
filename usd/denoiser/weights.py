"""Weight files as tensors that are read when asked for, and networks made of them without a second copy.

A network is made without memory of its own (torch's meta device) and is given the file's tensors, which are mapped from
the disk: no random numbers are drawn, a half-precision file stays half, and what is not used is not read.
"""

import importlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser.pickles import read_pickle

Form = Literal["safetensors", "zip", "pickle"]
NetworkConfig = dict[str, object]
"""A network's ``config.json``."""


def whole(config: Mapping[str, object], name: str, default: int | None = None) -> int:
    """Return a whole number of a configuration. Raises KeyError without one, TypeError for another kind of value."""
    value = config[name] if default is None else config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    return value


def nested(config: Mapping[str, object], *names: str) -> NetworkConfig:
    """Return a mapping nested in a configuration under these names; {} where there is none."""
    found: object = config
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def whole_numbers(config: Mapping[str, object], name: str) -> list[int]:
    """Return a list of whole numbers of a configuration. Raises KeyError, or TypeError for another kind of value."""
    value = config[name]
    if not isinstance(value, list | tuple) or not all(isinstance(number, int) for number in value):
        raise TypeError(f"{name} is {value!r}; expected whole numbers")
    return list(value)


def texts(config: Mapping[str, object], name: str) -> list[str]:
    """Return a list of names of a configuration. Raises KeyError, or TypeError for another kind of value."""
    value = config[name]
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name} is {value!r}; expected names")
    return list(value)


def number(config: Mapping[str, object], name: str, default: float) -> float:
    """Return a number of a configuration, or ``default``. Raises TypeError for another kind of value."""
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; expected a number")
    return float(value)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each made when asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


# --------------------------------------------------------------------------------------------------------------- files

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.(?P<form>safetensors|bin)"
)

SHARD = re.compile(r"(?P<head>.+)-\d+-of-(?P<count>\d+)\.(?P<form>\w+)")

AVERAGES = ("ema", "fp16_ema")


def weight_files(files: Sequence[str], averaged: bool = False, half: bool = False) -> list[str]:
    """Return the preferred form of a component's weights: safetensors before pickles, plain before a variant.

    ``averaged`` prefers a moving average (``ema``, ``fp16_ema``): so Zero-1-to-3's UNet lies beside the plain one.
    ``half`` prefers fp16.
    """
    groups: dict[tuple[bool, bool, bool, bool, str], list[str]] = {}
    for file in sorted(files):
        match = WEIGHTS.fullmatch(file)
        if match:
            variant = match["variant"] or ""
            plain = not (averaged and variant in AVERAGES)
            order = (match["form"] == "bin", plain, half and variant != "fp16", bool(variant), variant)
            groups.setdefault(order, []).append(file)
    return groups[min(groups)] if groups else []


def missing_shards(files: Sequence[str]) -> list[str]:
    """Return the files that a sharded form of weights lacks: each name says how many there are."""
    found = next((match for file in files if (match := SHARD.fullmatch(file))), None)
    if found is None:
        return []
    digits, count = len(found["count"]), int(found["count"])
    names = (
        f"{found['head']}-{i:0{digits}d}-of-{found['count']}.{found['form']}" for i in range(1, count + 1)
    )
    return [name for name in names if name not in files]


def open_checkpoint(path: Path) -> tuple[Mapping[str, Tensor], NetworkConfig]:
    """Return the tensors of one file, by name, and what else it says (``global_step``, ...). Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: is missing; expected a file of weights")
    form = file_form(path)
    with readable(path, "weights"):
        if form == "safetensors":
            return _open_safetensors(path)
        content = read_pickle(path, zipped=form == "zip")
    whole_file = content if isinstance(content, dict) else {}
    inner = whole_file.get("state_dict", whole_file)
    tensors = {k: v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, dict) else {}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name; expected a checkpoint of a model")
    return tensors, {k: v for k, v in whole_file.items() if isinstance(v, int | float | str)}


def _open_safetensors(path: Path) -> tuple[LazyTensors, NetworkConfig]:
    from safetensors import safe_open

    file = safe_open(path, "pt")
    names: list[str] = file.keys()
    return LazyTensors({name: partial(file.get_tensor, name) for name in names}), dict(file.metadata() or {})


def file_form(path: Path) -> Form:
    """Return the form of a file of weights, by its first bytes. Raises UserError when it is none."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head[:4] == b"PK\x03\x04":
        return "zip"
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise UserError(
        f"{path}: {_what_it_is(head, path.stat().st_size)}; expected .safetensors or .ckpt weights"
    )


def _what_it_is(head: bytes, size: int) -> str:
    if size == 0:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the file itself; fetch it with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "is a web page, as a failed download leaves behind"
    return "is no file of weights"


def load_tensors(folder: Path, averaged: bool = False) -> Mapping[str, Tensor]:
    """Return the tensors of a component's weight files, sharded or not, read when asked for. Raises UserError."""
    with readable(folder, "weights"):
        files = weight_files([file.name for file in folder.iterdir()], averaged)
    if not files:
        raise UserError(f"{folder}: holds no weights; expected a .safetensors or .bin file")
    shards = [open_checkpoint(folder / file)[0] for file in files]
    return LazyTensors(
        {current_name(name): partial(shard.__getitem__, name) for shard in shards for name in shard}
    )


FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # until 2023


def current_name(name: str) -> str:
    """Return the libraries' present name of what they once stored as ``name``: an autoencoder's attention.

    Zero-1-to-3's camera projection is ``proj`` in one published layout and with us, ``projection`` in the other.
    """
    name = re.sub(r"^projection\.(weight|bias)$", r"proj.\1", name)
    old = re.search(r"mid_block\.attentions\.\d+\.(query|key|value|proj_attn)\.", name)
    return f"{name[: old.start(1)]}{FORMER_NAMES[old[1]]}{name[old.end(1) :]}" if old else name


def weights_folder(component: Path) -> Path:
    """Return the folder of a component's weights: its own, or the one that its config.json names as ``weights_of``.

    Models of one family may share a component (the embedded two share their autoencoder) without storing it twice.
    """
    path = component / "config.json"
    other = read_json(path).get("weights_of") if path.is_file() else None
    if other is None:
        return component
    folder = (component / str(other)).resolve()
    if not folder.is_dir():
        raise UserError(f"{path}: its weights are said to lie in {folder}, which is missing")
    return folder


def read_json(path: Path) -> NetworkConfig:
    """Return a JSON object. Raises UserError when it is missing or none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: is missing; expected a diffusers folder with this file") from None
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path}: is not JSON ({problem})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content


@contextmanager
def readable(place: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises over a bad file into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # each library has its own kinds
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{place}: cannot be read as {what}: {first[:200]}{_advice(first)}") from problem


def _advice(problem: str) -> str:
    cut_short = ("central directory", "not fully covered", "deserializing header", "corrupt", "Errno 22")
    return " (is the download complete?)" if any(word in problem for word in cut_short) else ""


# ------------------------------------------------------------------------------------------------------------ networks


def load_network(library: str, name: str, folder: Path) -> torch.nn.Module:
    """Return a network from its subfolder, to be trained: float32, in memory of its own. Raises UserError."""
    place = weights_folder(folder)
    with readable(place, name):
        tensors = {key: value.to(torch.float32, copy=True) for key, value in load_tensors(place).items()}
    return build(library, name, read_json(place / "config.json"), tensors, place)


def build(
    library: str, name: str, config: Mapping[str, object], tensors: Mapping[str, Tensor], place: Path
) -> torch.nn.Module:
    """Return the network ``name`` of a library (imported only now) with these very tensors as its weights.

    ``place`` is where they come from, for messages. Raises UserError when one is missing or of another shape.
    """
    with readable(place, name):
        network = empty_network(library, name, config)
    wanted = network.state_dict()
    names = {key: stored_name(key, tensors) for key in wanted}
    # files hold a weight that a network uses in two places under one of its names
    ties = tied_names(network)
    names |= {key: next(filter(None, map(names.get, ties[key])), None) for key in wanted if key in ties}
    missing = sorted(key for key, stored in names.items() if stored is None)
    if missing:
        raise UserError(f"{place}: lacks {len(missing)} weights of {name}, such as {missing[0]}")
    with readable(place, name):
        found = one_dtype({key: tensors[stored] for key, stored in names.items() if stored is not None})
    for key, value in found.items():
        if value.shape != wanted[key].shape:
            raise UserError(
                f"{place}: cannot be read as {name}: {key} is {_size(value)}, "
                f"and its configuration says {_size(wanted[key])}"
            )
    network.load_state_dict(found, assign=True)
    for tied, (first, *_) in ties.items():  # once more one weight in two places
        owner, _, leaf = tied.rpartition(".")
        setattr(network.get_submodule(owner), leaf, network.get_parameter(first))
    fill_positions(network, place)
    return network.eval()


def empty_network(library: str, name: str, config: Mapping[str, object]) -> torch.nn.Module:
    """Return a network of diffusers, transformers or a module of ours without memory for its weights."""
    cls = getattr(importlib.import_module(library), name)
    options = {key: value for key, value in config.items() if key != "weights_of"}
    with quiet(), torch.device("meta"):
        made = (
            cls(cls.config_class.from_dict(options))
            if getattr(cls, "config_class", None) is not None  # of transformers, wherever it lies
            else cls.from_config(options)
        )
    assert isinstance(made, torch.nn.Module)
    return made


def tied_names(network: torch.nn.Module) -> dict[str, list[str]]:
    """Return all names of each weight that a network holds under more than one, by each of them."""
    names: dict[int, list[str]] = {}
    for name, weight in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def stored_name(key: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of ``key`` among these, with or without CLIP's outer module, which transformers gave up."""
    names = (key, f"text_model.{key}", key.removeprefix("text_model."))
    return next((name for name in names if name in tensors), None)


def one_dtype(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same, in the widest of their float types where a file mixes them."""
    kinds = {value.dtype for value in tensors.values() if value.is_floating_point()}
    if len(kinds) < 2:
        return dict(tensors)
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def fill_positions(network: torch.nn.Module, place: Path) -> None:
    """Make the buffers that no file holds, the position numbers 0, 1, ... of CLIP. Raises UserError for others."""
    for owner in network.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.device.type != "meta":
                continue
            if name != "position_ids":
                raise UserError(f"{place}: does not hold the buffer {name} of {type(owner).__name__}")
            numbers = torch.arange(buffer.shape[-1], dtype=buffer.dtype, device="cpu").expand(buffer.shape)
            owner.register_buffer(name, numbers.clone(), persistent=False)


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


@contextmanager
def quiet() -> Iterator[None]:
    """Have the model libraries say nothing inside: no progress bars, no reports; their settings are put back."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    bars = [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [(library, library.get_verbosity()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of options that older versions know
            yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        for library in bars:
            library.enable_progress_bar()
