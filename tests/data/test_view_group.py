"""Batches that are a model's fixed cameras."""

import torch

from usd.core.config import parse
from usd.core.registry import find
from usd.data import Data
from usd.data.random_camera import CameraBatch
from usd.math.camera import camera_differences
from usd.math.view_groups import syncdreamer_cameras


def test_every_batch_is_the_group_that_goes_with_the_reference() -> None:
    cls = find(Data, "view-group-datamodule")
    options = {"group": "syncdreamer", "height": 32, "width": 32, "reference_azimuth_deg": 40.0}
    data = cls(parse(cls.Config, options, "data"))
    first, later = (data.batch(step, torch.Generator().manual_seed(step)) for step in (0, 7))
    assert isinstance(first, CameraBatch) and isinstance(later, CameraBatch) and first.reference is not None
    assert torch.equal(first.cameras.c2w, later.cameras.c2w) and first.cameras.height == 32
    expected = syncdreamer_cameras(32, 40.0)
    for i in range(16):
        assert float(camera_differences(first.cameras[[i]], expected[[i]]).max()) < 1e-6
    torch.testing.assert_close(first.reference.spherical.azimuth[0].rad2deg(), torch.tensor(40.0))
