"""The worked examples of CONTRIBUTING.md do what the page says."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import launch
from usd.data import view_readers
from usd.denoiser import open_text_denoiser
from usd.losses import table

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


# ------------------------------------------------------------------------------------------------ where other things go

BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TEXT_TO_3D = [
    str(ROOT / "configs" / "usd-text-to-3D-patch-mini.yaml"),
    "--train",
    "system.prompt_processor.prompt=a cup",
]
NAMES_OF_MODELS = ("system.guidance", "system.prompt_processor")


def drop_in(folder: Path, kind: str, marker: str) -> None:
    """Put the page's example that contains ``marker`` into a custom folder."""
    (block,) = [block for block in BLOCKS if marker in block]
    (folder / kind).mkdir()
    (folder / kind / "example.py").write_text(block)


def models(name: str) -> list[str]:
    return [f"{place}.pretrained_model_name_or_path={name}" for place in NAMES_OF_MODELS]


def test_examples_are_ten_lines_of_code_at_most():
    for block in BLOCKS[1:]:
        _, found, body = block.partition("\n@")
        assert found and len(body.strip().splitlines()) <= 10


def test_a_denoiser_in_one_file(example):
    drop_in(example, "denoiser", '@register("bright")')
    assert launch.main(["--config", *TEXT_TO_3D, *models("bright"), *SMALL]) == 0
    text = open_text_denoiser("bright", "here").embed_text(["x" * 50])
    assert text.mean.unique().tolist() == [0.5]


def test_a_loss_in_one_file(example, monkeypatch):
    monkeypatch.setattr(table, "REGULARIZERS", dict(table.REGULARIZERS))
    drop_in(example, "losses", "@register_loss")
    weight = "system.loss.lambda_centered=100"
    assert (
        launch.main(
            ["--config", *TEXT_TO_3D, weight, *models("gaussian"), "trainer.log_every_n_steps=1", *SMALL]
        )
        == 0
    )
    (metrics,) = example.glob("out/*/*/csv_logs/version_0/metrics.csv")
    assert "centered" in metrics.read_text().splitlines()[0]


def test_a_data_format_in_one_file(example, monkeypatch):
    monkeypatch.setattr(view_readers, "CUSTOM_LAYOUTS", {})
    drop_in(example, "layouts", "@register_layout")
    (example / "orbit").mkdir()
    (example / "orbit" / "orbit.csv").write_text("../photo.png,0,10\n../photo.png,90,20\n")
    views = view_readers.read_views(example / "orbit", view_readers.ViewOptions())
    assert len(views) == 2
    assert views.cameras.spherical.elevation.rad2deg().tolist() == pytest.approx([10, 20], abs=1e-3)
