"""The height of a picture: found from views that turn by any model told relative cameras, read where none can tell."""

import pytest
import torch

from usd.core.config import parse
from usd.core.errors import UserError
from usd.denoiser import open_view_denoiser
from usd.denoiser.elevation_measure import (
    TURNS_DEG,
    Lens,
    elevation_from_turns,
    estimate_elevation,
    over_white,
    read_elevation,
    sample_turns,
    search_elevation,
)
from usd.denoiser.elevation_reader import ElevationReader, ElevationReaderConfig, load_reader, write_reader
from usd.denoiser.gaussian import GaussianDenoiser
from usd.math.camera import Cameras
from usd.toybox import TEST_SEED
from usd.toybox.cameras import cameras_at
from usd.toybox.objects import make_toy
from usd.toybox.render import render

LENS = Lens(1.5, 40.0)


def box(cameras: Cameras):
    """A colored box (half sides .3, .15, .2) with straight alpha (B, 4, H, W)."""
    origins, directions = cameras.rays()
    half = torch.tensor([0.3, 0.15, 0.2])
    one, two = ((sign * half - origins) / directions for sign in (-1, 1))
    near, far = torch.minimum(one, two).amax(-1), torch.maximum(one, two).amin(-1)
    hit = (near < far).float()[:, None]
    colors = 0.45 + (origins + near[..., None] * directions) / 0.7
    return torch.cat([colors.permute(0, 3, 1, 2).clamp(0, 0.9), hit], 1)


def box_at(elevation_deg: float, turns=(0.0,), size: int = 64):
    return box(LENS.cameras(elevation_deg, tuple(turns), size))


def faultless(truth: float) -> GaussianDenoiser:
    """A picture model that knows the box, and how high it is seen from, whatever elevation is assumed of the cameras."""

    def mean(cameras: Cameras):
        turns = cameras.spherical.azimuth.rad2deg().tolist()
        return over_white(box_at(truth, turns, 48)) * 2 - 1

    return GaussianDenoiser(parse(GaussianDenoiser.Config, {"size": 48, "view_std": 0.01}), mean)


@pytest.mark.parametrize("truth", [-15.0, 40.0])
def test_the_views_of_a_model_give_the_height_away_that_it_believes(truth):
    found = estimate_elevation(faultless(truth), box_at(truth), LENS, torch.Generator().manual_seed(0))
    assert found.method == "turn"
    assert found.degrees == pytest.approx(truth, abs=6)
    assert not found.unsure


def test_only_turns_are_sampled_so_that_the_assumed_height_does_not_matter():
    model, rgba = faultless(30.0), box_at(30.0)
    one, two = (sample_turns(model, rgba, LENS, torch.Generator().manual_seed(0), e) for e in (0.0, 50.0))
    assert len(one) == len(TURNS_DEG) - 1
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_views_that_do_not_turn_say_nothing():
    """The same disc from all sides is a ball, whatever the height."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = (x**2 + y**2 < 0.4).float()
    rgba = torch.stack([disc * 0.5] * 3 + [disc])[None]
    found = elevation_from_turns(over_white(rgba).expand(4, -1, -1, -1), rgba, LENS)
    assert found.unsure
    assert "a guess" in found.line()


def test_the_search_finds_the_bottom_of_a_bowl_and_knows_how_steep_it_is():
    steep, flat = (search_elevation(lambda e, k=k: 0.1 + k * (e - 23.0) ** 2) for k in (1e-3, 1e-6))
    assert steep.degrees == pytest.approx(23.0, abs=1e-3)
    assert flat.degrees == pytest.approx(23.0, abs=1e-3)
    assert steep.spread < 10
    assert flat.spread > 20


def test_a_model_with_a_view_volume_cannot_be_asked_by_turning(tiny):
    volume, plain = (open_view_denoiser(str(place), "x") for place in (tiny.zero123_volume, tiny.zero123_a))
    assert volume.assumes_elevation
    assert not plain.assumes_elevation
    with pytest.raises(UserError, match="agree with any elevation assumed"):
        estimate_elevation(volume, box_at(0.0), LENS, torch.Generator(), "turn")
    assert estimate_elevation(volume, box_at(0.0), LENS, torch.Generator()).method == "read"


def test_pictures_and_views_without_an_object_are_refused():
    empty = torch.cat([torch.ones(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)], 1)
    with pytest.raises(UserError, match=r"data\.x: the picture shows no object"):
        estimate_elevation(faultless(0.0), empty, LENS, torch.Generator(), where="data.x")
    with pytest.raises(UserError, match="turned views show no object"):
        elevation_from_turns(torch.ones(4, 3, 32, 32), box_at(0.0), LENS)


def test_the_stored_reader_reads_toys_better_than_a_guess():
    """On test-split toys (of categories that tell up from down); benchmarks/claims/elevation.py has the figures."""
    truths = [-10.0, 0.0, 10.0, 25.0, 40.0, 50.0, 60.0] * 3
    toys = [make_toy(TEST_SEED + 500 + i, 0.0) for i in range(len(truths))]
    cameras = cameras_at(truths, [90.0] * len(truths), 64)
    pictures = render(toys, cameras, torch.arange(len(truths))).over_white()
    found = torch.tensor([read_elevation(picture[None]).degrees for picture in pictures])
    error = (found - torch.tensor(truths)).abs()
    assert error.median() < 10 < (torch.tensor(truths) - 15).abs().median()


def test_a_mirror_image_was_taken_as_high_and_a_stored_reader_reads_the_same(tmp_path):
    torch.manual_seed(0)
    reader = ElevationReader(parse(ElevationReaderConfig, {"picture": 16, "width": 8}))
    pictures = torch.rand(2, 3, 40, 40)
    for one, two in zip(reader.read(pictures), reader.read(pictures.flip(-1)), strict=True):
        torch.testing.assert_close(one, two)
    write_reader(reader, tmp_path / "reader.safetensors")
    again = load_reader(tmp_path / "reader.safetensors")
    assert again.config == reader.config
    torch.testing.assert_close(again.read(pictures)[0], reader.read(pictures)[0])


def test_a_broken_reader_is_one_line(tmp_path):
    (tmp_path / "reader.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read as an elevation reader"):
        load_reader(tmp_path / "reader.safetensors")
