"""Sphinx extension: a gallery of the reports in `outputs/` (`gallery_outputs`), each beside the site as it is.

A report is one file that needs nothing else, so it is copied; the page shows its input, a view and its figures.
"""

import shutil
from html import escape
from pathlib import Path

from sphinx.application import Sphinx

from usd.report.gallery import GalleryCard, trial_card

HERE = Path(__file__).resolve().parent
PAGE = HERE / "gallery.md"
NONE = "No trial in `outputs/` has a report yet. `make demo` makes one; `make docs` then shows it here."
MOST = 24


def reports(outputs: Path) -> list[Path]:
    """Return the newest reports of trials below a folder, newest first."""
    found = [file for file in outputs.glob("*/**/report.html") if (file.parent / "configs").is_dir()]
    return sorted(found, key=lambda file: -file.stat().st_mtime)[:MOST]


def copied_name(report: Path, outputs: Path) -> str:
    """Return the name of a report's copy: its folders, in one word."""
    return "-".join(report.parent.relative_to(outputs).parts).replace("@", "-") + ".html"


def card_html(card: GalleryCard, target: str) -> str:
    """Return a card as a piece of HTML in a Markdown page."""
    pictures = "".join(f'<img src="{uri}" height="140" alt="">' for uri in card.pictures)
    words = ", ".join(f"{figure.name} {figure.value}" for figure in card.figures)
    name = f'<a href="{target}"><strong>{escape(card.title)}</strong></a>'
    return f'<p><a href="{target}">{pictures}</a><br>{name}<br>{escape(words)}</p>\n'


def page(outputs: Path) -> str:
    """Return the gallery as Markdown."""
    cards = [
        card_html(trial_card(file.parent, outputs), f"reports/{copied_name(file, outputs)}")
        for file in reports(outputs)
    ]
    return "\n".join(
        ["# Gallery", "", "What was made here, a [report](reports.md) each.", "", *(cards or [NONE]), ""]
    )


def write_page(app: Sphinx) -> None:
    """Write the page before the site is read."""
    PAGE.write_text(page(outputs_of(app)), encoding="utf-8")


def outputs_of(app: Sphinx) -> Path:
    """Return the folder of trials, which is relative to the documentation's."""
    return Path(app.srcdir) / app.config.gallery_outputs


def copy_reports(app: Sphinx, problem: Exception | None) -> None:
    """Copy the reports beside the finished site."""
    folder, outputs = Path(app.outdir) / "reports", outputs_of(app)
    if problem is not None:
        return
    folder.mkdir(exist_ok=True)
    for file in reports(outputs):
        shutil.copy(file, folder / copied_name(file, outputs))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_config_value("gallery_outputs", "../outputs", "env", types=[str])
    app.connect("builder-inited", write_page)
    app.connect("build-finished", copy_reports)
    return {"parallel_read_safe": True}
