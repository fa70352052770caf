"""A training and an export leave a page of themselves."""

import pytest
import yaml

import usd
from tests.tiny_configs import SHRUNK
from usd.app import export, modes, reporting
from usd.core import places


@pytest.fixture
def trial(monkeypatch, tmp_path):
    for module in (modes, export):  # tests/conftest.py switches it off for everybody else
        monkeypatch.setattr(module, "report_trial", reporting.report_trial)
    pairs = [item.split("=") for item in SHRUNK["usd-patch-mini.yaml"]]
    options = {
        "exp_root_dir": tmp_path,
        "tag": "run",
        "use_timestamp": False,
        "system.guidance.image_path": places.resource("load/images/kettle.png"),
        "data.reference_elevation_deg": 15.0,
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 0,
        **{key: yaml.safe_load(value) for key, value in pairs},
    }
    return usd.train(usd.load_recipe("usd-patch-mini", options), gpu="cpu")


def test_a_training_leaves_a_report_and_an_export_makes_it_again(trial, capsys):
    page = trial.folder / "report.html"
    first = page.read_text("utf-8")
    assert "data:image/" in first and "data.reference_elevation_deg" in first
    page.unlink()
    usd.export(trial, {"exporter_type": "mesh-exporter", "exporter.fmt": "glb"}, gpu="cpu")
    assert "model-viewer" in page.read_text("utf-8")
