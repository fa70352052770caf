"""Several trials on one page, and pages of cards."""

import re

import pytest
import torch

from tests.report.trials import write_trial
from usd.core.errors import UserError
from usd.report import command
from usd.report.compare import (
    comparison_page,
    difference,
    different_options,
    render_models,
    shared_curves,
    write_comparison,
)
from usd.report.gallery import GalleryCard, object_card, trial_card, write_gallery
from usd.report.page import write_report
from usd.report.records import TrialRecord


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    return [write_trial(folder / "one"), write_trial(folder / "two", color=0.3, scale=5.0)]


def test_trials_are_compared_by_what_differs(trials):
    page = comparison_page([TrialRecord.of(trial) for trial in trials], 32)
    assert page.options == [("system.guidance.guidance_scale", ["2.0", "5.0"])]
    assert page.value(page.columns[1], "PSNR") == "21.40 dB" and page.value(page.columns[0], "none") == "–"
    same, other = (column.differences for column in page.columns)
    assert len(same) == len(other) == 4 and len(set(same)) == 1 and same[0] not in other


def test_the_same_model_gives_the_same_views_and_no_difference(trials):
    model = TrialRecord.of(trials[0]).model
    first, again, missing = render_models([model, model, None], 24)
    assert missing is None
    assert torch.equal(first, again) and torch.all(difference(again, first) == 0.5)
    assert 0.05 < float((first < 0.99).any(1).float().mean()) < 0.9, "the whole object is in the picture"


def test_the_command_writes_one_page_of_several_trials(trials, tmp_path):
    out = tmp_path / "compare.html"
    assert command.main([*map(str, trials), "--out", str(out), "--size", "32"]) == 0
    text = out.read_text("utf-8")
    assert text.count("<model-viewer src=") == 2 and "camera-change" in text


def test_a_size_out_of_range_is_refused(trials, tmp_path):
    with pytest.raises(UserError, match="--size 4: expected 16 to 2048"):
        write_comparison(trials, tmp_path / "page.html", 4)


def test_a_gallery_links_to_the_reports_of_its_trials(trials, tmp_path):
    write_report(trials[0])
    cards = [trial_card(trial, tmp_path) for trial in trials]
    page = write_gallery(tmp_path / "gallery.html", "all", cards)
    (link,) = re.findall(r'<h3><a href="([^"]+)"', page.read_text("utf-8"))
    assert (tmp_path / link).resolve() == (trials[0] / "report.html").resolve()


def test_an_object_has_the_card_of_its_last_trial_that_says_anything(tmp_path):
    old, new = write_trial(tmp_path / "duck" / "a"), tmp_path / "duck" / "b"
    (new / "configs").mkdir(parents=True)
    (new / "configs" / "parsed.yaml").write_text("name: x\n")
    write_trial(tmp_path / "duck" / "c~set-aside")
    card = object_card(tmp_path / "duck", tmp_path, "a duck", "seen from above")
    assert (card.title, card.note, card.link) == ("a duck", "seen from above", "")
    assert len(card.pictures) == 2 and card.figures[0].value == "21.40 dB"
    write_report(old)
    assert object_card(tmp_path / "duck", tmp_path, "a duck").link == "duck/a/report.html"
    assert object_card(tmp_path / "nothing", tmp_path, "a boat").pictures == []


def test_a_card_shows_text_as_text(tmp_path):
    page = write_gallery(tmp_path / "g.html", "<i>all</i>", [GalleryCard("<b>x</b>", [], note="a & b")])
    text = page.read_text("utf-8")
    assert "<b>x" not in text and "<i>all" not in text and "a &amp; b" in text


def test_only_options_that_differ_and_are_no_names_are_compared(trials, tmp_path):
    records = [TrialRecord.of(trial) for trial in trials]
    assert different_options([records[0], records[0]]) == []
    bare = tmp_path / "bare"
    (bare / "configs").mkdir(parents=True)
    (bare / "configs" / "parsed.yaml").write_text("tag: other\nseed: 8\n")
    found = dict(different_options([records[0], TrialRecord.of(bare)]))
    assert found["seed"] == ["7", "8"] and "tag" not in found


def test_options_that_not_all_trials_have_are_folded_away(trials, tmp_path):
    bare = tmp_path / "bare"
    (bare / "configs").mkdir(parents=True)
    (bare / "configs" / "parsed.yaml").write_text("tag: other\nseed: 8\n")
    page = comparison_page([TrialRecord.of(trials[0]), TrialRecord.of(bare)], 24)
    assert page.shared_options == [("seed", ["7", "8"])]
    assert ("trainer.max_steps", ["40", "not set"]) in page.other_options
    text = write_comparison([trials[0], bare], tmp_path / "page.html", 24).read_text("utf-8")
    open_part, folded = text.split("options that not all of them have")
    assert ">seed<" in open_part and "trainer.max_steps" not in open_part and "trainer.max_steps" in folded
    assert open_part.count("no model of the object") == 2 and "no pictures to compare" in open_part


def test_curves_are_compared_where_all_trials_have_them(trials, tmp_path):
    bare = tmp_path / "bare"
    (bare / "configs").mkdir(parents=True)
    (bare / "configs" / "parsed.yaml").write_text("tag: other\n")
    records = [TrialRecord.of(trial) for trial in trials]
    assert [name for name, _ in shared_curves(records)] == ["loss", "opacity"]
    assert shared_curves([*records, TrialRecord.of(bare)]) == []
