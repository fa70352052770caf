"""What there is to do: pictures of a folder, or lines of a text file, as tasks; and what was done before."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usd.batch import Task
from usd.batch.names import distinct
from usd.core import files, loading
from usd.core.errors import UserError, listing

PICTURES = frozenset(
    f".{ending}"
    for endings in (
        "png jpg jpeg jfif jpe webp bmp gif tif tiff tga ppm pgm pnm ico psd svg exr hdr",
        "heic heif hif avif jxl jp2 j2k raw dng cr2 cr3 nef arw raf orf rw2",
    )
    for ending in endings.split()
)
"""Endings of pictures, those included that this machine may not read: they are named, not skipped."""
PICTURE_KEY = "system.guidance.image_path"
PROMPT_KEY = "system.prompt_processor.prompt"


@dataclass(frozen=True)
class Source:
    """The source of an object: the path of a picture, or a sentence. ``names`` may name it, from short to certain.

    ``problem`` says why nothing can be made of it; empty where that is not known.
    """

    text: str
    names: tuple[str, ...]
    is_picture: bool
    problem: str = ""


def sources(given: Sequence[Path]) -> tuple[dict[str, Source], list[str]]:
    """Return the sources by name, in order, and a line for everything that was assumed or left out.

    Raises ``UserError`` where there are none.
    """
    found, notes = [], []
    for path in given:
        more, said = _read(path)
        found += more
        notes += said
    if not found:
        kinds = "a picture, a folder of pictures, or a .txt file with a sentence a line"
        raise UserError(f"{', '.join(map(str, given))}: holds nothing to make; expected {kinds}")
    once = list({source.text: source for source in found}.values())
    if len(once) < len(found):
        notes.append(
            f"note: {len(found) - len(once)} of {len(found)} sources are named twice; each is made once"
        )
    names = distinct([source.names for source in once])
    return dict(zip(names, once)), notes


def _read(path: Path) -> tuple[list[Source], list[str]]:
    """Return the sources that one argument stands for, and remarks."""
    try:
        if path.is_dir():
            return _of_folder(path)
        if not path.exists():
            raise UserError(f"{path}: no such picture, folder or text file")
        if not path.is_file():
            raise UserError(f"{path}: is no file; expected a picture, a folder or a text file")
        if path.suffix.lower() == ".txt":
            return [
                Source(line, (line.replace(" ", "-"), line), is_picture=False) for line in _lines(path)
            ], []
        return [_picture(path)], []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _of_folder(folder: Path) -> tuple[list[Source], list[str]]:
    entries = sorted(folder.iterdir())
    pictures = [entry for entry in entries if not entry.name.startswith(".") and is_picture(entry)]
    others = [entry.name + "/" * entry.is_dir() for entry in entries if entry not in set(pictures)]
    note = f"note: {folder}: left out what is no picture: {listing(map(ascii_name, others))}"
    return [_picture(entry) for entry in pictures], [note] if others else []


def ascii_name(name: str) -> str:
    """Return a name for a message: bytes that are no text, and control characters, are written as escapes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


def is_picture(path: Path) -> bool:
    """Return whether a path is a file that is a picture, by its ending or by its first bytes."""
    return path.suffix.lower() in PICTURES or (path.is_file() and _problem(path) == "")


def _picture(path: Path) -> Source:
    whole = Path(os.path.abspath(path))
    names = (whole.stem, whole.name, f"{whole.parent.name}-{whole.name}", str(whole))
    return Source(str(whole), names, is_picture=True, problem=_problem(whole))


def _problem(path: Path) -> str:
    """Why a file cannot be read as a picture, by its name and first bytes; empty where nothing speaks against it."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        return f"{path}: is no file; expected a picture"
    if not _is_prompt(str(path)):
        return f"{ascii_name(str(path))}: its name is not valid UTF-8; expected another name"
    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        kind = path.suffix.removeprefix(".").upper() or "this kind of file"
        return (
            f"{path}: {kind} cannot be read as a picture here; expected PNG, JPEG or WebP (convert it first)"
        )
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error})"
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"{path}: cannot be read as a picture ({error})"
    return ""


def _is_prompt(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: Path) -> list[str]:
    """Sentences, without empty lines and comments. Raises ``UserError`` where there are none."""
    lines = [line.strip().strip("\ufeff") for line in re.split(r"\r\n|\r|\n", _text_of(file))]
    sentences = [line for line in lines if line and not line.startswith("#")]
    if not sentences:
        raise UserError(f"{file}: holds no sentences; expected one a line")
    return sentences


def _text_of(file: Path) -> str:
    """Text as UTF-8, or as UTF-16 where its first bytes say so. Raises ``UserError``."""
    content = file.read_bytes()
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {line}: is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{file}: is not text; expected a sentence a line")
    return text


def digest(task: Task) -> str:
    """Return a hash of what is asked for: configuration with bases, overrides, the bytes of source and mesh."""
    contents = [content for file in task.configs for content, _ in loading.chain(file)]
    text = json.dumps([contents, task.overrides, task.export], sort_keys=True, default=str)
    return files.digest(text, fingerprint(task), *([_bytes_digest(task.mesh)] if task.mesh else []))


def fingerprint(task: Task) -> str:
    """Return the digest of a picture's bytes, or of a sentence. Raises ``UserError`` for an unreadable picture."""
    return _bytes_digest(task.source) if task.is_picture else files.digest(task.source)


def _bytes_digest(path: str) -> str:
    """Return the digest of a file's bytes. Raises ``UserError`` for an unreadable one."""
    try:
        return files.digest(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def done_before(task: Task) -> dict[str, Any] | None:
    """Return the record of a task that is done, as it is asked for now; None where something is left to do."""
    record = read_task_record(Path(task.folder))
    return record if "done" in record and record["done"] == digest(task) else None


def read_task_record(folder: Path) -> dict[str, Any]:
    """``batch.json`` in an object's folder; empty where there is none that can be read."""
    return files.read_record(folder / "batch.json") or {}


def write_task_record(folder: Path, record: dict[str, Any]) -> None:
    """Written whole or not at all. Raises ``UserError``."""
    files.write_record(folder / "batch.json", record)


def to_json(task: Task) -> str:
    """Return a task as JSON text."""
    return json.dumps(asdict(task))


def from_json(text: str) -> Task:
    """Return the task that ``to_json`` wrote."""
    values: dict[str, Any] = json.loads(text)
    plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return Task(**plain)
