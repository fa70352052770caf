"""The view volume: its geometry against projection, its rendering against closed forms."""

from pathlib import Path

import pytest
import torch

from tests.conftest import TINY_VOLUME
from usd.core.config import UserError
from usd.denoiser.view_volume import (
    Conv3d,
    ViewVolume,
    ViewVolumeConfig,
    compositing_weights,
    load_volume,
    write_volume,
    wrong_azimuths,
)
from usd.math.camera import Cameras, orbit_cameras_deg

CONFIG = ViewVolumeConfig(**TINY_VOLUME)


def _volume() -> ViewVolume:
    torch.manual_seed(0)
    return ViewVolume(CONFIG).eval()


def _camera(elevation: float, azimuth: float) -> Cameras:
    return orbit_cameras_deg(float(elevation), float(azimuth), 1.5, 40.0, 16)


def _picture(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_only_the_azimuth_difference_matters() -> None:
    """Reference and target carried round together see the same."""
    model, picture = _volume(), _picture()
    here = model.see(model.lift(picture, _camera(15, 90)), _camera(15, 90), _camera(40, 150))
    there = model.see(model.lift(picture, _camera(15, -20)), _camera(15, -20), _camera(40, 40))
    torch.testing.assert_close(here.hint, there.hint, atol=2e-4, rtol=1e-3)
    other = model.see(model.lift(picture, _camera(15, 90)), _camera(15, 90), _camera(40, 30))
    assert not torch.allclose(here.rgb, other.rgb, atol=1e-3)


@pytest.mark.parametrize(
    ("side", "kernel", "dtype"), [(2, 3, "float32"), (1, 1, "float32"), (8, 3, "bfloat16")]
)
def test_small_3d_convolutions_are_exact_under_autocast(side: int, kernel: int, dtype: str) -> None:
    torch.manual_seed(0)
    convolution = Conv3d(16, 16, kernel, padding=kernel // 2)
    x = torch.randn(3, 16, side, side, side)
    exact = torch.autograd.grad(convolution(x).square().sum(), convolution.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(x)
    found = torch.autograd.grad(y.float().square().sum(), convolution.weight)[0]
    assert y.dtype == getattr(torch, dtype)
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == "float32" else {"atol": 3.0, "rtol": 0.05}
    torch.testing.assert_close(found, exact, **close)


def test_a_dense_voxel_is_seen_where_its_centre_projects() -> None:
    model = ViewVolume(ViewVolumeConfig(**{**TINY_VOLUME, "latent": 32, "samples": 64}))
    n = 16
    values = torch.full((1, 5, n, n, n), -10.0)
    values[0, 0, 12, 4, 9] = 20.0  # z, y, x
    reference, target = _camera(10, 30), _camera(25, 130)
    opacity = model.see(values, reference, target).opacity[0, 0]
    point = ((torch.tensor([9.0, 4.0, 12.0]) + 0.5) / n * 2 - 1) * model.config.extent
    upright = target.turned(-reference.spherical.azimuth).resize(64, 64)
    pixel, _ = upright.project(point[None])
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    seen = torch.stack([(opacity * columns).sum(), (opacity * rows).sum()]) / opacity.sum()
    assert opacity.max() > 0.5
    torch.testing.assert_close(seen, pixel[0, 0], atol=0.8, rtol=0)


def test_voxels_read_the_frustum_where_they_project() -> None:
    """A frustum that holds its own pixel coordinates gives every voxel the place that the camera says."""
    model, camera = _volume(), _camera(35, 70)
    places = model._frustum_places(camera, 6)[0]
    line = ((torch.arange(6) + 0.5) / 6 * 2 - 1) * CONFIG.extent
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    upright = camera.turned(-camera.spherical.azimuth).resize(100, 100)
    pixels, depth = upright.project(torch.stack([x, y, z], -1).view(-1, 3))
    torch.testing.assert_close(places[..., :2].reshape(-1, 2), pixels[0] / 50 - 1, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        places[..., 2].reshape(-1), (depth[0] - 1.5) / CONFIG.extent, atol=1e-4, rtol=0
    )


def test_targets_belong_to_their_reference() -> None:
    """Two references with two targets each, at once or one by one."""
    model, pictures = _volume(), _picture(2)
    reference = orbit_cameras_deg([15.0, 5.0], [90.0, 20.0], 1.5, 40.0, 16)
    targets = orbit_cameras_deg([0.0, 10.0, 20.0, 30.0], [10.0, 100.0, 200.0, 300.0], 1.5, 40.0, 16)
    together = model.see(model.lift(pictures, reference), reference, targets).hint
    second = model.see(model.lift(pictures[1:], reference[[1]]), reference[[1]], targets[[2, 3]]).hint
    torch.testing.assert_close(together[2:], second, atol=1e-5, rtol=1e-4)


def test_weights_are_those_of_a_homogeneous_medium() -> None:
    """Density 2 over a length of 3 in 30 steps lets exp(-6) through."""
    weights = compositing_weights(torch.full((1, 1, 1, 30), 0.2))[0, 0, 0]
    torch.testing.assert_close(weights.sum(), 1 - torch.exp(torch.tensor(-6.0)))
    torch.testing.assert_close(weights[1:] / weights[:-1], torch.full((29,), torch.exp(torch.tensor(-0.2))))


def test_the_mirrored_azimuth_is_as_far_on_the_other_side() -> None:
    reference, target = orbit_cameras_deg([5.0], [80.0], 1.5, 40.0, 16), _camera(30, 110)
    mirrored = wrong_azimuths(target, reference)["negated"].spherical
    torch.testing.assert_close(mirrored.azimuth.rad2deg(), torch.tensor([50.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(mirrored.elevation, target.spherical.elevation)


def test_gradients_reach_every_weight() -> None:
    model = ViewVolume(CONFIG)
    seen = model.see(model.lift(_picture(2), _two()), _two(), _two())
    (seen.rgb.sum() + seen.hint.square().sum()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def _two() -> Cameras:
    return orbit_cameras_deg([15.0, 5.0], [90.0, 20.0], 1.5, 40.0, 16)


def test_a_stored_volume_is_the_same(tmp_path: Path) -> None:
    model = _volume()
    write_volume(model, tmp_path)
    again = load_volume(tmp_path)
    assert again.config == model.config
    assert torch.equal(again.lift(_picture(), _camera(0, 0)), model.lift(_picture(), _camera(0, 0)))


def test_foreign_weights_are_one_line(tmp_path: Path) -> None:
    write_volume(_volume(), tmp_path)
    (tmp_path / "config.json").write_text('{"hint": 9}')
    with pytest.raises(UserError, match="a view volume"):
        load_volume(tmp_path)
