"""The worked example of CONTRIBUTING.md does what the page says."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import launch

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path, monkeypatch) -> Path:
    """The example's file in a custom folder, and a picture to try it on, in the working directory."""
    (tmp_path / "guidance").mkdir()
    (tmp_path / "guidance" / "steady.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    picture = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(picture).ellipse((8, 8, 24, 24), fill=(200, 60, 60, 255))
    picture.save(tmp_path / "photo.png")
    monkeypatch.setenv("USD_CUSTOM", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    block = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].replace("\\\n", " ")
    return [shlex.split(line)[2:] for line in block.splitlines()]


SMALL = [
    "exp_root_dir=out",
    "trainer.max_steps=2",
    "trainer.test_after_fit=false",
    "trainer.val_check_interval=0",
    "data.width=16",
    "data.height=16",
    "system.renderer.num_samples_per_ray=16",
]


def test_a_guidance_in_one_file(example, capsys):
    listing, description, training = commands()
    assert launch.main(listing) == 0
    assert "steady-guidance" in capsys.readouterr().out
    assert launch.main(description) == 0
    assert "Every view pulls with the same strength." in capsys.readouterr().out
    training[training.index("configs/usd-patch-mini.yaml")] = str(ROOT / "configs" / "usd-patch-mini.yaml")
    assert launch.main([*training, *SMALL]) == 0
    assert list(example.glob("out/*/*/ckpts/last.ckpt"))
