"""Files into pictures: orientation, size, frames, and what cannot be read."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from usd.core.errors import UserError
from usd.data.pictures import (
    EXIF_TURNS,
    OVERSAMPLING,
    open_picture,
    picture_header,
    picture_size,
    read_picture,
    read_pictures,
    read_rgba,
)

ENDINGS = ["png", "jpg", "webp", "tif"]


def quadrants(height=40, width=64) -> np.ndarray:
    """Four colors, so that every orientation looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 250, 10, 10
    pixels[: height // 2, width // 2 :] = 10, 250, 10
    pixels[height // 2 :, : width // 2] = 10, 10, 250
    return pixels


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def near(found: torch.Tensor, pixels: np.ndarray) -> bool:
    """Whether pictures agree but for compression."""
    truth = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    return found[:3].shape == truth.shape and float((found[:3] - truth).abs().mean()) < 0.03


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("number", range(1, 9))
def test_a_photograph_is_turned_and_a_picture_with_a_camera_is_not(tmp_path, ending, number):
    """EXIF 6 means: the stored left column is the top row, and so on; the standard's table, in NumPy."""
    stored = quadrants()
    path = tmp_path / f"a.{ending}"
    Image.fromarray(stored).save(
        path, exif=oriented(number), **({"quality": 95} if ending in ("jpg", "webp") else {})
    )
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored.swapaxes(0, 1)[:, ::-1],
        7: stored.swapaxes(0, 1)[::-1, ::-1],
        8: stored.swapaxes(0, 1)[::-1],
    }[number]
    assert near(read_rgba(path), stored) and near(read_picture(path, upright=True).rgba, upright)
    assert picture_size(path, "x") == (64, 40)
    said = [*read_picture(path).notes, *read_picture(path, upright=True).notes]
    assert said == (
        ["not turned by its EXIF orientation", "turned by its EXIF orientation"] if number > 1 else []
    )


def test_a_damaged_orientation_is_none(tmp_path):
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", oriented(77).tobytes()):
        Image.fromarray(quadrants()).save(tmp_path / "a.jpg", exif=exif)
        assert read_picture(tmp_path / "a.jpg", upright=True).rgba.shape == (4, 40, 64)


@pytest.mark.parametrize("number", [1, 6])
@pytest.mark.parametrize("ending", ENDINGS)
def test_large_pictures_are_averaged_down_as_they_are_read(tmp_path, ending, number):
    """Halves and quarters of a picture stay where they are, also when a JPEG is decoded small."""
    pixels = quadrants(403, 605)
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=oriented(number))
    read = read_picture(tmp_path / f"a.{ending}", upright=True, longest=60)
    height, width = read.rgba.shape[-2:]
    assert (width, height) == ((60, 40) if number == 1 else (40, 60))
    assert (read.width, read.height) == ((605, 403) if number == 1 else (403, 605))
    assert f"reduced from {read.width} x {read.height} to {width} x {height} pixels" in read.notes
    top_left = read.rgba[:3, : height // 2 - 1, : width // 2 - 1].flatten(1).mean(1)
    assert (255 * top_left).tolist() == pytest.approx([250, 10, 10] if number == 1 else [10, 10, 250], abs=6)


def test_what_is_averaged_keeps_its_middle_and_its_hidden_colors_hidden(tmp_path):
    pixels = np.zeros((1001, 1003, 4), np.uint8)
    pixels[..., 1] = 255  # hidden green
    pixels[200:600, 300:900] = 200, 40, 30, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rgba = read_picture(tmp_path / "a.png", longest=100).rgba
    alpha = rgba[3]
    rows, columns = torch.arange(100) + 0.5, torch.arange(100) + 0.5
    assert float((alpha.sum(1) * rows).sum() / alpha.sum()) == pytest.approx(400 * 100 / 1001, abs=0.02)
    assert float((alpha.sum(0) * columns).sum() / alpha.sum()) == pytest.approx(600 * 100 / 1003, abs=0.02)
    assert (255 * rgba[1][alpha > 0.1]).max() < 45


def test_a_window_is_read_in_full_detail(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=oriented(6))
    read = read_picture(tmp_path / "a.png", upright=True, window=(5, 10, 25, 50)).rgba
    assert near(read, pixels.swapaxes(0, 1)[:, ::-1][10:50, 5:25]) and read.shape == (4, 40, 20)


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_taken_and_said(tmp_path, ending):
    frames = [Image.new("RGB", (16, 16), color) for color in ((200, 40, 30), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=50, **options)
    read = read_picture(tmp_path / f"a.{ending}")
    assert (255 * read.rgba[:3, 0, 0]).round().tolist() == [200, 40, 30]
    assert read.notes == ("the first of its 3 frames taken",)


def test_remarks_on_many_pictures_are_counted(tmp_path):
    for i, number in enumerate((6, 1, 3)):
        Image.fromarray(quadrants()).save(tmp_path / f"{i}.jpg", exif=oriented(number))
    files = sorted(tmp_path.iterdir())
    pictures, remarks = read_pictures(files, "x")
    assert remarks == ["2 of 3 pictures: not turned by its EXIF orientation"]
    assert {picture.shape for picture in pictures} == {(4, 40, 64)}
    assert max(read_pictures(files, "x", size=4)[0][0].shape[1:]) == OVERSAMPLING * 4


def test_a_header_says_sizes_and_alpha_without_pixels(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "a.jpg", exif=oriented(6))
    header = picture_header(tmp_path / "a.jpg", "x")
    assert (header.size, header.upright_size, header.alpha) == ((64, 40), (40, 64), False)
    Image.fromarray(quadrants()).convert("RGBA").save(tmp_path / "a.png")
    assert picture_header(tmp_path / "a.png", "x").alpha and len(EXIF_TURNS) == 7


def test_a_picture_beyond_the_limit_is_one_line(tmp_path, monkeypatch):
    Image.fromarray(quadrants()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_rgba, picture_size):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "a.png", "data.path")
        assert str(caught.value).endswith(
            "a.png: has more than 0 megapixels; expected fewer: make it smaller first"
        )


def test_up_to_the_limit_nothing_is_warned(tmp_path, monkeypatch, recwarn):
    Image.fromarray(quadrants()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert read_rgba(tmp_path / "a.png").shape == (4, 40, 64) and not recwarn.list


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "tif"])
def test_every_cut_of_a_picture_is_one_line(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"whole.{ending}")
    whole = (tmp_path / f"whole.{ending}").read_bytes()
    for share in (0, 0.02, 0.3, 0.6, 0.9):
        (tmp_path / f"a.{ending}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError) as caught:
            read_rgba(tmp_path / f"a.{ending}", "system.guidance.image_path")
        said = str(caught.value)
        assert said.startswith("system.guidance.image_path: ") and "cannot be read as a picture" in said
        assert "\n" not in said


def test_a_mistyped_name_is_answered_with_the_nearest(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "IMG_1.JPG")
    for name, hint in (("img_1.jpg", "IMG_1.JPG"), ("IMG_1.png", "IMG_1.JPG"), ("IMGG_1.JPG", "IMG_1.JPG")):
        with pytest.raises(
            UserError, match=f"{name}: no such file; expected a picture .* Did you mean '{hint}'"
        ):
            read_rgba(tmp_path / name)
    with pytest.raises(UserError, match=r"\.\.\.\)$"), open_picture(tmp_path / "gone/x.png", "x"):
        pass


def test_a_git_lfs_pointer_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"a\.png: is a Git LFS pointer"):
        read_rgba(path)


def test_a_phones_heic_picture_is_read_with_the_right_pixels(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = quadrants()
    file = pillow_heif.from_pillow(Image.fromarray(pixels))
    file.save(tmp_path / "IMG_1.HEIC", quality=95)
    found = read_picture(tmp_path / "IMG_1.HEIC", "x")
    assert (found.width, found.height) == pixels.shape[1::-1]
    expected = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[:3]
    assert (found.rgba[:3] - expected).abs().mean() < 0.02 and float(found.rgba[3].min()) == 1


def test_a_heic_picture_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        UserError, match=r"a\.heic: is a HEIC picture; expected the package pillow-heif: pip install"
    ):
        read_picture(tmp_path / "a.heic", "another")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"", "it is empty"),
        ("a.DNG", b"II*\0", "it is a raw photograph; expected it developed, as JPEG"),
        ("a.jpg", b"<!DOCTYPE html>", "its content is none; expected PNG, JPEG"),
    ],
)
def test_what_is_no_picture_is_answered_with_what_may_be_done(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_rgba(tmp_path / name)


def test_a_phones_largest_photographs_are_not_too_large():
    assert Image.MAX_IMAGE_PIXELS is None or 2 * Image.MAX_IMAGE_PIXELS > 16_320 * 12_240
