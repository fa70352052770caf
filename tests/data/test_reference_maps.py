"""Depth and normal maps beside the reference picture: framed exactly as it is, whatever the framing."""

import numpy as np
import pytest
import torch

from usd.core.errors import UserError
from usd.data.pictures import write_picture
from usd.data.reference import ReferenceConfig, load_reference

ASKED = {"requires_depth": True, "requires_normal": True}


def ramp(height: int, width: int) -> torch.Tensor:
    """Colors (3, H, W) that tell every place of a picture: right, down, and along the diagonal."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, (x + y) / 2])


def saved(folder, height=90, width=120, size=(30, 40), corner=(20, 60), suffix="_rgba", maps=1):
    """A ramp whose object is a rectangle, with a normal map of the same colors and their first as depth."""
    alpha = torch.zeros(1, height, width)
    alpha[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = 1
    colors = ramp(height, width)
    path = write_picture(folder / f"cup{suffix}.png", torch.cat([colors, alpha]))
    small = ramp(height // maps, width // maps)
    write_picture(folder / "cup_depth.png", small[:1])
    write_picture(folder / "cup_normal.png", small)
    return path


def apart(reference) -> float:
    """The largest difference between the maps and the colors of the picture, well inside of the object."""
    size = reference.rgba.shape[-1]
    inside = -torch.nn.functional.max_pool2d(-reference.rgba[3:][None], 9, 1, 4)[0, 0] > 0.99
    normal, depth = reference.normal_at(size, size), reference.depth_at(size, size)
    difference = torch.cat([normal - reference.rgba[:3], depth - reference.rgba[:1]]).abs().amax(0)
    assert inside.any()
    return float(difference[inside].max())


@pytest.mark.parametrize("framing", ["keep", "recenter"])
@pytest.mark.parametrize("suffix", ["_rgba", ""])
def test_maps_are_framed_as_the_picture(tmp_path, framing, suffix):
    reference = load_reference(saved(tmp_path, suffix=suffix), ReferenceConfig(framing=framing, **ASKED))
    assert apart(reference) < 0.02
    assert reference.depth.shape[0] == 1 and reference.normal.shape[0] == 3


def test_smaller_maps_are_framed_alike(tmp_path):
    reference = load_reference(
        saved(tmp_path, 240, 320, (80, 60), (100, 40), maps=4), ReferenceConfig(**ASKED)
    )
    assert apart(reference) < 0.04 and reference.normal.shape[-1] < reference.rgba.shape[-1]


def test_maps_follow_into_the_closer_reading_of_a_large_photograph(tmp_path):
    path = saved(tmp_path, 1800, 2400, (200, 240), (900, 1500), maps=2)
    reference = load_reference(path, ReferenceConfig(**ASKED))
    assert reference.rgba.shape[-1] > 250, "the object was read again"
    assert apart(reference) < 0.02


def test_nothing_is_read_that_nobody_asked_for(tmp_path):
    path = saved(tmp_path)
    for kind in ("depth", "normal"):
        (tmp_path / f"cup_{kind}.png").write_text("not a picture")
    reference = load_reference(path, ReferenceConfig())
    assert reference.depth is None and reference.normal is None and reference.depth_at(8, 8) is None


def test_a_deep_depth_map_keeps_its_levels(tmp_path):
    from PIL import Image

    path = saved(tmp_path)
    levels = np.arange(90 * 120, dtype=np.uint16).reshape(90, 120)
    Image.fromarray(levels).save(tmp_path / "cup_depth.png")
    depth = load_reference(path, ReferenceConfig(framing="keep", requires_depth=True)).depth
    assert len(depth.unique()) >= 90 * 120


def test_a_missing_map_and_one_of_another_shape_are_one_clear_line(tmp_path):
    path = saved(tmp_path)
    write_picture(tmp_path / "cup_depth.png", torch.zeros(1, 50, 120))
    with pytest.raises(UserError, match=r"cup_depth.png: is 120 x 50 pixels; expected .* 120 x 90"):
        load_reference(path, ReferenceConfig(requires_depth=True))
    (tmp_path / "cup_normal.png").unlink()
    with pytest.raises(UserError, match=r"has no normal map; expected it beside the picture: cup_normal.png"):
        load_reference(path, ReferenceConfig(requires_normal=True))
