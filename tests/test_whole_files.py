"""Everything a later command reads is replaced at once: a full disk, a kill and a link do no harm to what was there."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from usd.app.stages import Record, write_record
from usd.core import checkpoint, files
from usd.core.errors import UserError
from usd.data.pictures import write_picture
from usd.data.transforms import Frame, write_transforms
from usd.evaluation.gallery import write_contact_sheet, write_video
from usd.evaluation.views import ViewScore, write_metrics
from usd.exporter.mesh import write_file
from usd.math.camera import orbit_cameras_deg
from usd.prompt_processor import cache
from usd.system import refine

Writer = Callable[[Path], object]
PICTURE = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))


CAMERAS = orbit_cameras_deg([0.0], [0.0], 1.5, 40.0, 8)
FRAME = Frame(CAMERAS, "a.png", None)
FRAMES = {0: ViewScore(20.0, 0.9, 0.8)}


WRITERS: dict[str, Writer] = {
    "a.png": lambda file: write_picture(file, PICTURE),
    "sheet.png": lambda file: write_contact_sheet(file, [PICTURE]),
    "a.mp4": lambda file: write_video(file, [PICTURE, 1 - PICTURE]),
    "transforms.json": lambda file: write_transforms(file, [CAMERAS], ["a.png"]),
    "metrics.json": lambda file: write_metrics(file, [FRAME], FRAMES),
    "a.glb": lambda file: write_file(file, b"glTF"),
    "a.ckpt": lambda file: checkpoint.save_atomic({"format": checkpoint.FORMAT}, file),
    "a.json": lambda file: files.write_record(file, {"a": 1}),
    "stage.json": lambda file: write_record(file.parent, Record({}, {})),
    refine.RECORD: lambda file: files.write_record(file, {"views": {}}),
    "a.safetensors": lambda file: cache.write_embedding({"x": torch.zeros(2)}, file),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_there_survives_a_full_disk(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("precious")

    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    told = pytest.raises(UserError, match=rf"{tmp_path / name}: could not be written \([Nn]o space left on")
    with (
        told if name != "a.safetensors" else contextlib.nullcontext()
    ):  # a cache that cannot be kept is no error
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_text() == "precious"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_is_replaced_and_not_followed(tmp_path, name):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    WRITERS[name](tmp_path / name)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / name).is_symlink() and (tmp_path / name).stat().st_size > 0
