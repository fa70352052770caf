"""Several trials on one page, and pages of cards."""

import re

import pytest
import torch

from tests.report.trials import write_trial
from usd.core.errors import UserError
from usd.report import command
from usd.report.compare import comparison_page, difference, render_models, write_comparison
from usd.report.gallery import trial_card, write_gallery
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
