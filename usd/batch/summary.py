"""What came of a batch: figures of an object's folder, a table of all, and a sheet of pictures to look at."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usd.batch import Result, Task
from usd.core import files
from usd.core.errors import UserError
from usd.report.gallery import object_card, write_gallery

if TYPE_CHECKING:
    import torch

FIRST = ("name", "status", "seconds", "attempts", "node")


def figures_of(folder: Path) -> dict[str, float]:
    """Return figures of the last stage that has any: losses of the last step, scores, measures of its mesh."""
    figures: dict[str, float] = {}
    for trial in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime):
        if (trial / "configs").is_dir() and "~" not in trial.name:
            figures |= {**last_losses(trial), **_scores(trial), **_measures(trial)}
    return figures


def last_losses(trial: Path) -> dict[str, float]:
    """Return the losses of a trial's last step that was logged, and the number of steps; empty without a log."""
    for file in sorted(trial.glob("csv_logs/version_*/metrics.csv"), key=_version, reverse=True):
        text = file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()  # a run that was killed leaves half a row
        known = [row for row in csv.DictReader(whole) if row.get("train/loss")]
        if known:
            losses = {k.removeprefix("train/"): v for k, v in known[-1].items() if k.startswith("train/")}
            named = ("loss", "usd", "rgb", "mask", "reference_view", "opacity", "psnr")
            return {
                "step": float(known[-1]["step"]) + 1,
                **{key: float(losses[key]) for key in named if losses.get(key)},
            }
    return {}


def _version(file: Path) -> int:
    return int(file.parent.name.rpartition("_")[2])


def _scores(trial: Path) -> dict[str, float]:
    """Held-out views, where the configuration names any."""
    files = sorted(trial.glob("save/it*-test/metrics.json"), key=lambda file: file.stat().st_mtime)
    known = _read(files[-1]) if files else {}
    return {f"test_{key}": float(known[key]) for key in ("psnr", "ssim", "mask_iou") if key in known}


def _measures(trial: Path) -> dict[str, float]:
    """Return measures of the exported mesh."""
    files = sorted(trial.glob("save/it*-export/*-report.json"), key=lambda file: file.stat().st_mtime)
    known = _read(files[-1]) if files else {}
    return {key: float(known[key]) for key in ("faces", "components", "watertight") if key in known}


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def columns(results: Sequence[Result]) -> list[str]:
    """Return the columns of the table: those of every result, all figures in order of first mention, the error."""
    figures = dict.fromkeys(key for result in results for key in result.figures)
    return [*FIRST, *figures, "error"]


def row(result: Result) -> dict[str, str]:
    """Return a result as a row of text."""
    own = {
        "name": result.name,
        "status": result.status,
        "seconds": f"{result.seconds:.0f}",
        "attempts": str(result.attempts),
        "node": result.node,
        "error": result.error,
    }
    return {**own, **{key: f"{value:.4g}" for key, value in result.figures.items()}}


def write_table(file: Path, results: Sequence[Result]) -> Path:
    """CSV, written whole or not at all. Raises ``UserError``."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns(results), restval="")
    writer.writeheader()
    writer.writerows(row(result) for result in results)
    return files.write_atomically(file, out.getvalue().encode(errors="backslashreplace"))


def table(results: Sequence[Result]) -> str:
    """For a terminal: columns that say nothing are left out."""
    rows = [row(result) for result in results]
    shown = [key for key in columns(results) if key == "name" or any(r.get(key) for r in rows)]
    widths = {key: min(60, max(len(key), *(len(r.get(key, "")) for r in rows))) for key in shown}
    lines = [{key: key for key in shown}, *rows]
    return "\n".join(
        "  ".join(line.get(key, "")[:60].ljust(widths[key]) for key in shown).rstrip() for line in lines
    )


def write_sheet(file: Path, tasks: Sequence[Task], views: int = 6, size: int = 128) -> Path | None:
    """Write one row an object: the picture it was made from, then views around it.

    Blank is white, a picture that cannot be read gray. None where there is nothing to show.
    """
    import torch

    from usd.data.pictures import contact_sheet, write_picture

    rows = [(_input(task), turntable(Path(task.folder), views)) for task in tasks]
    blank = torch.ones(3, size, size)
    pictures: list[torch.Tensor] = []
    for source, around in rows:
        if source is not None or around:
            pictures += [blank if source is None else _thumbnail(source, size)]
            pictures += [_thumbnail(view, size) for view in around]
            pictures += [blank] * (views - len(around))
    return write_picture(file, contact_sheet(torch.stack(pictures), views + 1)) if pictures else None


def write_page(file: Path, results: Sequence[Result]) -> Path:
    """Write a page with a card an object, its figures and the way to its own report; return its path."""
    done = sum(result.status == "done" for result in results)
    notes = {r.name: r.error if r.error else f"{r.status}, {r.seconds:.0f} s" for r in results}
    cards = [object_card(file.parent / name, file.parent, name, note) for name, note in notes.items()]
    return write_gallery(file, file.parent.name, cards, f"{done} of {len(results)} objects are done")


def _thumbnail(path: Path, size: int) -> "torch.Tensor":
    """Return a picture, upright, within a white square, ``3 size size``; a gray square where it cannot be read."""
    import torch

    from usd.data.pictures import over, read_picture, resize_rgba

    try:
        picture = read_picture(path, upright=True, longest=1024).rgba
    except UserError:
        return torch.full((3, size, size), 0.5)
    height, width = picture.shape[-2:]
    wider, higher = max(0, height - width), max(0, width - height)
    margin = (wider // 2, (wider + 1) // 2, higher // 2, (higher + 1) // 2)
    return over(resize_rgba(torch.nn.functional.pad(picture, margin), size, size))


def _input(task: Task) -> Path | None:
    """Return the picture it was made from; None where that was a prompt."""
    return Path(task.source) if task.is_picture else None


def turntable(folder: Path, count: int) -> list[Path]:
    """Return ``count`` views of the latest test, evenly chosen."""
    tests = [
        path for kind in ("turntable", "test") for path in folder.glob(f"*/save/it*-{kind}") if path.is_dir()
    ]
    if not tests:
        return []
    latest = max(tests, key=lambda path: path.stat().st_mtime)
    files = sorted(latest.glob("[0-9]*.png"), key=lambda file: int(file.stem))
    count = min(count, len(files))
    return [files[i * len(files) // count] for i in range(count)]
