"""``make demo-full`` from end to end, tiny: every stage hands on, and killing it changes nothing but the time it takes."""

import json
import signal
from pathlib import Path

import pytest
import torch
import trimesh

from tests import kill_and_resume
from tests.conftest import TinyModels
from tests.kill_and_resume import Kill
from tests.tiny_configs import save_disc
from usd.app import demo_full
from usd.app.stages import read_record
from usd.core import checkpoint

STAGES = ("object", "views", "specialise", "refine", "surface", "mesh")
OBJECT = [
    *[f"data.{key}=16" for key in ("width", "height", "eval_width", "eval_height")],
    "data.n_test_views=2",
    "system.geometry.pos_encoding_config.n_levels=3",
    "system.geometry.pos_encoding_config.log2_hashmap_size=10",
    "system.renderer.num_samples_per_ray=16",
    "system.guidance.pretrained_model_name_or_path=gaussian",
    "system.guidance.zero123_model_name_or_path=gaussian",
    "system.loss.lambda_mask=5000",
    "trainer.max_steps=5",
    "checkpoint.last_every_n_steps=2",
]
SPECIALISE = [
    "system.subject=car",
    "system.object_token=red",
    "system.input_token=overhead",
    "system.n_class_pictures=2",
    "system.view_sampling.steps=2",
    "system.class_sampling.steps=2",
    "system.pictures_per_step=1",
    "system.second_step_from=2",
    "data.n_test_views=2",
    "trainer.max_steps=3",
]
SURFACE = [
    "data.size=16",
    "data.n_rays=128",
    "system.samples_per_step=1024",
    "system.first_rays=32",
    "system.field_points=32",
    "system.geometry.isosurface_resolution=24",
    "system.geometry.pos_encoding_config.n_levels=3",
    "system.geometry.pos_encoding_config.log2_hashmap_size=10",
    "system.renderer.num_samples_per_ray=32",
    "system.renderer.grid_resolution=16",
    "trainer.max_steps=4",
]
MESH = ["exporter.texture_size=64", "exporter.check_views=1", "exporter.unwrap_time_limit=0"]


def tiny_settings(models: TinyModels) -> list[str]:
    said = {
        "object": OBJECT,
        "views": ["data.n_test_views=6"],
        "specialise": [
            *SPECIALISE,
            f"system.pretrained_model_name_or_path={models.sd}",
            f"system.zero123_model_name_or_path={models.zero123_a}",
        ],
        "surface": SURFACE,
        "mesh": MESH,
    }
    return [
        *[f"stages.{stage}.{text}" for stage, texts in said.items() for text in texts],
        "trainer.val_check_interval=0",
        "trainer.enable_progress_bar=false",
    ]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The same picture twice: in one go; and killed in the first stage, in the last training, then run to the end."""
    folder = tmp_path_factory.mktemp("full")
    given = [str(save_disc(folder / "disc.png")), "--gpu", "cpu", *tiny_settings(tiny)]
    whole, broken = (f"exp_root_dir={folder / name}" for name in ("whole", "broken"))
    ended = kill_and_resume.run(
        "usd.app.demo_full",
        [
            ([*given, whole], None),
            ([*given, broken], Kill("object", 3, signal.SIGKILL)),
            ([*given, broken], Kill("surface", 2, signal.SIGTERM)),
            ([*given, broken], None),
            ([*given, broken], None),
        ],
    )
    return folder, ended


def stage(folder: Path, name: str, which: str = "whole") -> Path:
    return folder / which / "USD-full-mini" / "disc.png" / name


@pytest.mark.slow
def test_a_picture_becomes_a_textured_file_through_all_stages(runs):
    folder, ended = runs
    assert ended[0].code == 0, ended[0].text
    (file,) = stage(folder, "mesh").glob("save/it4-export/*.glb")
    assert trimesh.load(file, force="mesh").visual.kind == "texture"
    for name in STAGES:
        assert read_record(stage(folder, name)).done
        assert str(stage(folder, name)) in ended[0].text
    assert f"file        {file}" in ended[0].text and "GiB at most" in ended[0].text


@pytest.mark.slow
def test_the_surface_is_made_of_refined_views(runs):
    folder, _ = runs
    views, refined = stage(folder, "views"), stage(folder, "refine")
    shown = json.loads((views / "save" / "it5-test" / "transforms.json").read_text())["frames"]
    made = json.loads((refined / "save" / "refined" / "transforms.json").read_text())["frames"]
    assert [f["transform_matrix"] for f in shown] == [f["transform_matrix"] for f in made] and len(made) == 6
    heights = [frame["transform_matrix"][2][3] for frame in made]
    assert min(heights) < 0 < max(heights), "from below and from above"


@pytest.mark.slow
def test_killed_twice_it_goes_on_and_does_nothing_twice(runs):
    _, (_, first, second, third, again) = runs
    assert first.code == -signal.SIGKILL and "stage object: starting" in first.text
    assert second.code == 130 and "stage object: going on" in second.text
    assert "in stage surface; the same command goes on from there" in second.text
    assert third.code == 0
    for name in STAGES[:4]:
        assert f"stage {name}: starting" in (first if name == "object" else second).text
        assert f"stage {name}: done" in third.text
    assert "stage surface: going on" in third.text and "stage mesh: starting" in third.text
    assert again.code == 0 and again.text.count(": done (") == len(STAGES)


@pytest.mark.slow
def test_killed_or_not_the_result_is_the_same(runs):
    folder, _ = runs
    for name in ("object", "specialise", "surface"):
        a, b = (
            checkpoint.load(stage(folder, name, which) / "ckpts" / "last.ckpt")["state_dict"]
            for which in ("whole", "broken")
        )
        assert set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a), name
    for pattern in ("refine/save/refined/*.png", "mesh/save/it4-export/*.glb"):
        files = [sorted(stage(folder, "", which).glob(pattern)) for which in ("whole", "broken")]
        assert [f.name for f in files[0]] == [f.name for f in files[1]] and files[0]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True)), pattern


def test_a_mistake_is_one_line(capsys):
    assert demo_full.main(["no-such.png", "stages.surfase.trainer.max_steps=3"]) == 2
    assert capsys.readouterr().err.startswith("error: stages.surfase: no such stage")
