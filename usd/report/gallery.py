"""One page for many trials: a card each, with a picture, its figures and a link to its own report."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from usd.core import files
from usd.core.errors import UserError
from usd.report.inline import picture_uri
from usd.report.page import NAME, Figure, figures, render_page
from usd.report.records import TrialRecord

SHOWN = 4
"""Figures on a card at most."""


@dataclass(frozen=True)
class GalleryCard:
    """An entry of a gallery: pictures side by side, figures, words, and a link to more."""

    title: str
    pictures: list[str]
    figures: list[Figure] = field(default_factory=list)
    note: str = ""
    link: str = ""


def write_gallery(file: Path, title: str, cards: Sequence[GalleryCard], subtitle: str = "") -> Path:
    """Write a page of cards, and return its path."""
    text = render_page("gallery.html", title=title, subtitle=subtitle, cards=cards)
    return files.write_atomically(file, text.encode("utf-8", "replace"))


def trial_card(folder: Path, home: Path, title: str = "", note: str = "") -> GalleryCard:
    """Return the card of a trial for a page in the folder ``home``. Raises ``UserError`` where it is no trial."""
    record = TrialRecord.of(folder)
    page = folder / NAME
    found = [record.input_picture, *record.views[:1]]
    return GalleryCard(
        title or record.title,
        [picture_uri(file, 320) for file in found if file is not None],
        figures(record)[:SHOWN],
        note or record.prompt,
        quote(os.path.relpath(page, home)) if page.is_file() else "",
    )


def object_card(folder: Path, home: Path, title: str, note: str = "") -> GalleryCard:
    """Return the card of an object that several trials made: the last one's that says anything."""
    for trial in sorted(_trials(folder), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            card = trial_card(trial, home, title, note)
        except (UserError, OSError):
            continue
        if card.figures or card.pictures:
            return card
    return GalleryCard(title, [], note=note)


def _trials(folder: Path) -> list[Path]:
    """Return the trials in a folder; those that were set aside are left out."""
    found = folder.glob("*/configs/parsed.yaml")
    return [file.parents[1] for file in found if "~" not in file.parents[1].name]
