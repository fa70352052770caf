"""The cameras of SyncDreamer and Wonder3D as their code publishes them."""

import numpy as np
import torch

from tests.contract.golden import DATA, assert_close
from usd.data import syncdreamer, wonder3d
from usd.math.view_groups import wonder3d_cameras

OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # from OpenGL's camera axes to OpenCV's


def published(name: str) -> np.ndarray:
    with np.load(DATA / "cameras.npz") as stored:
        return stored[name]


def as_square(w2c: torch.Tensor) -> torch.Tensor:
    """World-to-camera matrices (V, 3, 4) as (V, 4, 4)."""
    last = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(len(w2c), 1, 4)
    return torch.cat([w2c, last], 1)


def test_syncdreamers_cameras_are_the_published_sixteen() -> None:
    """Poses in the published world, whose first camera stands at azimuth 0, and the one focal length."""
    cameras = syncdreamer.target_cameras()
    w2c = as_square(torch.from_numpy(published("syncdreamer/w2c_opencv")).float())
    assert_close(OPENCV @ torch.linalg.inv(cameras.c2w), w2c, 1e-5)
    focal = cameras.height / 2 / torch.tan(cameras.fov_y / 2)
    assert_close(focal, torch.full_like(focal, float(published("syncdreamer/K")[1, 1])), 1e-2)
    distance = torch.from_numpy(published("syncdreamer/distance")).float()
    assert_close(cameras.c2w[:, :3, 3].norm(dim=-1), distance, 1e-5)


def test_wonder3ds_cameras_stand_to_its_front_camera_as_published() -> None:
    """Camera to front camera; the six views are found by name among the published nine."""
    names = [str(name) for name in published("wonder3d/view_names")]
    rows = [names.index(view) for view in wonder3d.VIEWS]
    w2c = as_square(torch.from_numpy(published("wonder3d/w2c_opengl")).float()[rows])
    ours = wonder3d_cameras().c2w
    assert_close(torch.linalg.inv(ours[0]) @ ours, w2c[0] @ torch.linalg.inv(w2c), 1e-5)
