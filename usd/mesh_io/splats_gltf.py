"""Gaussian splats in glTF 2.0: points with the attributes of KHR_gaussian_splatting.

Scales are linear, opacities shares, quaternions have their real part last, colors are coefficients of harmonics;
viewers that do not know the extension show points with COLOR_0.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.math.color import linear_from_srgb
from usd.math.spherical_harmonics import CONSTANT
from usd.math.splats import ColoredSplats
from usd.mesh_io.gltf_document import Document
from usd.mesh_io.write import container

EXTENSION = "KHR_gaussian_splatting"
FLOAT, ARRAY_BUFFER, POINTS = 5126, 34962, 0
PROPERTIES = {
    "kernel": "ellipse",
    "colorSpace": "srgb_rec709_display",
    "projection": "perspective",
    "sortingMethod": "cameraDistance",
}


def glb_of_splats(splats: ColoredSplats) -> bytes:
    """Return a GLB of splats in glTF's axes (+y up)."""
    quaternions = torch.nn.functional.normalize(splats.rotations, dim=-1)[:, [1, 2, 3, 0]]
    shown = linear_from_srgb((splats.harmonics[:, 0] * CONSTANT + 0.5).clamp(0, 1))
    attributes = {
        "POSITION": splats.means,
        "COLOR_0": torch.cat([shown, splats.opacities[:, None].clamp(0, 1)], 1),
        f"{EXTENSION}:ROTATION": quaternions,
        f"{EXTENSION}:SCALE": splats.scales,
        f"{EXTENSION}:OPACITY": splats.opacities[:, None].clamp(0, 1),
    }
    for k in range(splats.harmonics.shape[1]):
        degree = int(k**0.5)
        attributes[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{k - degree**2}"] = splats.harmonics[:, k]
    arrays = [value.detach().cpu().float().contiguous().numpy() for value in attributes.values()]
    views, accessors, place = list[dict[str, object]](), list[dict[str, object]](), 0
    for array in arrays:
        views.append({"buffer": 0, "byteOffset": place, "byteLength": array.nbytes, "target": ARRAY_BUFFER})
        accessors.append(_accessor(len(views) - 1, array))
        place += array.nbytes
    accessors[0] |= {"min": arrays[0].min(0).tolist(), "max": arrays[0].max(0).tolist()}
    primitive = {
        "mode": POINTS,
        "attributes": {name: i for i, name in enumerate(attributes)},
        "extensions": {EXTENSION: PROPERTIES},
    }
    document = {
        "asset": {"version": "2.0", "generator": "usd"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "splats"}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": place}],
        "bufferViews": views,
        "accessors": accessors,
    }
    return container(json.dumps(document).encode(), b"".join(array.tobytes() for array in arrays))


def _accessor(view: int, array: NDArray[np.float32]) -> dict[str, object]:
    kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[array.shape[1]]
    return {"bufferView": view, "componentType": FLOAT, "count": len(array), "type": kind}


def read_gltf_splats(path: Path, content: bytes) -> ColoredSplats:
    """Return the splats of all primitives of a file, in glTF's axes. Raises ``UserError`` where there are none."""
    document = Document(path, content)
    found = [
        _splats(path, document, primitive["attributes"])
        for mesh in document.tree.get("meshes", [])
        for primitive in mesh["primitives"]
        if EXTENSION in primitive.get("extensions", {})
    ]
    if not found:
        raise UserError(f"{path}: has no Gaussian splats; expected points with {EXTENSION}")
    if any(
        node.keys() & {"matrix", "translation", "rotation", "scale"}
        for node in document.tree.get("nodes", [])
    ):
        raise UserError(f"{path}: its nodes move the splats; expected splats where they belong")
    most = max(one.harmonics.shape[1] for one in found)
    padded = [
        torch.nn.functional.pad(one.harmonics, (0, 0, 0, most - one.harmonics.shape[1])) for one in found
    ]
    return ColoredSplats(
        torch.cat([one.means for one in found]),
        torch.cat([one.scales for one in found]),
        torch.cat([one.rotations for one in found]),
        torch.cat([one.opacities for one in found]),
        torch.cat(padded),
    )


def _splats(path: Path, document: Document, attributes: dict[str, int]) -> ColoredSplats:
    """Return the splats of one primitive."""

    def column(name: str) -> Tensor:
        if name not in attributes:
            raise UserError(f"{path}: splats have no attribute {name}; expected it, as {EXTENSION} does")
        return torch.from_numpy(np.array(document.numbers(attributes[name]), dtype=np.float32))

    coefficients = sorted(
        (int(match[1]), int(match[2]), name)
        for name in attributes
        if (match := re.fullmatch(rf"{EXTENSION}:SH_DEGREE_(\d)_COEF_(\d)", name))
    )
    if len(coefficients) not in (1, 4, 9, 16):
        raise UserError(f"{path}: splats have {len(coefficients)} harmonics; expected 1, 4, 9 or 16")
    return ColoredSplats(
        column("POSITION"),
        column(f"{EXTENSION}:SCALE"),
        column(f"{EXTENSION}:ROTATION")[:, [3, 0, 1, 2]],
        column(f"{EXTENSION}:OPACITY").flatten(),
        torch.stack([column(name) for *_, name in coefficients], 1),
    )
