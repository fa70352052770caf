"""The published pipeline's interface, on top of our denoisers."""

import pytest
import torch
from PIL import Image

from tests.conftest import TinyModels
from usd.core.config import UserError
from usd.denoiser.zero123_condition import relative_pose
from usd.extern.zero123 import Zero123Pipeline, _cameras


def test_poses_are_differences_in_the_published_convention() -> None:
    reference, targets = _cameras([(10, 30, 0.2), (-20, -90, 0)], 16)
    pose = relative_pose(targets, reference)
    torch.testing.assert_close(pose[:, 0].rad2deg(), torch.tensor([10.0, -20.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        torch.atan2(pose[:, 1], pose[:, 2]).rad2deg(), torch.tensor([30.0, -90.0]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(pose[:, 3], torch.tensor([0.2, 0.0]), atol=1e-5, rtol=0)


def test_pictures_in_pictures_out(tiny: TinyModels) -> None:
    pipe = Zero123Pipeline.from_pretrained(str(tiny.zero123_b), rectify=str(tiny.sd)).to("cpu")
    picture = Image.new("RGBA", (20, 20), (255, 0, 0, 128))
    made, again = (
        pipe(
            picture,
            [(0, 0, 0), (0, 90, 0)],
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
        )
        for _ in range(2)
    )
    assert [p.size for p in made] == [(16, 16)] * 2 and [p.tobytes() for p in made] == [
        p.tobytes() for p in again
    ]


@pytest.mark.parametrize("pose", [(95, 0, 0), (0, 0, -2), (0, 0)])
def test_impossible_poses_are_one_line(pose: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="expected \\(polar, azimuth, distance\\)"):
        _cameras([pose], 16)
