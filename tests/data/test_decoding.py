"""Colors that a profile describes come out as the sRGB that they mean, whatever the file's mode and depth."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from tests.data.icc_profiles import ADOBE, P3, SRGB, cmyk_profile, encoded, gray_profile, rgb_profile
from usd.data.pictures import picture_header, read_picture, read_rgb_bytes, read_rgba, read_values

RED = (200, 40, 30)
DISPLAY_P3 = rgb_profile("Display P3", P3)


def plain(color, mode="RGB", size=(6, 4)) -> Image.Image:
    return Image.new(mode, size, tuple(int(c) for c in color) if len(color) > 1 else int(color[0]))


def shown(path) -> list[int]:
    """The one color of a picture, as bytes."""
    rgba = read_rgba(path)
    assert float((rgba - rgba[:, :1, :1]).abs().max()) < 0.02
    return (255 * rgba[:3, 0, 0]).round().int().tolist()


def test_the_profiles_of_these_tests_are_what_they_say():
    assert encoded(RED, P3).tolist() == [184, 56, 42] and encoded(RED, SRGB).tolist() == list(RED)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(
    ("name", "primaries", "gamma"), [("Display P3", P3, None), ("Adobe RGB (1998)", ADOBE, 563 / 256)]
)
def test_a_wide_gamut_red_is_the_srgb_red_that_it_means(tmp_path, ending, name, primaries, gamma):
    path = tmp_path / f"a.{ending}"
    quality = (
        {"lossless": True}
        if ending == "webp"
        else {"quality": 100, "subsampling": 0}
        if ending == "jpg"
        else {}
    )
    picture = plain(encoded(RED, primaries, gamma))
    picture.save(path, icc_profile=rgb_profile(name, primaries, gamma), **quality)
    assert shown(path) == pytest.approx(RED, abs=2)
    assert read_picture(path).notes == (f"colors converted from {name} to sRGB",)


def test_a_profile_of_srgb_changes_nothing_and_says_nothing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, rgb_profile("sRGB IEC61966-2.1", SRGB)):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
        read = read_picture(tmp_path / "a.png")
        assert np.array_equal((255 * read.rgba[:3]).round().byte().permute(1, 2, 0).numpy(), pixels)
        assert read.notes == ()


def test_alpha_passes_a_profile_untouched(tmp_path):
    plain((*encoded(RED, P3), 77), "RGBA").save(tmp_path / "a.png", icc_profile=DISPLAY_P3)
    rgba = read_rgba(tmp_path / "a.png")
    assert (255 * rgba[:, 0, 0]).tolist() == pytest.approx([*RED, 77], abs=2)


def test_a_palette_has_its_profile_too(tmp_path):
    picture = Image.new("P", (6, 4), 1)
    picture.putpalette([0, 0, 0, *encoded(RED, P3).tolist()])
    picture.save(tmp_path / "a.png", icc_profile=DISPLAY_P3, transparency=0)
    assert shown(tmp_path / "a.png") == pytest.approx(RED, abs=2)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_gray_profile_is_applied_at_every_depth(tmp_path, mode):
    """Linear light of a half: sRGB's 188."""
    picture = {"L": plain((128,), "L"), "LA": plain((128, 200), "LA")}.get(mode)
    if picture is None:
        picture = Image.fromarray(np.full((4, 6), 128 * 257, np.uint16))
    picture.save(tmp_path / "a.png", icc_profile=gray_profile("Linear Gray", 1.0))
    assert shown(tmp_path / "a.png") == pytest.approx([188] * 3, abs=1)
    assert float(read_rgba(tmp_path / "a.png")[3].mean()) == pytest.approx(200 / 255 if mode == "LA" else 1)


def test_sixteen_bits_keep_their_steps_through_a_profile(tmp_path):
    steps = np.arange(20000, 20200, dtype=np.uint16)[None].repeat(2, 0)
    Image.fromarray(steps).save(tmp_path / "a.png", icc_profile=gray_profile("Gray 1.8", 1.8))
    assert len(read_rgba(tmp_path / "a.png")[0, 0].unique()) == 200


def test_a_press_profile_decides_what_its_inks_are(tmp_path):
    """Every overprint is as Lab says, not (0, 255, 255) or (255, 0, 0) as inks are without one; paper is white."""
    lab = {
        inks: (
            100 - 28 * inks[0] - 22 * inks[1] - 5 * inks[2] - 40 * inks[3],
            -30 * inks[0] + 40 * inks[1],
            60 * inks[2],
        )
        for inks in itertools.product((0, 1), repeat=4)
    }
    profile = cmyk_profile("Press", lab)
    conversion = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    for inks, name in (((255, 0, 0, 0), "cyan"), ((0, 0, 0, 0), "paper"), ((0, 255, 255, 0), "red")):
        path = tmp_path / f"{name}.jpg"
        plain(inks, "CMYK", (16, 16)).save(path, icc_profile=profile, quality=100)
        L, a, b = lab[tuple(int(i > 0) for i in inks)]
        truth = Image.new("LAB", (1, 1), (round(2.55 * L), round(a) + 128, round(b) + 128))
        assert shown(path) == pytest.approx(
            ImageCms.applyTransform(truth, conversion).getpixel((0, 0)), abs=4
        )


@pytest.mark.parametrize("profile", [b"nonsense", gray_profile("Gray", 2.2), DISPLAY_P3[:200]])
def test_a_profile_that_does_not_fit_is_put_aside_in_a_phrase(tmp_path, profile):
    plain(RED).save(tmp_path / "a.png", icc_profile=profile)
    read = read_picture(tmp_path / "a.png")
    assert (255 * read.rgba[:3, 0, 0]).round().tolist() == list(RED)
    assert read.notes == ("color profile unreadable or of another color space: taken as sRGB",)


def test_masks_and_normals_are_numbers_without_a_profile(tmp_path):
    plain((128, 128, 255)).save(tmp_path / "a.png", icc_profile=DISPLAY_P3)
    assert (255 * read_values(tmp_path / "a.png")[:3, 0, 0]).round().tolist() == [128, 128, 255]


def _levels(mode: str) -> Image.Image:
    """A picture of the gray 51 of 255 in every mode."""
    if mode == "I;16":
        return Image.fromarray(np.full((4, 6), 51 * 257, np.uint16))
    if mode in ("F", "F of 255"):
        return Image.fromarray(np.full((4, 6), 0.2 if mode == "F" else 51.0, np.float32))
    return plain((51, 51, 51)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F", "F of 255"])
def test_every_mode_and_depth_gives_the_same_gray(tmp_path, mode):
    path = tmp_path / ("a.png" if mode in ("L", "LA", "P", "RGBA", "I;16") else "a.tif")
    _levels(mode).save(path)
    assert shown(path) == pytest.approx([51] * 3, abs=1)
    assert torch.equal(read_rgba(path)[3], torch.ones(4, 6))


def test_progressive_pictures_have_the_pixels_of_others(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC)
    for name in ("plain", "progressive"):
        picture.save(tmp_path / f"{name}.jpg", quality=95, subsampling=0, progressive=name == "progressive")
    assert Image.open(tmp_path / "progressive.jpg").info.get("progressive")
    plainly, late = (read_rgba(tmp_path / f"{name}.jpg") for name in ("plain", "progressive"))
    assert torch.equal(plainly, late)
    assert float((late[:3].permute(1, 2, 0) * 255 - torch.from_numpy(np.array(picture))).abs().mean()) < 4


def _transparent(kind: str) -> tuple[Image.Image, dict[str, object]]:
    """A picture of the gray 90 whose left half is transparent (a third opaque, for kinds with levels)."""
    alpha = np.full((4, 6), 255, np.uint8)
    alpha[:, :3] = 0 if kind in ("palette of one", "color key", "gif") else 85
    gray = Image.fromarray(np.where(alpha == 255, 90, 30).astype(np.uint8))
    if kind == "gray and alpha":
        return Image.merge("LA", (gray, Image.fromarray(alpha))), {}
    if kind == "color key":
        return gray.convert("RGB"), {"transparency": (30, 30, 30)}
    palette = Image.fromarray((alpha == 255).astype(np.uint8), "P")
    palette.putpalette([30] * 3 + [90] * 3)
    return palette, {"transparency": bytes([85, 255]) if kind == "palette of levels" else 0}


@pytest.mark.parametrize(
    "kind", ["gray and alpha", "palette of levels", "palette of one", "color key", "gif"]
)
def test_transparency_is_read_whatever_says_it(tmp_path, kind):
    picture, options = _transparent(kind)
    path = tmp_path / ("a.gif" if kind == "gif" else "a.png")
    picture.save(path, **options)
    rgba = (255 * read_rgba(path)).round()
    assert rgba[:, 0, 5].tolist() == [90, 90, 90, 255]
    assert float(rgba[3, 0, 0]) == (85 if kind in ("gray and alpha", "palette of levels") else 0)
    assert kind == "gif" or rgba[:3, 0, 0].tolist() == [30, 30, 30]
    assert picture_header(path, "x").alpha and read_rgb_bytes(path, "x") is None


def test_sixteen_bits_of_color_become_the_nearest_levels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    read = read_rgba(tmp_path / "a.png")[:3].permute(1, 2, 0)
    assert float((read - torch.from_numpy(pixels / 65535)).abs().max()) < 1 / 255


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "CMYK", "1", "I;16"])
def test_the_quick_way_to_bytes_gives_the_pixels_of_the_long_one(tmp_path, mode):
    """Captures without masks are read by it, where a picture has bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    picture = Image.fromarray(pixels)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    made = (
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    )
    made.save(path, **({"icc_profile": DISPLAY_P3} if mode == "RGB" else {}))
    quick, slow = read_rgb_bytes(path, "x"), read_picture(path)
    if mode in ("P", "I;16"):  # a palette may be transparent, and sixteen bits are more than bytes
        assert quick is None
        return
    assert quick is not None and quick[1] == slow.notes
    assert np.array_equal(quick[0], (255 * slow.rgba[:3]).round().byte().permute(1, 2, 0).numpy())
