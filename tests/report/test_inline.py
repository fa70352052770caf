"""Files inside a page: small enough, readable, and what cannot be made smaller left as it was."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.report.trials import textured_cube
from usd.mesh_io.gltf_rewrite import BinaryGltf
from usd.report import inline


def decoded(uri: str, media: str) -> bytes:
    head, _, body = uri.partition(";base64,")
    assert head == f"data:{media}"
    return base64.b64decode(body)


@pytest.mark.parametrize(("mode", "kept"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "RGB"), ("LA", "RGBA")])
def test_a_picture_is_made_small_and_stays_see_through(tmp_path, mode, kept):
    Image.new(mode, (200, 100)).save(tmp_path / "a.png")
    content = decoded(inline.picture_uri(tmp_path / "a.png", 50), "image/webp")
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (50, 25) and picture.convert(kept).mode == kept
        assert ("A" in picture.getbands()) == (kept == "RGBA")


def test_a_small_picture_is_not_made_larger(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    with Image.open(io.BytesIO(decoded(inline.picture_uri(tmp_path / "a.png", 50), "image/webp"))) as picture:
        assert picture.size == (20, 10)


def test_a_palette_with_a_transparent_entry_is_see_through(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(tmp_path / "a.png", transparency=1)
    with Image.open(io.BytesIO(decoded(inline.picture_uri(tmp_path / "a.png"), "image/webp"))) as found:
        assert np.asarray(found.convert("RGBA"))[..., 3].max() == 0


def test_a_video_that_would_slow_the_page_down_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(bytes(range(100)))
    assert decoded(inline.video_uri(tmp_path / "a.mp4"), "video/mp4") == bytes(range(100))
    monkeypatch.setattr(inline, "MOST_BYTES", 99)
    assert inline.video_uri(tmp_path / "a.mp4") is None


def test_a_models_texture_is_made_small_and_its_shape_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(inline, "TEXTURE", 32)
    (tmp_path / "a.glb").write_bytes(textured_cube(size=64))
    content = decoded(inline.model_uri(tmp_path / "a.glb"), "model/gltf-binary")
    (tmp_path / "b.glb").write_bytes(content)
    before, after = BinaryGltf(tmp_path / "a.glb"), BinaryGltf(tmp_path / "b.glb")
    with Image.open(io.BytesIO(after.image_bytes(0))) as texture:
        assert texture.size == (32, 32) and texture.format == "JPEG"
    assert len(before.images) == len(after.images) == 1 and len(content) < (tmp_path / "a.glb").stat().st_size
    monkeypatch.setattr(inline, "MOST_BYTES", len(content) - 1)
    assert inline.model_uri(tmp_path / "a.glb") is None


def test_a_see_through_texture_stays_png():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 90)).save(buffer, "PNG")
    small = inline.small_texture(buffer.getvalue())
    assert small.media == "image/png"
    with Image.open(io.BytesIO(small.content)) as picture:
        assert picture.getpixel((0, 0)) == (255, 0, 0, 90)


def test_a_model_without_light_needs_no_surroundings(tmp_path):
    unlit, lit, broken = (tmp_path / f"{name}.glb" for name in ("unlit", "lit", "broken"))
    unlit.write_bytes(textured_cube())
    tree = unlit.read_bytes()
    lit.write_bytes(tree.replace(b'"KHR_materials_unlit"', b'"XHR_materials_unlit"'))
    broken.write_bytes(b"glTF")
    with Image.open(io.BytesIO(decoded(inline.environment_uri(unlit), "image/png"))) as picture:
        assert picture.getcolors() == [(8, (255, 255, 255))]
    assert inline.environment_uri(lit) is None and inline.environment_uri(broken) is None


def test_a_file_that_is_no_model_is_passed_on_as_it_is(tmp_path):
    (tmp_path / "a.glb").write_bytes(b"not a glb")
    assert inline.small_model(tmp_path / "a.glb") == b"not a glb"
