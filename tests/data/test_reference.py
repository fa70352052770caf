import numpy as np
import pytest
import torch
from PIL import Image

from usd.core.config import UserError
from usd.data.pictures import over, read_rgba, resize_rgba, unpremultiply, write_picture, write_whole
from usd.data.reference import ReferenceConfig, bounding_box, is_framed, load_reference, overlay

RED = np.array([200, 40, 30], np.uint8)


def disc(height=80, width=120, center=(40, 30), radius=20):
    rows, columns = np.mgrid[:height, :width]
    return (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def photograph(mask, background=(255, 255, 255)):
    pixels = np.empty((*mask.shape, 3), np.uint8)
    pixels[:] = background
    pixels[mask] = RED
    return pixels


def cutout(mask):
    return np.concatenate([photograph(mask), 255 * mask[..., None].astype(np.uint8)], -1)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 10, 10), (90, 160, 90)])
def test_a_plain_background_is_removed_and_named(tmp_path, background):
    mask = disc()
    reference = load_reference(
        save(tmp_path / "a.png", photograph(mask, background)), ReferenceConfig(framing="keep")
    )
    alpha = reference.source[3].numpy() > 0.5
    assert (alpha == mask).mean() > 0.999
    assert "#{:02x}{:02x}{:02x}".format(*background) in reference.notes[0]


def test_jpeg_noise_and_antialiased_rims_leave_no_halo(tmp_path):
    big = Image.fromarray(photograph(disc(320, 480, (160, 240), 90))).resize(
        (120, 80), Image.Resampling.LANCZOS
    )
    big.save(tmp_path / "a.jpg", quality=85)
    reference = load_reference(tmp_path / "a.jpg", ReferenceConfig())
    on_black = over(reference.rgba, 0.0)
    bright = on_black.min(dim=0).values.max()  # a halo would be white: all channels high
    assert bright < 0.45


def test_holes_that_do_not_reach_the_border_stay_object(tmp_path):
    mask = disc() & ~disc(radius=8)
    reference = load_reference(save(tmp_path / "a.png", photograph(mask)), ReferenceConfig(framing="keep"))
    assert (reference.source[3].numpy()[disc()] > 0.5).all()


def test_recentering_puts_the_longest_side_where_asked(tmp_path):
    path = save(tmp_path / "a.png", photograph(disc()))
    reference = load_reference(path, ReferenceConfig(framing="recenter", fraction=0.6))
    side = reference.rgba.shape[-1]
    box = bounding_box(reference.rgba[3])
    assert reference.rgba.shape[-2] == side
    assert box.longest / side == pytest.approx(0.6, abs=0.02)
    assert abs(box.left + box.right - side) <= 1 and abs(box.top + box.bottom - side) <= 1
    assert "recentered" in reference.notes[1]


def test_auto_keeps_what_a_camera_framed_and_moves_what_it_did_not(tmp_path):
    framed = save(tmp_path / "framed.png", cutout(disc(100, 100, (52, 47), 30)))
    kept = load_reference(framed, ReferenceConfig())
    assert torch.equal(kept.rgba, read_rgba(framed)) and kept.notes[1] == "framing kept"
    cropped = cutout(disc(61, 61, (30, 30), 30))
    assert not is_framed(torch.from_numpy(cropped[..., 3] / 255))
    assert not is_framed(torch.from_numpy(cutout(disc(100, 100, (50, 50), 10))[..., 3] / 255))
    moved = load_reference(save(tmp_path / "cropped.png", cropped), ReferenceConfig(fraction=0.5))
    assert moved.rgba.shape[-1] == pytest.approx(61 / 0.5, abs=1)


def test_keeping_an_oblong_picture_pads_it_to_a_square_around_its_middle(tmp_path):
    path = save(tmp_path / "a.png", cutout(disc(60, 100, (30, 50), 20)))
    box = bounding_box(load_reference(path, ReferenceConfig(framing="keep")).rgba[3])
    assert (box.left + box.right) / 2 == pytest.approx(50.5) and (box.top + box.bottom) / 2 == pytest.approx(
        50.5
    )


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "CMYK", "I;16"])
def test_unusual_files_give_the_same_silhouette(tmp_path, mode):
    mask = disc()
    grey = np.where(mask, 40, 255).astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "LA":
        picture = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 * mask.astype(np.uint8))])
    else:
        picture = Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture.save(path)
    alpha = load_reference(path, ReferenceConfig(framing="keep")).source[3].numpy() > 0.5
    assert (alpha == mask).mean() > 0.99


def test_a_palette_with_a_transparent_entry_has_alpha(tmp_path):
    indices = disc().astype(np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette([0, 255, 0, *RED])
    picture.save(tmp_path / "a.png", transparency=0)
    reference = load_reference(tmp_path / "a.png", ReferenceConfig(framing="keep"))
    assert "alpha taken from the file" in reference.notes[0]
    assert np.array_equal(reference.source[3].numpy() > 0.5, disc())


def busy(tmp_path):
    return save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda d: d / "gone.png", {}, "gone.png: no such file"),
        (
            lambda d: (d / "a.png").write_bytes(b"no picture") and d / "a.png",
            {},
            "cannot be read as a picture",
        ),
        (lambda d: save(d / "a.png", cutout(disc() & False)), {}, "fully transparent"),
        (lambda d: save(d / "a.png", photograph(disc() & False)), {}, "nothing remains"),
        (busy, {}, "no plain background"),
        (lambda d: save(d / "a.png", photograph(disc())), {"background": "alpha"}, "no transparency"),
        (lambda d: save(d / "a.png", cutout(disc())[:4, :4]), {}, "expected at least 8 x 8"),
    ],
)
def test_bad_pictures_are_one_clear_error(tmp_path, make, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load_reference(make(tmp_path), ReferenceConfig(**options), "system.guidance.image_path")
    assert str(caught.value).startswith("system.guidance.image_path: ") and "\n" not in str(caught.value)


def test_a_truncated_picture_is_unreadable(tmp_path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="cannot be read"):
        load_reference(path, ReferenceConfig())


def test_straight_alpha_survives_the_file_and_the_foreground(tmp_path):
    rgba = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    again = read_rgba(write_picture(tmp_path / "a.png", rgba))
    assert (again - rgba).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.allclose(unpremultiply(rgba[:3] * rgba[3:], rgba[3:]), rgba, atol=1e-5)


def test_resampling_does_not_bleed_hidden_colors():
    rgba = torch.zeros(4, 32, 32)
    rgba[0] = 1.0  # red everywhere, visible only in a square; hidden pixels are green
    rgba[:, :8], rgba[1, :8], rgba[3, 8:] = 0, 1, 1
    small = resize_rgba(rgba, 10, 10)
    seen = small[3] > 0.05
    assert small[1][seen].max() < 1e-3 and small[0][seen].min() > 0.99


def test_the_overlay_shows_both_pictures(tmp_path):
    reference = load_reference(save(tmp_path / "a.png", photograph(disc())), ReferenceConfig())
    picture = overlay(reference, 64)
    assert picture.size == (132, 64)
    assert np.asarray(picture)[:, 68:, 0].std() > 5


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/a\.png: could not be written"):
        write_picture(tmp_path / "file" / "a.png", torch.zeros(3, 4, 4))
    with pytest.raises(UserError, match="No space left"), write_whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")
