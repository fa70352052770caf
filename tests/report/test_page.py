"""The page of a trial: what stands on it, that it needs nothing else, and that text in it is only text."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.report.trials import write_trial
from usd.app import reporting
from usd.app.experiment import Trial
from usd.core.errors import UserError
from usd.math.splats import ColoredSplats
from usd.mesh_io.splats import write_splats
from usd.report import command
from usd.report.curves import POINTS, read_curves
from usd.report.page import VENDOR, write_report
from usd.report.records import TrialRecord, plain_command


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    return write_trial(tmp_path_factory.mktemp("trials") / "car")


@pytest.fixture(scope="module")
def page(trial) -> str:
    return write_report(trial).read_text("utf-8")


def without_scripts(page: str) -> str:
    """What a browser without JavaScript makes of a page."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_report_says_everything_that_a_trial_knows(page):
    text = without_scripts(page)
    for words in ("21.40 dB", "0.120", "30.0 dB", "75 s", "0.8 GiB", "torch 2.13", "Apache-2.0"):
        assert words in text
    assert "usd train usd-patch-mini" in text and "toybox-sd" in text
    row = re.search(r"system.guidance.guidance_scale</td><td>(.*?)</td><td>(.*?)</td>", text)
    assert row and row.groups() == ("10.0", "2.0")


def test_a_report_is_one_small_file_that_asks_for_nothing(page):
    assert len(page.encode()) < 6e6
    targets = re.findall(r"\b(?:src|href|poster)=\"([^\"]{1,40})", without_scripts(page))
    assert targets
    assert not [target for target in targets if re.match(r"(https?:)?//", target)]
    assert "sourceMappingURL" not in page


def test_a_report_can_be_read_without_scripts(page):
    text = without_scripts(page)
    assert text.count("<polyline") == 2
    assert '<img slot="poster"' in text and "data:image/webp" in text


def test_views_with_a_truth_are_shown_beside_it_once(tmp_path):
    trial = write_trial(tmp_path / "scene")
    config = trial / "configs" / "parsed.yaml"
    config.write_text(config.read_text().replace("data: {", "data: {masks: none, "))
    save = trial / "save"
    scores = {"psnr": 21.0, "mask_iou": 1.0, "views": 2, "sheet": "truth above, render below"}
    (save / "it40-test" / "metrics.json").write_text(json.dumps(scores))
    assert "<h2>Beside the truth</h2>" not in write_report(trial).read_text(
        "utf-8"
    )  # the picture is not there
    Image.new("RGB", (40, 20), (9, 200, 9)).save(save / "it40-test.png")
    text = without_scripts(write_report(trial).read_text("utf-8"))
    assert "truth above, render below" in text and "<h2>Beside the truth</h2>" in text
    assert "<h2>Turntable</h2>" not in text and "mask IoU" not in text and "21.00 dB" in text
    (save / "it40-turntable").mkdir()
    Image.new("RGB", (20, 20)).save(save / "it40-turntable" / "0.png")
    assert "<h2>Turntable</h2>" in write_report(trial).read_text("utf-8")


def test_text_of_a_user_never_becomes_markup(page):
    assert "<script>alert(1)" not in page and "<b>red</b>" not in page
    assert "&lt;b&gt;red" in page


def test_links_lead_to_files_wherever_the_page_lies(trial, tmp_path):
    for out in (trial / "report.html", tmp_path / "elsewhere" / "page.html"):
        out.parent.mkdir(exist_ok=True)
        text = write_report(trial, out).read_text("utf-8")
        links = re.findall(r'<li><a href="([^"]+)"', text)
        assert len(links) >= 3
        assert all((out.parent / link).is_file() for link in links)


def test_a_trial_with_nothing_but_a_configuration_has_a_report(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "parsed.yaml").write_text("name: bare\n")
    text = write_report(tmp_path).read_text("utf-8")
    assert (
        "Not written down" in text
        and "model-viewer.min" not in text
        and "<model-viewer" not in without_scripts(text)
    )


def test_a_folder_that_is_no_trial_is_a_line(tmp_path, capsys):
    with pytest.raises(UserError, match="expected a trial's folder"):
        TrialRecord.of(tmp_path)
    assert command.main([str(tmp_path)]) == 2
    assert "expected a trial's folder" in capsys.readouterr().err


def test_a_report_that_cannot_be_made_fails_no_training(tmp_path, capsys):
    trial = Trial(tmp_path / "trial")
    trial.configs.mkdir(parents=True)  # and no configuration in it, as a dry run leaves it
    assert reporting.report_trial(trial) is None and not capsys.readouterr().out
    (trial.configs / "parsed.yaml").write_text("name: [\n")
    (trial.folder / "report.html").mkdir()  # in the page's place
    assert reporting.report_trial(trial) is None
    assert "note: no report.html (" in capsys.readouterr().out


def test_curves_are_thinned_to_means_and_half_a_row_is_left_out(tmp_path):
    log = tmp_path / "csv_logs" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    rows = "".join(f"{step},{step},nan\n" for step in range(1000))
    log.write_text("step,train/loss,train/mask\n" + rows + "1000,5")
    (curve,) = read_curves(tmp_path)
    assert len(curve.steps) <= POINTS and curve.steps[-1] == 999
    assert sum(curve.values) / len(curve.values) == pytest.approx(499.5)


def test_commands_are_shown_as_people_type_them():
    assert plain_command("/a/b/.venv/bin/python -m usd train x 'tag=a b'") == "usd train x 'tag=a b'"
    assert plain_command("/usr/bin/python3 launch.py --train") == "python launch.py --train"


def test_vendored_scripts_come_with_their_licenses():
    scripts = {file.name.split(".")[0] for file in VENDOR.glob("*.js")}
    assert (
        scripts
        == {file.name.split(".")[0] for file in VENDOR.glob("*.LICENSE.txt")}
        == {"model-viewer", "uPlot"}
    )


def test_gaussians_are_shown_turning_and_never_as_bare_points(tmp_path):
    """A GLB of splats is a file to take, and no model to look at where nobody knows the extension."""
    folder = write_trial(tmp_path / "splats")
    (folder / "save/it40-export/splats.glb").write_bytes(write_splats(three_splats(), "glb"))
    assert TrialRecord.of(folder).model == folder / "save/it40-export/model.glb"
    assert "panel object turning" not in write_report(folder).read_text("utf-8")
    (folder / "save/preview").mkdir()
    for i in range(4):
        Image.new("RGBA", (16, 16), (60 * i, 0, 0, 255)).save(folder / f"save/preview/{i:02d}.png")
    page = write_report(folder).read_text("utf-8")
    panel = page[page.index("panel object turning") : page.index("Gaussian splats, rendered")]
    assert panel.count("data:image/webp") == 4 and panel.count(" hidden") == 3
    assert "<model-viewer" not in page and "splats.glb" in page


def three_splats() -> ColoredSplats:
    rotations = torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4)
    return ColoredSplats(
        torch.rand(3, 3), torch.full((3, 3), 0.1), rotations, torch.full((3,), 0.5), torch.rand(3, 1, 3)
    )
