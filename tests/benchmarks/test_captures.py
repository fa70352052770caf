"""Captures' benchmark: the data that it generates are what it says they are."""

from dataclasses import replace

import pytest
import torch

from benchmarks import captures
from benchmarks.reconstruct import ToyObject
from usd.core.config import parse
from usd.core.schedule import Schedule
from usd.data.pictures import read_rgba
from usd.data.view_readers import ViewOptions, read_views

TOY = 1_000_003


@pytest.fixture
def small(monkeypatch):
    for name, value in {"VIEWS": 2, "PIXELS": 64, "TRAINED": 4, "JUDGED": 1}.items():
        monkeypatch.setattr(captures, name, value)
    lens = captures.LENS.resized(64, 64)
    monkeypatch.setattr(captures, "LENS", lens)
    monkeypatch.setattr(captures, "BENT", replace(lens, distortion=(0.4, -0.05, 0.01, -0.01)))


def test_a_toy_in_nerf_synthetics_layout_has_its_splits_and_distances(small, tmp_path):
    captures.write_synthetic(TOY, tmp_path)
    options = parse(ViewOptions, {"frame": "keep"})
    train, test = (read_views(tmp_path / f"transforms_{split}.json", options) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 1) and train.masked
    away = torch.cat([train.cameras.position, test.cameras.position]).norm(dim=1)
    assert torch.allclose(away, torch.full((5,), 4.03), atol=0.01)
    assert 0.02 < float(train.rgba[:, 3].mean()) < 0.5


def test_a_bent_lens_takes_the_views_that_the_straight_one_takes(small, tmp_path):
    """Undistorted on reading, they differ by what resampling twice costs."""
    views = captures.object_views(ToyObject(TOY), room=True, wide=True)
    found = []
    for name in ("LENS", "BENT"):
        captures.write_through(getattr(captures, name), views, tmp_path / name)
        found.append(read_views(tmp_path / name, parse(ViewOptions, {"frame": "keep", "masks": "none"})))
    straight, bent = found
    assert straight.valid is None and bent.valid is not None
    assert torch.allclose(straight.cameras.rays()[1], bent.cameras.rays()[1], atol=1e-6)
    seen = bent.valid.all()[..., 0]
    error = (straight.rgba - bent.rgba)[:, :3].abs().mean(1)
    assert float(error[seen].mean()) < 0.03 and 0.6 < float(seen.float().mean()) < 1
    stored = read_rgba(tmp_path / "BENT/images/0000.png")[:3]
    apart = (stored - straight.rgba[0, :3]).abs().mean(0)[seen[0]]
    assert float(apart.square().mean()) > 1.5 * float(error[0][seen[0]].square().mean())


@pytest.mark.parametrize("steps", [20, 60, 900, 3000])
def test_schedules_shrink_with_the_steps_and_still_increase(steps):
    text = captures.schedule(steps).partition("lr=")[2]
    at = [int(number) for number in text.partition("[")[2].partition("]")[0].split(",")]
    assert Schedule(tuple(at), (1.0,) * 4).steps[-1] == steps
    given = dict(option.split("=") for option in captures.shortened(steps))
    assert given["trainer.max_steps"] == str(steps)
    assert given["system.scheduler.args.milestones"] == str([steps // 2, steps * 3 // 4, steps * 9 // 10])


def test_a_row_of_the_table_has_ratios_by_the_clock_and_of_cpu():
    row = captures.ScaleFigures(9, (2.0, 3.0), (3.0, 6.0), (7.0, 8.0), (0.5, 0.4), 0.51, 12.34).row
    assert row == "| 9 | 2.0 (3.0) | 3.0 (6.0) | 7.0 (8.0) | 0.5 (0.4) | 1.50 | 2.00 | 0.51 | 12.3 |"
