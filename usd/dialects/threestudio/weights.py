"""Weights of threestudio's checkpoints under the names, and in the layouts, that they have here.

A hash grid there is tinycudann's: all levels in one line, for a grid whose ``vertices`` are ``tinycudann``. A
FullyFusedMLP is its matrices one after the other, (out, in), both filled up to multiples of 16; inputs are filled up
with ones. Encodings without weights, the box, and what is computed anew (occupancy) are left out.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from usd.core.errors import UserError, listing

COMPONENTS = ("geometry", "material", "background")
NAMES = (
    (r"geometry\.encoding(?:\.encoding){1,2}\.params", "geometry.encoding.table"),
    (r"(\w+\.(?:\w+_)?network)\.layers\.(\d+\.weight)", r"\1.\2"),
    (r"(\w+\.(?:\w+_)?network)\.network\.params", r"\1"),
    (r"background\.env_color", "background.value"),
    (r"renderer\.variance\._inv_std", "renderer.variance"),
)
GRID = "geometry.encoding.table"
BUFFERS = ("geometry.encoding.mask", "geometry.start", "geometry.eps")
"""What a training here keeps beside its weights, and threestudio does not."""
UNREADABLE = {
    "geometry.grid": "its numbers lie in the middle of cells",
    "geometry.sdf": "its tetrahedra are another grid",
    "background.texture": "its panorama is laid out in another way",
}


def is_threestudio_state(state: object) -> bool:
    """Return whether weights by name are those of a threestudio checkpoint."""
    return isinstance(state, Mapping) and any(
        re.fullmatch(pattern, str(key)) for key in state for pattern, _ in NAMES
    )


def translate_weights(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``own`` (weights of this configuration, by name) with the values that a checkpoint has for them.

    Raises ``UserError`` for a weight of the object that the checkpoint lacks, or has in another shape.
    """
    named = {_name(key): value for key, value in theirs.items()}
    wanted = [key for key in own if _is_read(key)]
    found = {key: _value(key, named, own) for key in wanted}
    if missing := [key for key in wanted if found[key] is None]:
        raise UserError(_absence(missing[0], named))
    return {**own, **{key: value for key, value in found.items() if value is not None}}


def _is_read(key: str) -> bool:
    """Return whether a weight here is one that a checkpoint should have."""
    return (key.split(".", maxsplit=1)[0] in COMPONENTS or key == "renderer.variance") and key not in BUFFERS


def _name(key: str) -> str:
    """Return the name here of a weight there; the same where none is known."""
    for pattern, name in NAMES:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key


def _value(key: str, named: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensor | None:
    """Return the checkpoint's value of one weight here, None where it has none. Raises ``UserError``."""
    if key in UNREADABLE:
        raise UserError(
            f"{key}: cannot be read, {UNREADABLE[key]}; expected the mesh that threestudio exports"
        )
    network, _, index = key.removesuffix(".weight").rpartition(".")
    if key not in named and network in named and index.isdigit():
        return _fused_layer(key, named[network], _layers(network, own))
    value = named.get(key)
    if value is None:
        return None
    if key == GRID and value.dim() == 1 and value.numel() == own[key].numel():
        return value.view(own[key].shape).to(own[key].dtype)
    if value.shape != own[key].shape:
        hint = (
            "; expected the pos_encoding_config that it was trained with, and vertices: tinycudann in it"
            if key == GRID
            else ""
        )
        raise UserError(f"{key}: is {tuple(value.shape)} there and {tuple(own[key].shape)} here{hint}")
    return value.to(own[key].dtype)


def _layers(network: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices of a network here, first layer first."""
    return {
        key: value for key, value in own.items() if re.fullmatch(rf"{re.escape(network)}\.\d+\.weight", key)
    }


def _fused_layer(key: str, flat: Tensor, layers: Mapping[str, Tensor]) -> Tensor:
    """Return one layer of a FullyFusedMLP. Raises ``UserError`` where the network has another size, or biases."""
    sizes = {name: [-(-n // 16) * 16 for n in layer.shape] for name, layer in layers.items()}
    if flat.numel() != sum(math.prod(size) for size in sizes.values()):
        raise UserError(
            f"{key}: the network there has {flat.numel()} weights; expected layers of {_shapes(layers)}"
        )
    parts = dict(zip(sizes, flat.split([math.prod(size) for size in sizes.values()]), strict=True))
    rows, columns = layers[key].shape
    matrix = parts[key].view(*sizes[key])
    if key == next(iter(layers)) and matrix[:rows, columns:].any():
        raise UserError(
            f"{key}: the network there has biases (its inputs are filled up with ones); here it has none"
        )
    return matrix[:rows, :columns].to(layers[key].dtype)


def _shapes(layers: Mapping[str, Tensor]) -> str:
    return ", ".join(" x ".join(map(str, layer.shape)) for layer in layers.values())


def _absence(key: str, named: Iterable[str]) -> str:
    """Return why a weight is not there, and what is."""
    component = key.split(".", maxsplit=1)[0]
    there = sorted({name.split(".")[1] for name in named if name.startswith(f"{component}.")})
    has = f"; its {component} has {listing(there)}" if there else f"; it has no {component}"
    return (
        f"{key}: is not in it{has}. Expected the same configuration, or {component} in weights_ignore_modules"
    )


def own_weights(module: torch.nn.Module, name: str) -> dict[str, Tensor]:
    """Return a component's weights under the names that they have in a system."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}
