"""``usd views``: what is written is read back with the model's cameras, and sampling is rectified where asked."""

from pathlib import Path

import pytest
import torch

import usd.app.views_command as command
from tests.denoiser.golden_models import read_golden, write_syncdreamer
from usd.core.errors import UserError
from usd.data.pictures import write_picture
from usd.data.view_readers import ViewOptions, read_views
from usd.math.camera import camera_differences
from usd.math.view_groups import syncdreamer_cameras


def _picture(folder: Path) -> Path:
    rgba = torch.zeros(4, 64, 64)
    rgba[:, 16:48, 20:44] = torch.tensor([0.8, 0.2, 0.1, 1.0])[:, None, None]
    return write_picture(folder / "picture.png", rgba)


@pytest.mark.slow
def test_views_are_written_with_cameras_that_are_read_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_syncdreamer(read_golden("syncdreamer_tiny.npz"), tmp_path)
    words = [str(_picture(tmp_path)), str(tmp_path / "out"), "--model", str(file), "--steps", "1"]
    assert command.main(words) == 0 and "17 files" in capsys.readouterr().out
    views = read_views(tmp_path / "out", ViewOptions(masks="none"), "x")
    assert views.rgba.shape == (16, 4, 256, 256)
    expected = syncdreamer_cameras(256)
    for i in range(16):
        assert float(camera_differences(views.cameras[[i]], expected[[i]]).max()) < 1e-4


def test_a_model_without_cameras_of_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    words = [str(_picture(tmp_path)), str(tmp_path / "out"), "--model", "toybox-zero123"]
    with pytest.raises(UserError, match="has no cameras of its own"):
        command.make_views(command.views_arguments(words))
