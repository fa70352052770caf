import math

import pytest
import torch

from usd.core.config import ConfigError, UserError, parse, plain
from usd.core.random import generator
from usd.data.pictures import write_picture
from usd.data.random_camera import RandomCameras, at_step
from usd.data.transforms import write_transforms
from usd.data.usd_random_camera import UsdRandomCameras
from usd.math.camera import Spherical, orbit_cameras_deg


def cameras(cls=RandomCameras, **options):
    return cls(parse(cls.Config, options, "data"))


def drawn(data, step=0, seed=0):
    return data.batch(step, generator("cpu", seed, "data", step))


STILL = {"camera_perturb": 0.0, "center_perturb": 0.0, "up_perturb": 0.0}


def test_a_batch_is_a_function_of_seed_and_step():
    data = cameras(batch_size=4)
    again = cameras(batch_size=4)
    assert torch.equal(drawn(data, 7).cameras.c2w, drawn(again, 7).cameras.c2w)
    assert not torch.equal(drawn(data, 7).cameras.c2w, drawn(data, 8).cameras.c2w)
    assert not torch.equal(drawn(data, 7).cameras.c2w, drawn(data, 7, seed=1).cameras.c2w)


def test_every_view_is_inside_its_ranges_and_sees_the_origin_in_the_middle():
    data = cameras(
        batch_size=512,
        elevation_range=[-10, 45],
        azimuth_range=[-30, 60],
        camera_distance_range=[1.2, 1.6],
        fovy_range=[35, 50],
        **STILL,
    )
    views = drawn(data).cameras
    place = views.spherical
    for value, low, high in (
        (place.elevation.rad2deg(), -10, 45),
        (place.azimuth.rad2deg(), -30, 60),
        (place.distance, 1.2, 1.6),
        (views.fov_y.rad2deg(), 35, 50),
    ):
        assert value.min() >= low - 1e-3 and value.max() <= high + 1e-3
        assert value.max() - value.min() > 0.9 * (high - low)
    pixel, depth = views.project(torch.zeros(1, 3))
    assert torch.allclose(pixel, torch.full_like(pixel, 32.0), atol=1e-2) and (depth > 0).all()


def test_elevations_are_uniform_by_area_within_the_range():
    """The sine of the elevation is uniform; the published code drew from [-6.4, 30] here."""
    data = cameras(batch_size=20000, elevation_range=[-10, 45], **STILL)
    height = drawn(data).cameras.spherical.elevation.sin()
    low, high = math.sin(math.radians(-10)), math.sin(math.radians(45))
    shares = torch.histc((height - low) / (high - low), bins=10, min=0, max=1) / len(height)
    assert torch.allclose(shares, torch.full((10,), 0.1), atol=0.01)


def test_elevations_may_be_uniform_in_the_angle():
    data = cameras(batch_size=20000, elevation_range=[0, 90], elevation_sampling="angle", **STILL)
    assert drawn(data).cameras.spherical.elevation.rad2deg().mean().item() == pytest.approx(45, abs=1)


def test_azimuths_of_a_batch_are_spread_evenly():
    data = cameras(batch_size=8, azimuth_range=[0, 360], **STILL)
    slots = (drawn(data).cameras.spherical.azimuth.rad2deg() % 360) // 45
    assert slots.sort().values.tolist() == list(range(8))


def test_perturbations_move_position_and_aim():
    still, moved = (drawn(cameras(batch_size=64, **options)) for options in (STILL, {}))
    pixel, _ = moved.cameras.project(torch.zeros(1, 3))
    assert (pixel - 32).abs().max() > 2
    assert (still.cameras.spherical.distance - moved.cameras.spherical.distance).abs().max() > 0.02


def test_resolution_follows_its_milestones():
    data = cameras(height=[16, 32], width=[16, 48], batch_size=[4, 1], resolution_milestones=[100])
    before, after = drawn(data, 99), drawn(data, 100)
    assert (before.cameras.height, before.cameras.width, len(before)) == (16, 16, 4)
    assert (after.cameras.height, after.cameras.width, len(after)) == (32, 48, 1)
    assert [at_step((1, 2, 3), (10, 20), step) for step in (0, 10, 25)] == [1, 2, 3]


def test_ranges_grow_progressively():
    data = cameras(
        batch_size=256, elevation_range=[0, 60], eval_elevation_deg=30.0, progressive_until=99, **STILL
    )
    early = drawn(data, 9).cameras.spherical.elevation.rad2deg()
    assert early.min() >= 27 - 1e-3 and early.max() <= 33 + 1e-3
    assert drawn(data, 500).cameras.spherical.elevation.rad2deg().max() > 55


def test_evaluation_orbits_are_deterministic_and_even():
    data = cameras(n_test_views=6, n_val_views=3, eval_batch_size=4, eval_height=20, eval_width=24)
    batches = data.eval_batches("test")
    assert [len(batch) for batch in batches] == [4, 2] and [batch.first for batch in batches] == [0, 4]
    azimuth = torch.cat([batch.cameras.spherical.azimuth for batch in batches]).rad2deg() % 360
    assert torch.allclose(azimuth, torch.arange(6) * 60.0, atol=1e-3)
    assert torch.equal(batches[0].cameras.c2w, data.eval_batches("test")[0].cameras.c2w)
    (val,) = data.eval_batches("val")
    assert len(val) == 3 and (val.cameras.height, val.cameras.width) == (20, 24)
    assert torch.allclose(val.cameras.spherical.elevation.rad2deg(), torch.tensor(15.0), atol=1e-3)


def test_given_cameras_are_tested_exactly_and_the_turntable_apart(tmp_path):
    given = orbit_cameras_deg([5.0, 40.0], [10.0, 200.0], 1.7, 33.0, 24)
    write_picture(tmp_path / "a.png", torch.rand(4, 24, 24))
    path = write_transforms(tmp_path / "t.json", [given], ["a.png", "b.png"])
    batches = cameras(eval_transforms=str(path), n_test_views=3).eval_batches("test")
    test = [batch for batch in batches if batch.name == "test"]
    assert torch.allclose(torch.cat([batch.cameras.c2w for batch in test]), given.c2w, atol=1e-6)
    assert [batch.frames[0].picture for batch in test] == [tmp_path / "a.png", None]
    assert sum(len(batch) for batch in batches if batch.name == "turntable") == 3
    assert len(cameras(eval_transforms=str(path), eval_turntable=False).eval_batches("test")) == 2


def test_the_reference_camera_is_the_published_one_unless_configured():
    data = cameras(UsdRandomCameras, eval_fovy_deg=39.6, height=48, width=48)
    place = drawn(data).reference.spherical
    assert place.elevation.rad2deg().item() == pytest.approx(15, abs=1e-3)
    assert place.azimuth.rad2deg().item() == pytest.approx(90, abs=1e-3)
    assert place.distance.item() == pytest.approx(1.5, abs=1e-5)
    other = cameras(
        UsdRandomCameras, reference_elevation_deg=0.0, reference_fovy_deg=49.1, reference_camera_distance=1.8
    )
    reference = drawn(other).reference
    assert reference.fov_y.rad2deg().item() == pytest.approx(49.1, abs=1e-3)
    assert reference.spherical.distance.item() == pytest.approx(1.8, abs=1e-5)
    assert other.eval_batches("val")[0].reference is not None


def test_a_batch_moves_whole_and_is_cut_into_views():
    batch = drawn(cameras(UsdRandomCameras, batch_size=3)).to("cpu")
    assert batch.reference is not None and len(batch.view(2)) == 1 and batch.view(2).first == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elevation_range": [45, -10]}, r"data.elevation_range: \[45, -10\] runs backwards"),
        ({"height": 0}, "data.height: 0 is out of range"),
        ({"eval_width": 0}, "data.eval_width: 0 is out of range"),
        ({"fovy_range": [40, 200]}, "data.fovy_range: 200 is out of range"),
        ({"height": [16, 32]}, "data.height: has 2 values; expected 1"),
        ({"camera_distance_rang": [1, 2]}, "Did you mean 'camera_distance_range'"),
        ({"eval_transforms": "gone.json"}, "gone.json: no such file"),
    ],
)
def test_impossible_cameras_are_refused(options, message):
    with pytest.raises((ConfigError, UserError), match=message):
        cameras(**options)


def test_the_configuration_survives_plain_yaml():
    config = parse(UsdRandomCameras.Config, {"height": [16, 32], "resolution_milestones": [5]}, "data")
    assert parse(UsdRandomCameras.Config, plain(config), "data") == config


def test_test_views_may_be_spread_over_a_band_of_the_sphere():
    """Equal shares of the band's area have equally many views, and of the circle, too."""
    data = cameras(
        UsdRandomCameras, eval_elevation_range=[-20, 60], n_test_views=400, eval_camera_distance=1.5
    )
    batches = data.eval_batches("test")
    place = Spherical(
        *(
            torch.cat([getattr(b.cameras.spherical, key) for b in batches])
            for key in ("elevation", "azimuth", "distance")
        )
    )
    low, high = math.sin(math.radians(-20)), math.sin(math.radians(60))
    height = (place.elevation.sin() - low) / (high - low)
    assert torch.histc(height, bins=10, min=0, max=1).tolist() == [40] * 10
    assert (torch.histc(place.azimuth, bins=8, min=-math.pi, max=math.pi) - 50).abs().max() <= 3
    assert torch.allclose(place.distance, torch.tensor(1.5)) and batches[0].name == "test"
    with pytest.raises(ConfigError, match=r"data\.eval_elevation_range: \[60, -20\] runs backwards"):
        cameras(eval_elevation_range=[60, -20])


def test_the_reference_view_may_have_a_size_of_its_own():
    options = {"height": [16, 32], "width": [16, 32], "resolution_milestones": [5]}
    data = cameras(UsdRandomCameras, reference_height=[64, 128], **options)
    assert [drawn(data, step).reference.height for step in (0, 5)] == [64, 128]
    assert [drawn(data, step).cameras.height for step in (0, 5)] == [16, 32]
    assert drawn(cameras(UsdRandomCameras, **options), 5).reference.height == 32
    own = cameras(
        UsdRandomCameras, reference_height=[64, 128], reference_resolution_milestones=[9], **options
    )
    assert [drawn(own, step).reference.height for step in (5, 9)] == [64, 128]
    with pytest.raises(ConfigError, match=r"data.reference_height: has 2 values; expected 1"):
        cameras(UsdRandomCameras, reference_height=[8, 16])
    with pytest.raises(
        ConfigError, match=r"reference_resolution_milestones: has no reference_height to change"
    ):
        cameras(UsdRandomCameras, reference_resolution_milestones=[5])


def test_elevations_of_the_mixture_are_uniform_in_the_angle_for_half_of_the_steps_and_by_area_for_the_others():
    """The mean sine of uniform angles between a and b is (cos a - cos b) / (b - a); by area it is the middle one."""
    data = cameras(batch_size=2000, elevation_range=[0, 90], elevation_sampling="mixture", **STILL)
    means = torch.tensor([drawn(data, step).cameras.spherical.elevation.sin().mean() for step in range(60)])
    by_angle, by_area = (means - 2 / math.pi).abs() < 0.03, (means - 0.5).abs() < 0.03
    assert (by_angle ^ by_area).all() and 18 <= int(by_angle.sum()) <= 42
