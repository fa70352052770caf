import imageio.v2 as imageio
import pytest
import torch

from usd.core.types import Render
from usd.data.pictures import contact_sheet, read_rgba
from usd.evaluation.gallery import (
    depth_shade,
    rendered_rgba,
    validation_grid,
    write_contact_sheet,
    write_video,
)


def render(count=3, height=10, width=14):
    draw = torch.Generator().manual_seed(0)
    opacity = torch.rand(count, 1, height, width, generator=draw)
    colour = torch.rand(count, 3, height, width, generator=draw)
    depth = 1 + opacity
    return colour, Render(colour * opacity + 1 - opacity, opacity, colour * opacity, depth)


def test_rgba_is_the_colour_before_compositing():
    colour, seen = render()
    rgba = rendered_rgba(seen)
    solid = (seen.opacity > 0.01).expand_as(colour)
    assert torch.allclose(rgba[:, :3][solid], colour[solid], atol=1e-4)
    with pytest.raises(ValueError, match="foreground"):
        rendered_rgba(Render(seen.rgb, seen.opacity))


def test_a_video_has_every_picture_at_an_even_size(tmp_path):
    pictures = [torch.full((4, 33, 47), value) for value in (0.1, 0.5, 0.9)]
    frames = imageio.mimread(write_video(tmp_path / "new/a.mp4", pictures))
    assert len(frames) == 3 and frames[0].shape == (34, 48, 3)


def test_a_sheet_shows_evenly_chosen_pictures_in_reading_order(tmp_path):
    pictures = [torch.cat([torch.full((3, 4, 4), i / 40), torch.ones(1, 4, 4)]) for i in range(40)]
    sheet = read_rgba(write_contact_sheet(tmp_path / "a.png", pictures, at_most=4, columns=2))
    assert sheet.shape == (4, 10, 10)
    levels = [sheet[0, y, x].item() for y in (1, 7) for x in (1, 7)]
    assert levels == pytest.approx([0, 0.25, 0.5, 0.75], abs=1 / 255)


def test_a_contact_sheet_may_end_in_a_half_row():
    sheet = contact_sheet(torch.zeros(3, 1, 4, 4), columns=2, gap=1)
    assert sheet.shape == (1, 9, 9) and sheet[0, 6, 6] == 1 and sheet[0, 6, 1] == 0


def test_the_grid_has_a_column_a_view_and_the_reference_first():
    _, seen = render()
    assert validation_grid(seen).shape == (3, 3 * 12 - 2, 3 * 16 - 2)
    with_reference = validation_grid(seen, torch.zeros(3, 10, 14))
    assert with_reference.shape == (3, 3 * 12 - 2, 4 * 16 - 2) and (with_reference[:, :10, :14] == 0).all()


def test_near_is_bright_and_empty_is_black():
    depth = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    shade = depth_shade(depth, torch.tensor([[[[1.0, 1.0, 0.0]]]]))
    assert torch.allclose(shade, torch.tensor([[[[1.0, 0.2, 0.0]]]]))
    assert (depth_shade(depth, torch.zeros_like(depth)) == 0).all()
