"""Bytes of mesh files and of the files they name: what is no mesh is refused, what differs in case only is found."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from usd.core.errors import UserError, did_you_mean

READABLE = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
OTHERS = {
    ".usdz": "USDZ",
    ".usd": "USD",
    ".usda": "USD",
    ".usdc": "USD",
    ".fbx": "FBX",
    ".dae": "COLLADA",
    ".3mf": "3MF",
    ".blend": "Blender's own",
    ".3ds": "3DS",
    ".abc": "Alembic",
    ".x3d": "X3D",
    ".wrl": "VRML",
    ".step": "STEP",
    ".stp": "STEP",
    ".iges": "IGES",
}
"""Endings of files with meshes that are not read."""
BEGINNINGS = {
    b"glTF": ".glb",
    b"ply": ".ply",
    b"OFF": ".off",
    b"solid ": ".stl",
    b"Kaydara FBX": ".fbx",
    b"BLENDER": ".blend",
    b"PXR-USDC": ".usdc",
    b"#usda": ".usda",
    b"PK\3\4": ".zip",
}
"""First bytes of the files that have some of their own, and their endings."""
ONE_READER = ({".glb", ".gltf"},)
"""Endings that one reader tells apart by the content."""
BY_BLENDER = "; Blender reads most of them and writes GLB"
LFS_POINTER = b"version https://git-lfs.github.com/spec"


def read_content(path: Path) -> bytes:
    """Return the bytes of a mesh file. Raises UserError for a missing or empty one, an LFS pointer or a web page."""
    if path.suffix.lower() not in READABLE:
        other = OTHERS.get(path.suffix.lower())
        what = "not a mesh file" if other is None else f"is of a kind that is not read, {other}"
        raise UserError(f"{path}: {what}; expected {', '.join(READABLE)}{BY_BLENDER if other else ''}")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such mesh file"
        names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: {what}; expected a mesh file.{did_you_mean(path.name, names)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        raise UserError(f"{path}: the file is empty; expected a mesh")
    if content.startswith(LFS_POINTER):
        raise UserError(f"{path}: is a Git LFS pointer, not the mesh itself; fetch it with git lfs pull")
    if content[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path}: is a web page; expected a mesh file")
    _refuse_other_kind(path, content)
    return content


def _refuse_other_kind(path: Path, content: bytes) -> None:
    """Raise UserError where the first bytes are those of another kind of file than the name says."""
    named, found = path.suffix.lower(), _ending_of(content)
    whole_stl = named == ".stl" and len(content) == 84 + 50 * int.from_bytes(content[80:84], "little")
    if found in ("", named) or {named, found} in ONE_READER or whole_stl:
        return
    if found in READABLE:
        raise UserError(
            f"{path}: is a {found} file with another ending; expected the name {path.stem}{found}"
        )
    kind = OTHERS.get(found, "a zip archive (USDZ and 3MF are some)")
    raise UserError(
        f"{path}: is of a kind that is not read, {kind}; expected {', '.join(READABLE)}{BY_BLENDER}"
    )


def _ending_of(content: bytes) -> str:
    """Return the ending that the first bytes of a file belong to; nothing where they tell none."""
    head = content.removeprefix(codecs.BOM_UTF8).lstrip()
    if head.startswith(b"{") and b'"asset"' in head:
        return ".gltf"
    return next((ending for start, ending in BEGINNINGS.items() if head.startswith(start)), "")


def decode_text(content: bytes) -> str:
    """Return text of UTF-8 bytes, or of UTF-16 with a byte-order mark (marks are dropped), else of Latin-1."""
    try:
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


@dataclass(frozen=True)
class Neighbor:
    """A file that a mesh file names, or None where there is none; ``note`` says where its name differs."""

    path: Path | None
    note: str | None = None


def find_neighbor(folder: Path, name: str) -> Neighbor:
    """Find a file by the name that a mesh file in ``folder`` gives it.

    Backslashes are slashes. Where the path does not exist case is ignored; then its last part is looked for there.
    """
    wanted = name.strip().strip('"').replace("\\", "/")
    direct = folder / wanted
    if wanted and direct.is_file():
        return Neighbor(direct)
    parts = [part for part in re.split(r"/+", wanted) if part not in ("", ".")]
    for trial in (parts, parts[-1:]):
        found = _ignoring_case(folder, trial)
        if found is not None:
            return Neighbor(found, f"'{name}' is read from {found.name}")
    return Neighbor(None)


def _ignoring_case(folder: Path, parts: list[str]) -> Path | None:
    """Return the one file below a folder whose path differs in case at most; None for none or several."""
    at = folder
    for part in parts:
        if part == "..":
            at = at.parent
            continue
        entries = list(at.iterdir()) if at.is_dir() else []
        same = [entry for entry in entries if entry.name.lower() == part.lower()]
        if len(same) != 1:
            return None
        at = same[0]
    return at if parts and at.is_file() else None
