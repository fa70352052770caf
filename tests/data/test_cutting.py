"""What is object: not decided by dead pixels, veils, specks and padding."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_reference import RED, cutout, disc, photograph, save
from usd.core.errors import UserError
from usd.core.places import resource
from usd.data.cutting import find_padding, has_alpha, without_stray_specks
from usd.data.masks import apply_masks
from usd.data.reference import Reference, ReferenceConfig, bounding_box, load_reference

SHIPPED = sorted(resource("load/images").glob("*.png"))


def loaded(tmp_path, pixels, **options) -> Reference:
    return load_reference(save(tmp_path / "a.png", pixels), ReferenceConfig(**options))


def clean(tmp_path, mask, **options) -> Reference:
    return loaded(tmp_path, cutout(mask), **options)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_shipped_pictures_are_taken_as_they_are(file):
    """Bit for bit: neither framed nor cut nor resampled."""
    reference = load_reference(file, ReferenceConfig())
    pixels = np.asarray(Image.open(file), dtype=np.float32) / 255
    assert torch.equal(reference.rgba, torch.from_numpy(pixels).permute(2, 0, 1))
    assert reference.notes[1:] == ("framing kept",)


# ----------------------------------------------------------------------------------------------- specks and veils


@pytest.mark.parametrize("framing", ["auto", "recenter"])
@pytest.mark.parametrize(
    "specks", [[(0, 0, 1)], [(0, 119, 1), (79, 0, 2)], [(2, 100, 3), (70, 110, 1), (75, 3, 2), (0, 60, 1)]]
)
def test_stray_specks_do_not_decide_the_framing(tmp_path, specks, framing):
    truth = clean(tmp_path, disc(), framing=framing)
    pixels = cutout(disc())
    for row, column, size in specks:
        pixels[row : row + size, column : column + size] = 10, 20, 30, 255
    found = loaded(tmp_path, pixels, framing=framing)
    assert torch.equal(found.rgba, truth.rgba)
    assert f"{len(specks)} stray speck" in found.notes[1]


def test_small_parts_about_the_object_stay(tmp_path):
    """A flame above a candle is part of the picture, and of its bounds."""
    pixels = cutout(disc())
    pixels[10:14, 30:33] = 250, 200, 0, 255  # 12 pixels of 1257, six above the disc
    found = loaded(tmp_path, pixels, framing="keep")
    assert float(found.source[3, 10:14, 30:33].min()) == 1 and len(found.notes) == 2


def test_two_objects_are_both_framed(tmp_path):
    pixels = cutout(disc(center=(40, 25)) | disc(center=(40, 100), radius=6))
    box = bounding_box(loaded(tmp_path, pixels, framing="keep").source[3])
    assert (box.left, box.right) == (5, 107)


@pytest.mark.parametrize("level", [1, 3, 20, 60, 110])
def test_an_even_veil_of_alpha_is_removed_and_said(tmp_path, level):
    truth = clean(tmp_path, disc())
    pixels = cutout(disc())
    pixels[..., 3] = np.maximum(pixels[..., 3], level)
    found = loaded(tmp_path, pixels)
    assert torch.equal(found.rgba[3], truth.rgba[3])
    assert f"an even veil of alpha {level / 255:.1%} removed" in found.notes


def test_an_uneven_veil_does_not_decide_the_framing(tmp_path):
    pixels = cutout(disc())
    noise = np.random.default_rng(0).integers(20, 45, pixels.shape[:2])
    pixels[..., 3] = np.maximum(pixels[..., 3], noise)
    assert loaded(tmp_path, pixels).rgba.shape == clean(tmp_path, disc()).rgba.shape


def test_half_transparent_objects_are_no_veil(tmp_path):
    pixels = cutout(disc())
    pixels[..., 3] //= 2
    assert loaded(tmp_path, pixels, framing="keep").source[3].max().item() == pytest.approx(127 / 255)


@pytest.mark.parametrize("count", [1, 5])
def test_a_dead_pixel_is_no_transparency(tmp_path, count):
    """The background of the photograph is removed as if the pixel were whole."""
    pixels = np.dstack([photograph(disc()), np.full(disc().shape, 255, np.uint8)])
    pixels[0, :count] = 0
    found = loaded(tmp_path, pixels, framing="keep")
    assert "no alpha: assumed a plain background #ffffff" in found.notes[0]
    assert ((found.source[3].numpy() > 0.5) == disc()).mean() > 0.99


def test_a_dead_pixel_in_one_view_makes_no_masks_of_all():
    views = [torch.from_numpy(photograph(disc())).permute(2, 0, 1) / 255 for _ in range(3)]
    views = [torch.cat([view, torch.ones_like(view[:1])]) for view in views]
    views[1][3, 0, 0] = 0
    assert not has_alpha(views[1])
    found, known, notes = apply_masks(views, list("abc"), [None] * 3, "auto", "x")
    assert known and "removing the plain color" in notes[0]
    assert all(((picture[3].numpy() > 0.5) == disc()).mean() > 0.99 for picture in found)


# --------------------------------------------------------------------------------------------------------- padding

GRAY = (120, 130, 140)


def padded(photo: np.ndarray, color, before: int, after: int, sideways: bool) -> np.ndarray:
    width = ((0, 0), (before, after)) if sideways else ((before, after), (0, 0))
    bars = [np.pad(photo[..., c], width, constant_values=value) for c, value in enumerate(color)]
    return np.stack(bars, -1)


BARS = [(255, 255, 255), (0, 0, 0), (37, 90, 200)]


@pytest.mark.parametrize("color", BARS, ids=["white", "black", "blue"])
@pytest.mark.parametrize(("before", "after"), [(20, 20), (0, 40), (40, 0), (5, 35)])
@pytest.mark.parametrize("sideways", [True, False])
def test_of_a_padded_photograph_the_object_is_taken(tmp_path, color, before, after, sideways):
    """In its place, with the bars transparent: a camera that took the square still fits."""
    mask = disc(80, 80, (40, 30), 20) if sideways else disc(80, 80, (30, 40), 20)
    found = loaded(tmp_path, padded(photograph(mask, GRAY), color, before, after, sideways), framing="keep")
    width = ((0, 0), (before, after)) if sideways else ((before, after), (0, 0))
    assert ((found.source[3].numpy() > 0.5) == np.pad(mask, width)).mean() > 0.995
    names = ("left", "right") if sideways else ("at the top", "at the bottom")
    sides = " and ".join(name for name, bar in zip(names, (before, after)) if bar)
    assert f"pixels padded {sides}: the bars are put aside" in found.notes[0]
    assert "plain background #78828c" in found.notes[1]


@pytest.mark.parametrize("quality", [95, 70, 40])
def test_padding_survives_jpeg_and_resizing(tmp_path, quality):
    mask = disc(160, 240, (80, 100), 50)
    pixels = padded(photograph(mask, GRAY), (0, 0, 0), 40, 40, False)
    Image.fromarray(pixels).resize((180, 180), Image.Resampling.LANCZOS).save(
        tmp_path / "a.jpg", quality=quality
    )
    found = load_reference(tmp_path / "a.jpg", ReferenceConfig(framing="keep"))
    truth = np.asarray(Image.fromarray(np.pad(mask, ((40, 40), (0, 0)))).resize((180, 180)))
    assert ((found.source[3].numpy() > 0.5) == truth).mean() > 0.985


def test_transparent_bars_are_padding_too(tmp_path):
    pixels = padded(
        np.dstack([photograph(disc(), GRAY), np.full(disc().shape, 255, np.uint8)]), (0,) * 4, 20, 20, False
    )
    found = loaded(tmp_path, pixels, framing="keep")
    assert ((found.source[3].numpy() > 0.5) == np.pad(disc(), ((20, 20), (0, 0)))).mean() > 0.995
    trusted = loaded(tmp_path, pixels, framing="keep", background="alpha")
    assert torch.equal(trusted.source[3], torch.from_numpy(pixels[..., 3] / 255).float())


def test_a_cut_out_rectangle_between_transparent_bars_is_an_object(tmp_path):
    """A book, cut to its height: what it shows is no plain background, so its alpha is meant."""
    book = np.random.default_rng(0).integers(0, 255, (80, 50, 3), np.uint8)
    pixels = padded(np.dstack([book, np.full((80, 50), 255, np.uint8)]), (0,) * 4, 15, 15, True)
    found = loaded(tmp_path, pixels, framing="keep")
    assert torch.equal(found.source[3], torch.from_numpy(pixels[..., 3] / 255).float())
    assert any("what was found is a rectangle" in note for note in found.notes)


def test_the_bars_are_background_where_that_is_asked_for(tmp_path):
    pixels = padded(photograph(disc(60, 120, (30, 60), 20), GRAY), (0, 0, 0), 30, 30, False)
    found = loaded(tmp_path, pixels, framing="keep", background="remove")
    assert (found.source[3, 30:90] > 0.5).all() and (found.source[3, :28] == 0).all()


def test_a_padded_busy_photograph_is_refused_with_both_reasons(tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    with pytest.raises(
        UserError, match="a photograph of 80 x 56 pixels padded at the top and at the bottom: has no alpha"
    ):
        loaded(tmp_path, padded(photo, (0, 0, 0), 10, 10, False))


@pytest.mark.parametrize(
    "mask",
    [
        disc(),
        np.pad(np.ones((40, 60), bool), 20),  # a box on a table
        disc(80, 120, (40, 60), 42),  # cut at the top and the bottom
    ],
    ids=["disc", "box", "tall"],
)
def test_objects_before_a_plain_background_are_no_padded_photographs(tmp_path, mask):
    assert find_padding(photograph(mask, GRAY) / 255.0) is None
    assert find_padding(photograph(~mask & disc(*mask.shape, (40, 40), 45), GRAY) / 255.0) is None
    found = loaded(tmp_path, photograph(mask, (255, 255, 255)), framing="keep")
    assert ((found.source[3].numpy() > 0.5) == mask).mean() > 0.98


def test_bars_that_all_views_have_are_padding_and_others_are_not():
    """The same bars about three views; then an object that reaches the top and the bottom of one of them."""
    masks = [disc(80, 80, (40, 30 + 5 * i), 20) for i in range(3)]
    views = [padded(photograph(mask, GRAY), (0, 0, 0), 20, 20, True) for mask in masks]
    column = np.zeros((80, 120), bool)
    column[:, 50:70] = True
    other = [photograph(np.pad(mask, ((0, 0), (20, 20))), GRAY) for mask in masks[:2]] + [
        photograph(column, GRAY)
    ]
    wanted = [np.pad(mask, ((0, 0), (20, 20))) for mask in masks]
    for pictures, truths in ((views, wanted), (other, [*wanted[:2], column])):
        tensors = [torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture in pictures]
        opaque = [torch.cat([tensor, torch.ones_like(tensor[:1])]) for tensor in tensors]
        found, known, _ = apply_masks(opaque, list("abc"), [None] * 3, "background", "x")
        assert known
        assert all(((f[3].numpy() > 0.5) == t).mean() > 0.99 for f, t in zip(found, truths))


# ---------------------------------------------------------------------------------------------------- large pictures


def test_a_small_object_of_a_large_photograph_keeps_its_detail(tmp_path, monkeypatch):
    """Reduced, the disc has 24 pixels; from the file it has the 60 that are asked for, in the same frame."""
    monkeypatch.setattr("usd.data.reference.LONGEST", 160)
    monkeypatch.setattr("usd.data.reference.DETAILED", 60)
    mask = disc(300, 400, (140, 260), 30)
    for pixels in (photograph(mask), cutout(mask)):
        found = loaded(tmp_path, pixels)
        box = bounding_box(found.rgba[3])
        assert box.longest == pytest.approx(61, abs=2)
        side = found.rgba.shape[-1]
        assert box.longest / side == pytest.approx(0.78, abs=0.03)
        assert abs(box.left + box.right - side) <= 3 and abs(box.top + box.bottom - side) <= 3
        inside = found.rgba[:3, side // 2, side // 2]
        assert (255 * inside).round().tolist() == RED.tolist()
        assert "reduced from 400 x 300 to 160 x 120 pixels" in found.notes


def test_a_size_is_made_once(tmp_path, monkeypatch):
    """What a step asks for is not resized again at the next one."""
    found = clean(tmp_path, disc())
    first = found.at(16, 16)
    monkeypatch.setattr("usd.data.reference.resize_rgba", None)
    assert found.at(16, 16) is first
    assert found.over(16).shape == (1, 3, 16, 16)
    with pytest.raises(TypeError):
        found.at(17, 17)


def test_a_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph(disc())).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = load_reference(tmp_path / "a.jpg", ReferenceConfig(framing="keep"))
    assert ((found.source[3].numpy() > 0.5) == disc().swapaxes(0, 1)[:, ::-1]).mean() > 0.99
    assert found.notes[2] == "turned by its EXIF orientation"


@pytest.mark.parametrize("alpha", [True, False])
def test_a_photograph_framed_on_all_sides_is_suspected(tmp_path, alpha):
    """It may be a box before a wall as well, so only the eye can tell."""
    pixels = np.pad(photograph(disc(), GRAY), ((20, 20), (20, 20), (0, 0)), constant_values=255)
    if alpha:
        pixels = np.dstack([pixels, np.pad(np.full(disc().shape, 255, np.uint8), 20)])
    found = loaded(tmp_path, pixels)
    assert "what was found is a rectangle: if it is a photograph in a frame, crop it" in found.notes
    assert "rectangle" not in " ".join(clean(tmp_path, disc()).notes)


@pytest.mark.parametrize("part", ["top", "frame"])
def test_a_line_along_the_border_is_no_object(part):
    rgba = torch.zeros(4, 80, 100)
    rgba[:, 30:60, 20:50] = 1
    expected = rgba.clone()
    rgba[3, :2] = 1
    if part == "frame":
        rgba[3, -1], rgba[3, :, 0], rgba[3, :, -2:] = 1, 1, 1
    cut, count = without_stray_specks(rgba)
    assert count == 1 and torch.equal(cut[3], expected[3])
