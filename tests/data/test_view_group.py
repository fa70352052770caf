"""Batches that are a model's fixed cameras."""

from typing import get_args, get_type_hints

import pytest
import torch

from tests.tiny_configs import CONFIGS
from usd.app.experiment import load_experiment
from usd.core.config import parse
from usd.core.registry import build, find
from usd.data import Data
from usd.data.random_camera import CameraBatch
from usd.math.camera import camera_differences, orbit_cameras_deg
from usd.math.view_groups import (
    FREE_GROUPS,
    NAMED_DISTANCE,
    VIEW_GROUPS,
    nearest_named_cameras,
    syncdreamer_cameras,
)


@pytest.mark.parametrize("group", sorted(set(VIEW_GROUPS) - {*FREE_GROUPS, "named"}))
def test_every_batch_is_the_group_that_goes_with_the_reference(group: str) -> None:
    cls = find(Data, "view-group-datamodule")
    options = {"group": group, "height": 32, "width": 32, "reference_azimuth_deg": 40.0}
    data = cls(parse(cls.Config, options, "data"))
    first, later = (data.batch(step, torch.Generator().manual_seed(step)) for step in (0, 7))
    assert isinstance(first, CameraBatch) and isinstance(later, CameraBatch) and first.reference is not None
    assert torch.equal(first.cameras.c2w, later.cameras.c2w) and first.cameras.height == 32
    expected = VIEW_GROUPS[group](first.reference, 32)
    for i in range(len(expected)):
        assert float(camera_differences(first.cameras[[i]], expected[[i]]).max()) < 1e-6
    torch.testing.assert_close(first.reference.spherical.azimuth[0].rad2deg(), torch.tensor(40.0))


def test_named_views_are_drawn_anew_in_every_batch_and_each_has_a_name() -> None:
    cls = find(Data, "view-group-datamodule")
    data = cls(parse(cls.Config, {"group": "named", "height": 32, "width": 32, "batch_size": 4}, "data"))
    first, later = (data.batch(step, torch.Generator().manual_seed(step)) for step in (0, 7))
    assert isinstance(first, CameraBatch) and isinstance(later, CameraBatch) and first.reference is not None
    assert not torch.equal(first.cameras.c2w, later.cameras.c2w) and len(first.cameras) == 4
    again = nearest_named_cameras(first.cameras, first.reference)
    torch.testing.assert_close(again.c2w, first.cameras.c2w, atol=1e-5, rtol=0)


def test_the_first_of_a_group_that_turns_stands_where_the_picture_was_taken() -> None:
    reference = orbit_cameras_deg(20.0, 40.0, 1.5, 49.1, 32)
    assert torch.equal(VIEW_GROUPS["syncdreamer"](reference, 32).c2w, syncdreamer_cameras(32, 40.0).c2w)
    for group in ("syncdreamer", "mvdream", "imagedream"):
        azimuth = VIEW_GROUPS[group](reference, 32).spherical.azimuth[0].rad2deg()
        torch.testing.assert_close(azimuth, torch.tensor(40.0), atol=1e-4, rtol=0)


def test_data_can_draw_every_group() -> None:
    annotation = get_type_hints(find(Data, "view-group-datamodule").Config)["group"]
    assert set(get_args(annotation)) == set(VIEW_GROUPS)


@pytest.mark.parametrize(
    "recipe", ["syncdreamer", "wonder3d", "zero123plus", "imagedream", "multiple-angles", "usd-views-mini"]
)
def test_a_recipes_picture_shows_as_much_of_the_world_as_the_views_of_its_group(recipe: str) -> None:
    """Data of another type takes nothing from the base recipe: its lens would be 70 degrees wide."""
    given = ["system.guidance.image_path=load/images/kettle.png"]
    data = build(load_experiment([CONFIGS / f"{recipe}.yaml"], given)[0].data, Data)
    batch = data.batch(0, torch.Generator().manual_seed(0))
    assert isinstance(batch, CameraBatch) and batch.reference is not None
    views = batch.cameras
    seen = views.spherical.distance * torch.tan(views.fov_y / 2)
    shown = seen if views.span_y is None else views.span_y / 2
    front = batch.reference.spherical.distance * torch.tan(batch.reference.fov_y / 2)
    near, far = NAMED_DISTANCE[0], NAMED_DISTANCE[-1]
    assert bool((shown > near * 0.98 * front).all() and (shown < far * 1.02 * front).all())
    assert recipe == "multiple-angles" or float((shown / front - 1).abs().max()) < 0.01
    evaluated = data.eval_batches("test")[0]
    assert isinstance(evaluated, CameraBatch) and views.height >= 64
    torch.testing.assert_close(evaluated.cameras.fov_y[0], batch.reference.fov_y[0])


def test_the_cameras_that_mvdream_is_told_look_at_the_middle_and_bring_their_lamp() -> None:
    given = ["system.prompt_processor.prompt=a red car"]
    data = build(load_experiment([CONFIGS / "mvdream.yaml"], given)[0].data, Data)
    batch = data.batch(0, torch.Generator().manual_seed(0))
    assert isinstance(batch, CameraBatch) and len(batch.cameras) == 4
    pixels, _ = batch.cameras.resize(2, 2).project(torch.zeros(1, 3))
    torch.testing.assert_close(pixels, torch.ones_like(pixels), atol=1e-4, rtol=0)
    assert batch.cameras.light_positions is not None
