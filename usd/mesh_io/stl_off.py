"""STL and OFF files."""

import re
from pathlib import Path

import numpy as np
import torch

from usd.core.errors import UserError
from usd.math.color import linear_from_srgb
from usd.mesh_io.colored_mesh import BaseColor
from usd.mesh_io.files import decode_text
from usd.mesh_io.polygons import triangulate
from usd.mesh_io.primitive import Primitive, check_polygons

FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
"""A triangle of a binary STL file: 50 bytes."""


def read_stl(path: Path, content: bytes) -> tuple[list[Primitive], list[str]]:
    """Return the triangles of an ASCII or binary STL file, with the colors that two dialects of binary ones hold."""
    count = int.from_bytes(content[80:84], "little")
    # Binary files may begin with the same word; text has no zero bytes.
    if re.match(rb"(\xef\xbb\xbf)?\s*solid", content, re.IGNORECASE) and b"\0" not in content[:512]:
        corners, light = _ascii_corners(path, content), None
    elif len(content) < 84 + FACET.itemsize * count:
        has = max(len(content) - 84, 0) // FACET.itemsize
        raise UserError(f"{path}: cannot be read as a mesh: has {has} of {count} faces: is the file cut off?")
    else:
        facets = np.frombuffer(content, FACET, count, 84)
        corners, light = facets["corners"].astype(np.float64), _facet_light(facets, content[:80])
    if not len(corners):
        raise UserError(f"{path}: has no faces; expected a triangle mesh")
    faces = np.arange(3 * len(corners)).reshape(-1, 3)
    return [Primitive(corners.reshape(-1, 3), faces, BaseColor(named=light is not None), None, light)], []


def _ascii_corners(path: Path, content: bytes) -> np.ndarray:
    """Return corners (F, 3, 3) of the facets of an ASCII STL file, of all its solids."""
    words = content.lower().split()
    starts = np.flatnonzero(np.array(words, dtype=object) == b"vertex")
    if len(starts) % 3 or not re.search(rb"end\s*solid", content.lower().rsplit(b"endfacet", 1)[-1]):
        raise UserError(f"{path}: cannot be read as a mesh: has no end: is the file cut off?")
    table = np.array([words[at + 1 : at + 4] for at in starts.tolist()], dtype=object).reshape(-1, 3)
    return table.astype(np.float64).reshape(-1, 3, 3)


def _facet_light(facets: np.ndarray, head: bytes) -> np.ndarray | None:
    """Return linear light and alpha of facets' colors of 5 bits a channel, as displayed; None where none has one.

    Magics writes a color into the header and red lowest in the attribute; the highest bit is set where a facet has the
    header's color. VisCAM and SolidView write blue lowest; the highest bit is set where a facet has a color.
    """
    attribute = facets["attribute"].astype(np.int64)
    at, special = head.find(b"COLOR="), attribute >> 15 == 1
    channels = np.stack([attribute, attribute >> 5, attribute >> 10], -1) & 31
    if 0 <= at <= 70:
        whole = np.frombuffer(head, np.uint8, 3, at + 6)
        shown = np.where(special[:, None], whole, channels / 31 * 255)
    elif special.any():
        shown = np.where(special[:, None], channels[:, ::-1] / 31 * 255, 255.0)
    else:
        return None
    light = linear_from_srgb(torch.from_numpy(shown / 255)).numpy()
    return np.concatenate([light, np.ones((len(light), 1))], 1)[:, None, :].repeat(3, 1)


def read_off(path: Path, content: bytes) -> tuple[list[Primitive], list[str]]:
    """Return the polygons of an ASCII OFF file, with colors of vertices (COFF) or of faces where it has them."""
    text = re.sub(r"#[^\n]*", "", decode_text(content))
    match = re.match(r"\s*(ST)?(C)?(N)?OFF\b", text)
    if match is None or "BINARY" in text[: match.end() + 10]:
        raise UserError(f"{path}: cannot be read as a mesh: is no ASCII OFF file")
    lines = [line.split() for line in text[match.end() :].splitlines() if line.strip()]
    try:
        n, f = int(lines[0][0]), int(lines[0][1])
        table = np.array([[float(word) for word in row] for row in lines[1 : 1 + n]]).reshape(n, -1)
        rows = [(int(row[0]), row[1:]) for row in lines[1 + n : 1 + n + f]]
        flat = np.array([int(word) for count, row in rows for word in row[:count]], np.int64)
        counts = np.array([count for count, _ in rows], np.int64)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a mesh ({error})") from error
    if not len(flat) or len(rows) < f:
        raise UserError(f"{path}: has {len(rows)} of {f} faces, {n} points; expected a triangle mesh")
    check_polygons(flat, counts, n, str(path))
    corner, owner = triangulate(flat, counts, table[:, :3])
    faces, light = flat[corner], None
    if match[2]:
        start = 6 if match[3] else 3
        light = _light(table[:, start : start + 3])[faces]
    elif all(len(row) >= count + 3 for count, row in rows):
        stored = np.array([[float(word) for word in row[count : count + 3]] for count, row in rows])
        light = _light(stored)[owner][:, None, :].repeat(3, 1)
    return [Primitive(table[:, :3], faces, BaseColor(named=light is not None), None, light)], []


def _light(stored: np.ndarray) -> np.ndarray:
    """Return linear light and alpha of colors as displayed, in bytes where any is beyond 1."""
    shown = torch.from_numpy(stored / (255.0 if stored.max(initial=0.0) > 1 else 1.0)).clamp(0, 1)
    return np.concatenate([linear_from_srgb(shown).numpy(), np.ones((len(stored), 1))], 1)
