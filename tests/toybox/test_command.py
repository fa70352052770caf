"""``python -m usd.toybox``, as a user types it."""

import sys
from pathlib import Path

import pytest
import torch
import trimesh

from usd.app.toys import main
from usd.data.pictures import read_rgba
from usd.data.transforms import read_transforms
from usd.evaluation.metrics import psnr
from usd.toybox.cameras import reference_camera
from usd.toybox.objects import make_toy
from usd.toybox.render import render


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["usd.toybox", *arguments])
    return main()


def test_render_writes_a_toy_with_its_ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "render", "--seed", "1000002", "--out", str(tmp_path), "--views", "5", "--size", "48")
    toy = make_toy(1_000_002)
    assert (tmp_path / "caption.txt").read_text().strip() == toy.caption
    frames = read_transforms(tmp_path / "transforms.json")
    assert len(frames) == 5
    for frame in frames:
        assert frame.picture is not None
        picture = read_rgba(frame.picture)
        again = render([toy], frame.camera).rgba()[0]
        assert psnr(picture[None], again[None]).item() > 45
    reference = render([toy], reference_camera(48)).rgba()
    assert psnr(read_rgba(tmp_path / "input.png")[None], reference).item() > 45
    mesh = trimesh.load(tmp_path / "mesh.glb", force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    assert len(mesh.faces) > 1000
    assert 0.3 < torch.tensor(mesh.bounds).abs().max() < 0.5


def test_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "sheet", "--out", str(tmp_path / "deep" / "sheet.png"), "--size", "16")
    assert read_rgba(tmp_path / "deep" / "sheet.png").shape[0] == 4


def test_a_negative_seed_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "render", "--seed", "-4", "--out", str(tmp_path)) == 2
    expected = "error: usd toybox: --seed must be at least 0, --size and --views at least 1\n"
    assert capsys.readouterr().err == expected
