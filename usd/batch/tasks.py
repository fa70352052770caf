"""What there is to do: pictures of a folder, or lines of a text file, as tasks; and what was done before."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from usd.batch import Task
from usd.core import loading
from usd.core.errors import UserError, listing
from usd.experiment import folder_name

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURE_KEY = "system.guidance.image_path"
WORDS_KEY = "system.prompt_processor.prompt"


def sources(given: Sequence[Path]) -> dict[str, str]:
    """Name -> picture or words, in order. Raises ``UserError`` where there are none, or two of one name."""
    found: list[tuple[str, str]] = []
    for path in given:
        if path.suffix.lower() == ".txt":
            found += [(folder_name(line).replace(" ", "-"), line) for line in _lines(path)]
        elif path.is_dir():
            found += [
                (file.stem, str(file.resolve())) for file in sorted(path.iterdir()) if _is_picture(file)
            ]
        elif path.is_file():
            found.append((path.stem, str(path.resolve())))
        else:
            raise UserError(f"{path}: no such picture, folder or text file")
    if not found:
        raise UserError(
            f"{', '.join(map(str, given))}: holds no pictures; expected files that end in {listing(PICTURES)}"
        )
    _refuse_twins(name for name, _ in found)
    return dict(found)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and file.is_file() and not file.name.startswith(".")


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    return [line for line in lines if line and not line.startswith("#")]


def _refuse_twins(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{name}: two objects are called this; every object needs a folder of its own")
        seen.add(name)


def digest(task: Task) -> str:
    """The identity of what is asked for: the configuration with all it inherits, the overrides, the source's bytes."""
    contents = [content for file in task.configs for content, _ in loading.chain(file)]
    text = json.dumps([contents, task.overrides, task.export], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode() + fingerprint(task.source).encode(), digest_size=12).hexdigest()


def fingerprint(source: str) -> str:
    """Of a picture's bytes, or of words."""
    file = Path(source)
    content = file.read_bytes() if _is_picture(file) else source.encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def done_before(task: Task) -> dict[str, Any] | None:
    """The record of a task that is done, as it is asked for now; None where something is left to do."""
    record = read_record(Path(task.folder))
    return record if record.get("done") == digest(task) else None


def read_record(folder: Path) -> dict[str, Any]:
    """``batch.json`` in an object's folder; empty where there is none that can be read."""
    try:
        record = json.loads((folder / "batch.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Written whole or not at all."""
    partial = folder / ".batch.json.partial"
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    partial.replace(folder / "batch.json")


def to_json(task: Task) -> str:
    return json.dumps(asdict(task))


def from_json(text: str) -> Task:
    values: dict[str, Any] = json.loads(text)
    plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return Task(**plain)
