"""Captures handed out whole: which views, at which size, in which world, and with which pictures."""

import math

import pytest
import torch

from usd.core.config import ConfigError, UserError, parse
from usd.core.random import generator
from usd.data.convert import write_views
from usd.data.multiview_camera import MultiviewCameras, interpolate_cameras
from usd.data.random_camera import CameraBatch
from usd.data.view_set import view_set
from usd.math.camera import Spherical, orbit_cameras

COUNT, SIZE = 9, 16


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Views of flat colors, each with its own, from cameras about (2, -1, 0.5)."""
    place = Spherical(torch.linspace(0.1, 0.5, COUNT), torch.linspace(0, 5, COUNT), torch.full((COUNT,), 1.5))
    cameras = orbit_cameras(place, 0.7, SIZE, 2 * SIZE)
    cameras.c2w[:, :3, 3] += torch.tensor([2.0, -1.0, 0.5])
    pictures = torch.linspace(0, 1, COUNT)[:, None, None, None].expand(-1, 3, SIZE, 2 * SIZE)
    rgba = torch.cat([pictures, torch.ones(COUNT, 1, SIZE, 2 * SIZE)], 1)
    views = view_set(list(rgba), cameras, [f"{i}.png" for i in range(COUNT)])
    folder = tmp_path_factory.mktemp("capture")
    write_views(views, folder)
    return folder, views


def data_of(folder, **options):
    options = {"dataroot": str(folder), "train_downsample_resolution": 2, **options}
    return MultiviewCameras(parse(MultiviewCameras.Config, options, "data"))


def drawn(data, step=0):
    return data.batch(step, generator("cpu", 0, "data", step))


def test_a_batch_holds_random_views_with_their_pictures_and_numbers(capture):
    folder, views = capture
    data = data_of(folder, batch_size=64, train_data_interval=2, camera_layout="keep")
    batch = drawn(data)
    assert set(batch.indices.tolist()) == set(range(5)), "every other view, all of them drawn"
    assert batch.pictures.shape == (64, 3, SIZE // 2, SIZE)
    shade = views.rgba[::2, 0, 0, 0][batch.indices]
    assert torch.allclose(batch.pictures[:, 0, 0, 0], shade, atol=1 / 255)
    assert torch.allclose(batch.cameras.c2w, views.cameras.c2w[::2][batch.indices], atol=1e-5)
    assert torch.equal(batch.cameras.light_positions, batch.cameras.position)
    assert torch.equal(batch.indices, drawn(data).indices) and len(data.train_views) == 5


def test_a_part_of_a_batch_keeps_its_pictures(capture):
    batch = drawn(data_of(capture[0], batch_size=6)).to("cpu")
    part = batch.views(2, 5)
    assert torch.equal(part.indices, batch.indices[2:5]) and torch.equal(part.pictures, batch.pictures[2:5])
    assert len(part) == 3 and part.first == 2 and torch.equal(batch.view(1).pictures, batch.pictures[1:2])


def test_layouts_move_the_world_and_turn_nothing(capture):
    folder, views = capture
    around = data_of(folder).train_views.cameras
    assert torch.allclose(around.position.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(around.c2w[:, :3, :3], views.cameras.c2w[:, :3, :3], atol=1e-5)
    front = data_of(folder, camera_layout="front", camera_distance=2.0).train_views.cameras
    shift = front.position - views.cameras.position
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5)
    ahead = -views.cameras.c2w[:, :3, 2].mean(0)
    assert torch.allclose(front.position.mean(0), -2.0 * ahead, atol=1e-5)


def test_the_test_renders_the_views_or_a_path_between_two(capture):
    folder, views = capture
    data = data_of(folder, eval_downsample_resolution=1, eval_batch_size=4, eval_data_interval=2)
    batches = data.eval_batches("test")
    assert [len(batch) for batch in batches] == [4, 1] and batches[1].first == 4
    assert batches[0].pictures.shape[-2:] == (SIZE, 2 * SIZE)
    assert len(data.eval_batches("val")[0]) == 4
    path = data_of(folder, eval_interpolation=[0, 8, 5], eval_batch_size=2, camera_layout="keep")
    cameras = torch.cat([batch.cameras.c2w for batch in path.eval_batches("test")])
    assert len(cameras) == 5 and type(path.eval_batches("test")[0]) is CameraBatch
    assert torch.allclose(cameras[[0, -1]], views.cameras.c2w[[0, 8]], atol=1e-5)


@pytest.mark.parametrize("turn", [0.0, 1.0, math.pi - 1e-4, math.pi])
def test_a_path_turns_at_an_even_pace(turn):
    place = Spherical(torch.tensor([0.3, 0.3]), torch.tensor([0.2, 0.2 + turn]), torch.tensor([1.0, 2.0]))
    both = orbit_cameras(place, torch.tensor([0.5, 0.7]), 8, 8)
    path = interpolate_cameras(both[[0]], both[[1]], 5)
    rotation = path.c2w[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)
    steps = rotation[1:] @ rotation[:-1].mT
    cosine = (steps.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    assert torch.allclose(cosine, cosine[:1].expand(4), atol=1e-4)
    assert torch.allclose(path.c2w[[0, -1]], both.c2w, atol=1e-3)
    assert path.fov_y.tolist() == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataroot": ""}, "data.dataroot: required"),
        ({"camera_layout": "front"}, "data.camera_distance: goes with"),
        ({"camera_distance": 1.0}, "data.camera_distance: goes with"),
        ({"dataroot": "/nowhere"}, "data.dataroot: /nowhere: no such folder"),
        ({"eval_interpolation": [0, 9, 3]}, "expected two of the views 0 to 8"),
    ],
)
def test_mistakes_are_one_clear_line(capture, options, message):
    with pytest.raises((ConfigError, UserError), match=message):
        data_of(**{"folder": capture[0], **options}).eval_batches("test")


def test_views_that_processes_cannot_share_are_refused(capture):
    with pytest.raises(ConfigError, match=r"data.batch_size: 3 views a step cannot be shared by 2"):
        data_of(capture[0], batch_size=3).refuse_uneven(2)
