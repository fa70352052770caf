"""PLY files, ASCII and binary: vertices, polygons, colors of vertices or faces, textures as MeshLab writes them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from usd.core.errors import UserError
from usd.math.color import linear_from_srgb
from usd.mesh_io.colored_mesh import BaseColor, Texture
from usd.mesh_io.files import find_neighbor
from usd.mesh_io.images import decode_image
from usd.mesh_io.polygons import triangulate
from usd.mesh_io.primitive import Primitive, check_polygons

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
SPLAT = {"f_dc_0", "scale_0", "rot_0", "opacity"}
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
COORDINATES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))


@dataclass(frozen=True)
class Property:
    """A column of an element: its type, and the type of its length where it is a list."""

    name: str
    kind: str
    length: str | None = None


@dataclass
class Element:
    """A table of a file. Lists are kept as one flat array and the number of values of each row."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def read_ply(path: Path, content: bytes) -> tuple[list[Primitive], list[str]]:
    """Return the faces as parts, one a texture, and what was assumed. Raises UserError for point clouds and splats."""
    elements, form, comments, place = _header(path, content)
    tables = {element.name: element for element in elements}
    vertex, face = tables.get("vertex"), tables.get("face", tables.get("tristrips"))
    names = {prop.name for prop in vertex.properties} if vertex else set()
    if names >= SPLAT:
        raise UserError(f"{path}: is a Gaussian splat; expected a triangle mesh")
    if vertex is None or face is None or face.count == 0:
        raise UserError(
            f"{path}: has no faces, {vertex.count if vertex else 0} points only; expected a triangle mesh"
        )
    try:
        if form == "ascii":
            _read_ascii(elements, content[place:])
        else:
            _read_binary(elements, content[place:], form)
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a mesh: is the file cut off? ({error})") from error
    vertices = np.stack([vertex.columns[axis] for axis in "xyz"], -1).astype(np.float64)
    notes: list[str] = []
    return _primitives(path, vertices, vertex, face, comments, notes), notes


def read_vertex_columns(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Return the columns of a file's vertices, whatever else it has. Raises UserError."""
    elements, form, _, place = _header(path, content)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None:
        raise UserError(f"{path}: has no vertices")
    try:
        if form == "ascii":
            _read_ascii(elements, content[place:])
        else:
            _read_binary(elements, content[place:], form)
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: is the file cut off? ({error})") from error
    return vertex.columns


def _header(path: Path, content: bytes) -> tuple[list[Element], str, list[str], int]:
    """Return the tables, the form, the comments and where the data starts."""
    match = re.search(rb"end_header[ \t]*(\r\n|\n|\r)", content)
    if not content.startswith(b"ply") or match is None:
        raise UserError(f"{path}: cannot be read as a mesh: has no PLY header")
    elements, form, comments = list[Element](), "", list[str]()
    for line in content[: match.start()].decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append(Element(words[1], int(words[2])))
        elif words[:2] == ["property", "list"]:
            elements[-1].properties.append(Property(words[4], TYPES[words[3]], TYPES[words[2]]))
        elif words[:1] == ["property"]:
            elements[-1].properties.append(Property(words[2], TYPES[words[1]]))
        elif words[:1] == ["comment"]:
            comments.append(line.split("comment", 1)[1].strip())
    return elements, form, comments, match.end()


def _read_ascii(elements: list[Element], data: bytes) -> None:
    words, place = np.array(data.split(), dtype=object), 0
    for element in elements:
        rows: dict[str, list[np.ndarray]] = {prop.name: [] for prop in element.properties}
        if all(prop.length is None for prop in element.properties):
            width = len(element.properties)
            table = (
                words[place : place + element.count * width].astype(np.float64).reshape(element.count, width)
            )
            element.columns = {
                prop.name: table[:, i].astype(prop.kind) for i, prop in enumerate(element.properties)
            }
            place += element.count * width
            continue
        for _ in range(element.count):
            for prop in element.properties:
                size = 1 if prop.length is None else int(words[place])
                place += prop.length is not None
                rows[prop.name].append(words[place : place + size].astype(np.float64).astype(prop.kind))
                place += size
        if place > len(words):
            raise ValueError("too few numbers")
        _keep(element, rows)


def _read_binary(elements: list[Element], data: bytes, form: str) -> None:
    order, place = "<" if form == "binary_little_endian" else ">", 0
    for element in elements:
        if all(prop.length is None for prop in element.properties):
            kind = np.dtype([(prop.name, order + prop.kind) for prop in element.properties])
            table = np.frombuffer(data, kind, element.count, place)
            element.columns = {prop.name: table[prop.name] for prop in element.properties}
            place += kind.itemsize * element.count
        elif not (taken := _equal_lists(element, data, order, place)):
            place = _uneven_lists(element, data, order, place)
        else:
            place += taken


def _equal_lists(element: Element, data: bytes, order: str, place: int) -> int:
    """Read a table whose lists have the same length in all rows, at once; the bytes it took, 0 where they differ."""
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    at = place
    for prop in element.properties:
        size = 1
        if prop.length is not None:
            length = np.frombuffer(data, order + prop.length, 1, at)
            size, at = int(length[0]), at + length.nbytes
            fields.append((f"#{prop.name}", order + prop.length, ()))
        fields.append((prop.name, order + prop.kind, (size,)))
        at += size * np.dtype(prop.kind).itemsize
    kind = np.dtype(fields)
    if place + kind.itemsize * element.count > len(data):
        return 0
    table = np.frombuffer(data, kind, element.count, place)
    for prop in element.properties:
        if prop.length is not None and (table[f"#{prop.name}"] != table[prop.name].shape[1]).any():
            return 0
    for prop in element.properties:
        values = table[prop.name]
        if prop.length is None:
            element.columns[prop.name] = values[:, 0]
        else:
            element.lists[prop.name] = (values.reshape(-1), np.full(element.count, values.shape[1]))
    return kind.itemsize * element.count


def _uneven_lists(element: Element, data: bytes, order: str, place: int) -> int:
    rows: dict[str, list[np.ndarray]] = {prop.name: [] for prop in element.properties}
    for _ in range(element.count):
        for prop in element.properties:
            size = 1
            if prop.length is not None:
                length = np.frombuffer(data, order + prop.length, 1, place)
                size, place = int(length[0]), place + length.nbytes
            values = np.frombuffer(data, order + prop.kind, size, place)
            rows[prop.name].append(values)
            place += values.nbytes
    _keep(element, rows)
    return place


def _keep(element: Element, rows: dict[str, list[np.ndarray]]) -> None:
    for prop in element.properties:
        values = rows[prop.name]
        flat = np.concatenate(values) if values else np.zeros(0)
        if prop.length is None:
            element.columns[prop.name] = flat
        else:
            element.lists[prop.name] = (flat, np.array([len(row) for row in values]))


def _primitives(
    path: Path, vertices: np.ndarray, vertex: Element, face: Element, comments: list[str], notes: list[str]
) -> list[Primitive]:
    """Return one primitive; of a file with several textures one for each that faces name (``texnumber``)."""
    name = next((n for n in ("vertex_indices", "vertex_index") if n in face.lists), None)
    if name is None:
        raise UserError(f"{path}: its faces have no vertex_indices; expected a triangle mesh")
    flat, counts = face.lists[name][0].astype(np.int64), face.lists[name][1]
    if face.name == "tristrips":
        flat, counts = _strips(flat)
    check_polygons(flat, counts, len(vertices), str(path))
    corner, owner = triangulate(flat, counts, np.nan_to_num(vertices))
    faces = flat[corner]
    light = _light(vertex.columns)
    corners = None if light is None else light[faces]
    of_faces = None if face.name == "tristrips" else _light(face.columns)
    if corners is None and of_faces is not None:
        corners = of_faces[owner][:, None, :].repeat(3, 1)
    color = BaseColor(named=corners is not None)
    textures = _textures(path, comments, notes)
    if not textures or not all(texture.known for texture in textures):
        shown = color if not textures or corners is not None else BaseColor(known=False)
        return [Primitive(vertices, faces, shown, None, corners)]
    uv = _coordinates(vertex, face, faces, corner, len(flat))
    number = face.columns.get("texnumber", np.zeros(len(counts)))[owner].astype(np.int64)
    if uv is None or (number < 0).any() or (number >= len(textures)).any():
        notes.append("a texture has no coordinates, or faces name none: no colors")
        return [Primitive(vertices, faces, BaseColor(known=False))]
    notes += ["vertex colors beside a texture are left out"] if corners is not None else []
    laid = uv * [1.0, -1.0] + [0.0, 1.0]
    return [
        Primitive(vertices, faces[number == i], textures[i], laid[number == i])
        for i in np.unique(number).tolist()
    ]


def _strips(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return triangles of strips that -1 parts, as polygons of three corners."""
    rows = []
    for strip in np.split(flat, np.flatnonzero(flat == -1)):
        strip = strip[strip >= 0]
        i = np.arange(max(len(strip) - 2, 0))
        rows.append(np.stack([strip[i], strip[i + 1 + i % 2], strip[i + 2 - i % 2]], -1))
    table = np.concatenate(rows)
    return table.reshape(-1), np.full(len(table), 3)


def _light(columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return linear light and alpha (N, 4) of colors as displayed: 8 or 16 bits, or numbers in [0, 1] or [0, 255]."""
    names = next((names for names in COLORS if all(name in columns for name in names)), None)
    if names is None:
        return None
    stored = np.stack([columns[name] for name in names], -1)
    scale = {"u1": 255.0, "u2": 65535.0}.get(
        stored.dtype.str[1:], 255.0 if stored.max(initial=0) > 1 else 1.0
    )
    shown = torch.from_numpy(stored.astype(np.float64) / scale).clamp(0, 1)
    return np.concatenate([linear_from_srgb(shown).numpy(), np.ones((len(stored), 1))], 1)


def _coordinates(
    vertex: Element, face: Element, faces: np.ndarray, corner: np.ndarray, corners: int
) -> np.ndarray | None:
    """Return texture coordinates (v up) at corners of triangles: of each face's own corners, or of vertices."""
    flat = face.lists.get("texcoord", (np.zeros(0), np.zeros(0)))[0]
    if len(flat) == 2 * corners:
        return flat.reshape(-1, 2).astype(np.float64)[corner]
    names = next((names for names in COORDINATES if all(n in vertex.columns for n in names)), None)
    if names is None:
        return None
    return np.stack([vertex.columns[name] for name in names], -1).astype(np.float64)[faces]


def _textures(path: Path, comments: list[str], notes: list[str]) -> list[BaseColor]:
    """Return the textures that comments name, in their order."""
    names = [line.split(None, 1)[1] for line in comments if re.match(r"(?i)texturefile\s+\S", line)]
    return [_texture(path, name, notes) for name in names]


def _texture(path: Path, name: str, notes: list[str]) -> BaseColor:
    found = find_neighbor(path.parent, name)
    notes += [found.note] if found.note else []
    try:
        content = found.path.read_bytes() if found.path is not None else b""
        return BaseColor(texture=Texture(decode_image(content)))
    except OSError:
        notes.append(f"its texture '{name}' is not there or no picture: no colors")
        return BaseColor(known=False)
