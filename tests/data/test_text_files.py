"""Text with and without byte-order marks."""

import codecs
import json

import pytest
import torch

from tests.data.test_colmap import options, scene
from tests.data.test_transforms import GOOD, IDENTITY
from usd.core.errors import UserError
from usd.data.text_files import read_text
from usd.data.transforms import read_transforms
from usd.data.view_readers import read_views

FORMS = {
    "plain": (b"", "utf-8"),
    "utf-8": (codecs.BOM_UTF8, "utf-8"),
    "utf-16-le": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "utf-16-be": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "utf-32": (codecs.BOM_UTF32_LE, "utf-32-le"),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_is_read_as_its_mark_says(tmp_path, form):
    mark, encoding = FORMS[form]
    (tmp_path / "a").write_bytes(mark + "Größe ×\n".encode(encoding))
    assert read_text(tmp_path / "a") == "Größe ×\n"


def test_what_is_no_text_is_an_error_or_replaced(tmp_path):
    (tmp_path / "a").write_bytes(b"caf\xe9")
    with pytest.raises(UnicodeError):
        read_text(tmp_path / "a")
    assert read_text(tmp_path / "a", "replace") == "caf\ufffd"


@pytest.mark.parametrize("form", FORMS)
def test_cameras_come_back_from_files_with_a_mark(tmp_path, form):
    """What Notepad and PowerShell write: transforms.json and COLMAP's text."""
    mark, encoding = FORMS[form]
    content = json.dumps(
        {**GOOD, "frames": [{"file_path": "é.png", "transform_matrix": IDENTITY}]}, ensure_ascii=False
    )
    (tmp_path / "t.json").write_bytes(mark + content.encode(encoding))
    (frame,) = read_transforms(tmp_path / "t.json")
    assert frame.file_path == "é.png" and frame.camera.focal_px.item() == pytest.approx(8)
    truth = read_views(scene(tmp_path / "scene"), options(frame="keep"))
    for name in ("cameras.txt", "images.txt"):
        file = tmp_path / "scene/sparse/0" / name
        file.write_bytes(mark + file.read_text().replace("\n", "\r\n").encode(encoding))
    found = read_views(tmp_path / "scene", options(frame="keep"))
    assert torch.equal(found.cameras.c2w, truth.cameras.c2w) and found.names == truth.names


def test_json_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "t.json").write_bytes(b'{"frames": "\xe9"}')
    with pytest.raises(UserError, match=r"t\.json: is not readable JSON") as caught:
        read_transforms(tmp_path / "t.json")
    assert "\n" not in str(caught.value)
