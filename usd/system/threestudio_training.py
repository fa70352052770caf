"""A training of threestudio's to start from: the weights of its checkpoint, and the configuration beside it.

Tensors are read, and nothing else: what its trainer left in the file is replaced by empty objects.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from usd.core.checkpoint import SavedComponent
from usd.core.config import Spec, spec
from usd.core.console import say
from usd.core.errors import ConfigError, UserError
from usd.core.loading import load_merged
from usd.core.registry import build
from usd.denoiser.pickles import read_pickle
from usd.dialects import translate
from usd.dialects.threestudio.weights import is_threestudio_state, own_weights, translate_weights
from usd.geometry import Geometry
from usd.material import Material

NETWORK_ALONE = "none"
"""The ``shape_init`` of a signed distance that is its network and nothing else."""


def threestudio_state(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a threestudio checkpoint by their names there; None for another program's file.

    Raises ``UserError`` for a file that holds objects which are neither weights nor a known trainer's.
    """
    content = read_pickle(path, zipped=True)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not is_threestudio_state(state):
        return None
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def weights_for(
    own: Mapping[str, Tensor], geometry: object, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return ``own`` with a threestudio checkpoint's values. Raises ``UserError`` where they make another object."""
    _refuse_other_place(geometry, state)
    return translate_weights(state, own)


def _refuse_other_place(geometry: object, state: Mapping[str, Tensor]) -> None:
    """Raise ``ConfigError`` where the same weights would make another size, or another distance."""
    box = state.get("geometry.bbox")
    if not isinstance(geometry, Geometry) or box is None:
        return
    radius = float(box.abs().max())
    if abs(radius - geometry.radius) > 1e-4 * radius:
        raise ConfigError(
            f"system.geometry.radius: is {geometry.radius:g}; expected the checkpoint's, {radius:g}"
        )
    start = getattr(geometry.config, "shape_init", None)
    if any(key.startswith("geometry.sdf_network.") for key in state) and start != NETWORK_ALONE:
        raise ConfigError(
            f"system.geometry.shape_init: is {start}; expected {NETWORK_ALONE}: the checkpoint's network holds the"
            " whole distance"
        )


def saved_components(path: Path, state: Mapping[str, Tensor]) -> tuple[SavedComponent, SavedComponent]:
    """Return geometry and material of a threestudio training, as its configuration has them. Raises ``UserError``."""
    specs = _component_specs(path)
    geometry = _saved("geometry", specs["geometry"], build(specs["geometry"], Geometry), state)
    return geometry, _saved("material", specs["material"], build(specs["material"], Material), state)


def _saved(kind: str, chosen: Spec, module: torch.nn.Module, state: Mapping[str, Tensor]) -> SavedComponent:
    found = weights_for(own_weights(module, kind), module, state)
    return SavedComponent(chosen, {key.removeprefix(f"{kind}."): value for key, value in found.items()}, 0)


def _component_specs(path: Path) -> dict[str, Spec]:
    """Return what geometry and material are, by ``configs/parsed.yaml`` of the checkpoint's trial."""
    file = path.resolve().parent.parent / "configs" / "parsed.yaml"
    if not file.is_file():
        raise UserError(
            f"{path}: is threestudio's, and {file} is not there; expected the trial's folder as threestudio wrote it"
        )
    values = load_merged([file]).resolved()
    system = values.get("system")
    keys = [f"{kind}{end}" for kind in ("geometry", "material") for end in ("_type", "")]
    chosen = {key: system[key] for key in keys if key in system} if isinstance(system, Mapping) else {}
    translation = translate({"system_type": values.get("system_type"), "system": chosen}, "threestudio")
    found = translation.values["system"]
    assert isinstance(found, Mapping)
    say(f"{path.name}: weights of threestudio's, configured by {file}")
    if str(found.get("geometry_type")) == "implicit-sdf":
        found = {**found, "geometry": {**found.get("geometry", {}), "shape_init": NETWORK_ALONE}}
    return {
        kind: spec(kind, str(found.get(f"{kind}_type", default)), found.get(kind), f"system.{kind}")
        for kind, default in (("geometry", "implicit-volume"), ("material", "no-material"))
    }
