"""What a trial's folder says of itself: configuration, changes, commands, the run, figures and pictures."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import yaml

from usd.core import files
from usd.core.errors import UserError

RUN, CHANGES, PREVIEW = "run.json", "configs/changes.json", "save/preview.glb"
PREVIEW_SPLATS, PREVIEW_TURN = "save/preview.ply", "save/preview"
SPLATS = b"KHR_gaussian_splatting"
HEAD = 1 << 16
STEP = re.compile(r"it(\d+)")


@dataclass(frozen=True)
class TrialRecord:
    """The files of a trial. What is missing, or cannot be read, is empty."""

    folder: Path

    @classmethod
    def of(cls, folder: "Path | str") -> "TrialRecord":
        """Return the record of a trial's folder. Raises ``UserError`` where that is none."""
        path = Path(folder)
        if not (path / "configs" / "parsed.yaml").is_file():
            raise UserError(f"{path}: has no configs/parsed.yaml; expected a trial's folder")
        return cls(path)

    @cached_property
    def config(self) -> Mapping[str, object]:
        """The configuration as it was understood."""
        return mapping(yaml.safe_load(self.config_text))

    @cached_property
    def config_text(self) -> str:
        """The same as YAML."""
        return (self.folder / "configs" / "parsed.yaml").read_text("utf-8", "replace")

    @cached_property
    def changes(self) -> Mapping[str, Mapping[str, object]] | None:
        """Values by key path, ``recipe`` and ``here``, where both differ; None where nobody wrote them down."""
        found = files.read_record(self.folder / CHANGES)
        return None if found is None else {key: mapping(value) for key, value in found.items()}

    @cached_property
    def commands(self) -> list[str]:
        """The command lines that worked on the trial."""
        file = self.folder / "cmd.txt"
        lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
        return [plain_command(line) for line in lines if line.strip()]

    @cached_property
    def run(self) -> Mapping[str, object]:
        """The time, memory and machine of the training: ``run.json``."""
        return files.read_record(self.folder / RUN) or {}

    @property
    def title(self) -> str:
        """The trial's own name."""
        return str(self.config.get("tag") or self.folder.name)

    @property
    def prompt(self) -> str:
        """The sentence it was made from; empty where it was made from pictures."""
        return str(self.option("system.prompt_processor.prompt") or "")

    @property
    def input_picture(self) -> Path | None:
        """The picture it was made from, as understood; None where there was none."""
        file = self.folder / "save" / "reference.png"
        return file if file.is_file() else None

    @property
    def model(self) -> Path | None:
        """The object as a binary glTF: what was exported last, else the preview of the training."""
        exported = max(
            (file for file in self.save.glob("it*-export/*.glb") if not holds_splats(file)),
            key=lambda file: (step_of(file), file.name),
            default=None,
        )
        preview = self.folder / PREVIEW
        if exported is None or (preview.is_file() and step_of(exported) < step_of_run(self.run)):
            return preview if preview.is_file() else exported
        return exported

    @property
    def turn(self) -> list[Path]:
        """Pictures of Gaussians by their own renderer, once around; none where the object is no Gaussians."""
        return sorted((self.folder / PREVIEW_TURN).glob("*.png"))

    @property
    def splats(self) -> Path | None:
        """The Gaussians as PLY, as the training left them; None where the object is none."""
        file = self.folder / PREVIEW_SPLATS
        return file if file.is_file() else None

    @property
    def views(self) -> list[Path]:
        """The rendered views of the last test, around the object where they are."""
        found = self.newest("it*-turntable") or self.newest("it*-test")
        pictures = found.glob("*.png") if found and found.is_dir() else ()
        return sorted((file for file in pictures if file.stem.isdigit()), key=lambda file: int(file.stem))

    @property
    def truth_sheet(self) -> tuple[Path, str] | None:
        """The sheet of the last test's views beside their truth, and the order of its rows; None without one."""
        folder = self.newest("it*-test")
        rows = read_mapping(folder / "metrics.json").get("sheet") if folder else None
        file = self.save / f"{folder.name}.png" if folder else None
        return (file, rows) if isinstance(rows, str) and file is not None and file.is_file() else None

    @property
    def turns(self) -> bool:
        """True where views or a video go around the object."""
        return self.video is not None or self.newest("it*-turntable") is not None

    @property
    def video(self) -> Path | None:
        """The turntable; None where none was made."""
        return self.newest("it*-turntable.mp4") or self.newest("it*-test.mp4")

    @property
    def validation(self) -> list[tuple[int, Path]]:
        """Step and first picture of every validation."""
        found = {step_of(file): file for file in sorted(self.save.glob("it*-0.png"), reverse=True)}
        return sorted(found.items())

    @property
    def save(self) -> Path:
        """The folder of pictures, videos and exported files."""
        return self.folder / "save"

    @property
    def exported(self) -> list[Path]:
        """The files of the last export."""
        folder = self.newest("it*-export")
        return sorted(file for file in folder.iterdir() if file.is_file()) if folder else []

    def newest(self, pattern: str) -> Path | None:
        """Return what fits a pattern below ``save`` and belongs to the highest step; None where nothing does."""
        return max(self.save.glob(pattern), key=lambda file: (step_of(file), file.name), default=None)

    def scores(self) -> Mapping[str, object]:
        """Return how far held-out views were from the truth in the last test that had any."""
        file = self.newest("it*/metrics.json")
        return read_mapping(file) if file else {}

    def export_report(self) -> Mapping[str, object]:
        """Return the figures of the mesh that was exported last."""
        file = self.newest("it*-export/*-report.json")
        return read_mapping(file) if file else {}

    def option(self, path: str) -> object:
        """Return the value at a key path of the configuration; None where there is none."""
        value: object = self.config
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def holds_splats(file: Path) -> bool:
    """Return whether a binary glTF holds Gaussians, which show as bare points where nobody knows the extension."""
    with file.open("rb") as content:
        return SPLATS in content.read(HEAD)


def step_of(path: Path) -> int:
    """Return the step in a path's names, ``it600-test``; -1 where there is none."""
    found = [int(match[1]) for part in path.parts[-2:] if (match := STEP.match(part))]
    return found[-1] if found else -1


def step_of_run(run: Mapping[str, object]) -> int:
    """Return the step that a training ended at; 0 where nobody wrote it down."""
    step = run.get("step", 0)
    return step if isinstance(step, int) else 0


def plain_command(line: str) -> str:
    """Return a command as people type it: without the path of Python's interpreter."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line
    if words and "python" in Path(words[0]).name:
        words[0] = "python"
    if words[:3] == ["python", "-m", "usd"]:
        words = words[2:]
    return shlex.join(words)


def mapping(value: object) -> Mapping[str, object]:
    """Return a mapping as such, and anything else as an empty one."""
    return cast(Mapping[str, object], value) if isinstance(value, Mapping) else {}


def read_mapping(file: Path) -> Mapping[str, object]:
    """Return the object in a JSON file; an empty one where it cannot be read."""
    try:
        return mapping(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError):
        return {}
