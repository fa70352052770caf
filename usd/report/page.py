"""One trial as one page."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from usd.core import files
from usd.report.curves import Curve, chart_data, read_curves
from usd.report.inline import environment_uri, model_uri, picture_uri, video_uri
from usd.report.licenses import ModelLicense, model_licenses
from usd.report.records import TrialRecord, mapping

NAME = "report.html"
VENDOR = Path(__file__).with_name("vendor")
STEPS, AROUND, TURN_SIZE, SHEET_SIZE = 12, 6, 480, 1600
DEGREES = "deg"
NOT_SET = "not set"
"""How an option that a configuration does not have is written."""
T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """A number on a page: its name, the number as text, and what it means."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class Shown:
    """A picture on a page, and the words below it."""

    uri: str
    caption: str


@dataclass(frozen=True)
class ModelView:
    """The object in three dimensions: the model, the picture until it is there, and where it is seen from first."""

    uri: str | None
    poster: str | None
    orbit: str
    environment: str | None


@dataclass(frozen=True)
class TrialPage:
    """Everything that the page of a trial shows. What a trial does not have is empty."""

    title: str
    subtitle: str
    prompt: str
    reference: str | None
    model: ModelView | None
    turn: list[str]
    figures: list[Figure]
    video: str | None
    around: list[str]
    judged: Shown | None
    steps: list[Shown]
    curves: list[Curve]
    changes: list[tuple[str, str, str]] | None
    config: str
    commands: list[str]
    facts: list[Figure]
    licenses: list[ModelLicense]
    files: list[tuple[str, str]]

    @property
    def charts(self) -> list[dict[str, object]]:
        """The curves as JSON for the page's script."""
        return chart_data(self.curves)


def write_report(folder: "Path | str", out: "Path | None" = None) -> Path:
    """Write a trial's page, ``report.html`` in its folder by default, and return its path.

    Raises ``UserError`` where the folder is no trial's.
    """
    record = TrialRecord.of(folder)
    file = out or record.folder / NAME
    text = render_page("trial.html", page=trial_page(record, file.parent))
    return files.write_atomically(file, text.encode("utf-8", "replace"))


def trial_page(record: TrialRecord, home: Path) -> TrialPage:
    """Return what the page of a trial shows that lies in the folder ``home``."""
    changes, judged = record.changes, judged_views(record)
    return TrialPage(
        title=record.title,
        subtitle=str(record.config.get("description") or record.config.get("name") or ""),
        prompt=record.prompt,
        reference=picture_uri(record.input_picture) if record.input_picture else None,
        model=model_view(record),
        turn=[picture_uri(file, TURN_SIZE) for file in record.turn],
        figures=figures(record),
        video=video_uri(record.video) if record.video else None,
        around=[]
        if judged and not record.turns
        else [picture_uri(file, 256) for file in evenly(record.views, AROUND)],
        judged=judged,
        steps=validation_pictures(record),
        curves=read_curves(record.folder),
        changes=None if changes is None else [changed(key, value) for key, value in changes.items()],
        config=record.config_text,
        commands=record.commands,
        facts=run_facts(record),
        licenses=model_licenses(record.config),
        files=links(record, home),
    )


def judged_views(record: TrialRecord) -> Shown | None:
    """Return the views that a trial was judged by, beside their truth; None where nobody knows it."""
    if record.truth_sheet is None:
        return None
    file, rows = record.truth_sheet
    return Shown(picture_uri(file, SHEET_SIZE), rows)


def validation_pictures(record: TrialRecord) -> list[Shown]:
    """Return pictures of some validations, the last among them."""
    chosen = evenly(record.validation, STEPS)
    return [Shown(picture_uri(file, 720), f"step {step}") for step, file in chosen]


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of the items, evenly chosen, the last one among them."""
    if len(items) <= count:
        return list(items)
    return [items[math.ceil((i + 1) * len(items) / count) - 1] for i in range(count)]


def changed(key: str, value: Mapping[str, object]) -> tuple[str, str, str]:
    """Return a key, what the recipe says, and what this trial says, as text."""
    return key, plain_text(value.get("recipe")), plain_text(value.get("here"))


def plain_text(value: object) -> str:
    """Return a value of a configuration as it is read in a table."""
    return NOT_SET if value is None else str(value)


def model_view(record: TrialRecord) -> ModelView | None:
    """Return the object of a trial; None where it has no file of it."""
    if record.model is None:
        return None
    poster = picture_uri(record.views[0], 512) if record.views else None
    surroundings = environment_uri(record.model)
    return ModelView(model_uri(record.model), poster, first_orbit(record), surroundings)


def first_orbit(record: TrialRecord) -> str:
    """Return where the reference picture was taken from as model-viewer says it: the file has +y up, we have +z."""
    azimuth, elevation = (
        as_number(record.option(f"data.reference_{name}_deg")) for name in ("azimuth", "elevation")
    )
    return f"{(azimuth or 0) + 90:g}{DEGREES} {90 - (15 if elevation is None else elevation):g}{DEGREES} auto"


def figures(record: TrialRecord) -> list[Figure]:
    """Return the numbers that say how good a trial is and what it took; those that nobody measured are left out."""
    scores, mesh, run = record.scores(), record.export_report(), record.run
    agreement = mapping(mesh.get("agreement"))
    views = f"mean of {scores.get('views', 0)} held-out views, over white"
    masked = record.option("data.masks") != "none"  # else all is object in both
    found = [
        _figure("PSNR", scores.get("psnr"), "{:.2f} dB", views),
        _figure("SSIM", scores.get("ssim"), "{:.3f}", views),
        _figure("LPIPS", scores.get("lpips"), "{:.3f}", views),
        _figure("mask IoU", scores.get("mask_iou") if masked else None, "{:.3f}", views),
        _figure("faces", mesh.get("faces"), "{:,.0f}", "of the exported mesh"),
        _figure(
            "file against object", agreement.get("psnr"), "{:.1f} dB", "PSNR of the exported file, read back"
        ),
        _duration(as_number(run.get("seconds"))),
        _figure(
            "memory",
            run.get("peak_memory_gib"),
            "{:.1f} GiB",
            f"at most, {run.get('memory_of', 'of the process')}",
        ),
    ]
    return [figure for figure in found if figure is not None]


def as_number(value: object) -> float | None:
    """Return a value as a number; None where it is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _figure(name: str, value: object, form: str, meaning: str) -> Figure | None:
    known = as_number(value)
    return None if known is None else Figure(name, form.format(known), meaning)


def _duration(seconds: float | None) -> Figure | None:
    if seconds is None:
        return None
    whole = round(seconds)
    text = f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"
    return Figure(
        "training", text if whole < 7200 else f"{whole / 3600:.1f} h", "wall clock, all runs of it together"
    )


def run_facts(record: TrialRecord) -> list[Figure]:
    """Return what a trial ran with: device, versions, seed, recipe, date."""
    run = record.run
    versions = ", ".join(f"{name} {version}" for name, version in mapping(run.get("versions")).items())
    known = [
        ("device", run.get("device")),
        ("machine", run.get("machine")),
        ("versions", versions),
        ("seed", record.config.get("seed")),
        ("steps", run.get("step") or record.option("trainer.max_steps")),
        ("system", record.config.get("system_type")),
        ("guidance", record.option("system.guidance_type")),
        ("finished", run.get("finished")),
    ]
    return [Figure(name, str(value)) for name, value in known if value not in (None, "")]


def links(record: TrialRecord, home: Path) -> list[tuple[str, str]]:
    """Return names and relative links of what a person would take from the trial."""
    found = [*record.exported, *([record.video] if record.video else [])]
    if not record.exported:
        found += [file for file in (record.splats, record.model) if file is not None]
    found += [record.folder / "configs" / "parsed.yaml", record.folder / "ckpts" / "last.ckpt"]
    return [(file.name, quote(os.path.relpath(file, home))) for file in found if file.is_file()]


# ------------------------------------------------------------------------------------------------------- templates


def render_page(template: str, **values: object) -> str:
    """Return a page. Text is escaped; only vendored scripts and styles are taken as they are."""
    return templates().get_template(template).render(vendor=vendored, **values)


@functools.cache
def templates() -> Environment:
    """Return the package's templates."""
    return Environment(
        loader=PackageLoader("usd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def vendored(name: str) -> Markup:
    """Return a vendored script or style, fit to stand inside a page."""
    return Markup((VENDOR / name).read_text("utf-8").replace("</script", r"<\/script"))
