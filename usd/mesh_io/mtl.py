"""Wavefront material libraries: Kd, and map_Kd with its options, file names of every kind."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from usd.math.color import linear_from_srgb
from usd.mesh_io.colored_mesh import BaseColor, Texture, Wrap
from usd.mesh_io.files import Neighbor, decode_text, find_neighbor
from usd.mesh_io.images import decode_image

ARGUMENTS = {"-mm": 2} | dict.fromkeys(
    ["-blendu", "-blendv", "-cc", "-clamp", "-texres", "-bm", "-boost", "-imfchan", "-type", "-colorspace"], 1
)
VECTORS = ("-o", "-s", "-t")
"""Options of one to three numbers: offset, scale, turbulence."""


@dataclass(frozen=True)
class ObjMaterial:
    """A material's base color, and the scale and offset of its texture's coordinates (v up)."""

    color: BaseColor
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class TextureLine:
    """The arguments of ``map_Kd``: the candidates of its file name, most likely first, and its options."""

    names: tuple[str, ...]
    clamp: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


def texture_line(text: str) -> TextureLine:
    """Return what a texture statement says. Options stand before the file name, which may hold spaces."""
    rest, clamp, vectors = text.strip(), False, dict[str, list[float]]()
    while (match := re.match(r"(-\w+)\s+", rest)) is not None:
        word = match[1].lower()
        if word in VECTORS:
            numbers = re.match(r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s+){1,3}", rest[match.end() :])
            taken = numbers[0] if numbers else ""
            vectors[word] = [float(value) for value in taken.split()]
        elif word in ARGUMENTS:
            values = re.match(rf"(?:\S+\s+){{{ARGUMENTS[word]}}}", rest[match.end() :])
            taken = values[0] if values else ""
            clamp = clamp or (word == "-clamp" and taken.strip().lower() == "on")
        else:
            break
        rest = rest[match.end() + len(taken) :]
    bare = re.sub(r"\s+#.*$", "", rest)
    return TextureLine((rest, bare), clamp, _pair(vectors.get("-s"), 1.0), _pair(vectors.get("-o"), 0.0))


def _pair(values: list[float] | None, default: float) -> tuple[float, float]:
    padded = [*(values or []), default, default]
    return padded[0], padded[1]


def find_named(folder: Path, names: tuple[str, ...]) -> Neighbor:
    """Return the first of several names of one file that is there."""
    found = [find_neighbor(folder, name) for name in names if name]
    return next((one for one in found if one.path is not None), Neighbor(None))


def read_materials(path: Path, notes: list[str]) -> dict[str, ObjMaterial]:
    """Return the materials of a library by name. What was assumed is added to ``notes``."""
    blocks: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in decode_text(path.read_bytes()).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ") if "\t" not in line.strip() else _split(line)
        if word.lower() == "newmtl":
            current = blocks.setdefault(rest.strip(), {})
        elif word and not word.startswith("#"):
            current.setdefault(word.lower(), rest)
    return {name: _material(name, block, path.parent, notes) for name, block in blocks.items()}


def _split(line: str) -> tuple[str, str, str]:
    words = line.split(None, 1)
    return (words[0], " ", words[1]) if len(words) == 2 else (line.strip(), "", "")


def _material(name: str, block: dict[str, str], folder: Path, notes: list[str]) -> ObjMaterial:
    color, line = _diffuse(block.get("kd")), texture_line(block.get("map_kd", ""))
    if "map_d" in block or float((block.get("d", "1").split() or ["1"])[-1]) < 1:
        notes.append("transparent materials are taken as opaque")
    if "map_kd" not in block:
        return ObjMaterial(BaseColor(color or (1.0, 1.0, 1.0, 1.0), named=color is not None))
    found = find_named(folder, line.names)
    notes += [found.note] if found.note else []
    if found.path is None:
        notes.append(f"material '{name}': its texture '{line.names[-1]}' is not there: no colors")
        return ObjMaterial(BaseColor(known=False))
    try:
        pixels = decode_image(found.path.read_bytes())
    except OSError:
        notes.append(f"material '{name}': its texture {found.path.name} is no picture: no colors")
        return ObjMaterial(BaseColor(known=False))
    if color is not None and max(color[:3]) == 0:
        notes.append(f"material '{name}': its Kd is black beside a texture, and taken as white")
        color = None
    if color is not None and min(color[:3]) < 0.99:
        notes.append(f"material '{name}': its texture is multiplied by its Kd ({block['kd'].strip()})")
    wrap: Wrap = "clamp" if line.clamp else "repeat"
    texture = Texture(pixels, (wrap, wrap))
    return ObjMaterial(BaseColor(color or (1.0, 1.0, 1.0, 1.0), texture), line.scale, line.offset)


def _diffuse(text: str | None) -> tuple[float, float, float, float] | None:
    """Return Kd, a color as displayed, as light."""
    words = (text or "").split()
    if not words or words[0] in ("spectral", "xyz"):
        return None
    values = [float(word) for word in words[:3]]
    shown = torch.tensor((values * 3)[:3] if len(values) < 3 else values, dtype=torch.float64)
    r, g, b = linear_from_srgb(shown.clamp(0, 1)).tolist()
    return (r, g, b, 1.0) if math.isfinite(r + g + b) else None


def texture_coordinates(uv: np.ndarray, material: ObjMaterial) -> np.ndarray:
    """Return coordinates with v down of an OBJ file's, which have v up, moved by the texture's options."""
    moved = uv * np.array(material.scale) + np.array(material.offset)
    return moved * [1.0, -1.0] + [0.0, 1.0]
