"""The public names of ``usd``: a fixed list, cheap to import, and what each of them does to a tiny trial."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import usd
from tests.tiny_configs import SHRUNK
from usd.app import api
from usd.app.commands import configurations
from usd.app.experiment import load_experiment, place_overrides, trial_of
from usd.core import places

NAMES = [
    "Recipe",
    "Trial",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "list_components",
    "list_recipes",
    "load_recipe",
    "open_trial",
    "render",
    "train",
]
PAGE = (places.PACKAGE.parent / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_public_names_are_these():
    assert usd.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented_and_no_module_takes_its_place(name):
    assert f"`{name}" in PAGE
    assert getattr(usd, name) is not None and name in dir(usd)
    assert not (places.PACKAGE / f"{name}.py").exists() and not (places.PACKAGE / name).exists()


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'trainer'"):
        _ = usd.trainer


def test_importing_the_package_takes_less_than_three_tenths_of_a_second():
    code = "import time; t = time.process_time(); import usd; print(time.process_time() - t)"
    root = places.PACKAGE.parent
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert float(out.stdout) < 0.3


# ---------------------------------------------------------------------------------------------------- what they do


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Two steps of the shrunk picture recipe, options given as Python values."""
    pairs = [item.split("=") for item in SHRUNK["usd-patch-mini.yaml"]]
    small = {key: yaml.safe_load(value) for key, value in pairs}
    options = {
        "exp_root_dir": tmp_path_factory.mktemp("a folder = 1"),
        "tag": "run",
        "use_timestamp": False,
        "system.guidance.image_path": places.resource("load/images/kettle.png"),
        "data.reference_elevation_deg": 15.0,
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 0,
        **small,
    }
    return usd.load_recipe("usd-patch-mini", options)


@pytest.fixture(scope="module")
def trial(recipe):
    return usd.train(recipe, gpu="cpu")


def test_a_recipe_is_checked_when_it_is_loaded(recipe):
    (experiment,) = recipe.experiments
    assert experiment.trainer.max_steps == 2 and experiment.tag == "run"
    assert recipe.files == (usd.list_recipes()["usd-patch-mini"],)
    with pytest.raises(usd.UserError, match=r"^seeed: unknown key\. Did you mean 'seed'\?"):
        usd.load_recipe("usd-patch-mini", {"seeed": 3})


def test_a_recipe_of_stages_has_an_experiment_each():
    picture = places.resource("load/images/kettle.png")
    options = {"tag": "none", "stages.object.system.guidance.image_path": picture}
    stages = usd.load_recipe("usd-full-mini", options).experiments
    assert [stage.system.name for stage in stages][:2] == ["usd-system", "usd-system"] and len(stages) > 3


def test_a_trial_is_opened_rendered_exported_and_evaluated(trial):
    opened = usd.open_trial(trial.folder)
    assert opened == trial
    picture = usd.render(opened, azimuth_deg=np.float32(30), size=np.int64(24), gpu="cpu")
    assert (picture.mode, picture.size) == ("RGBA", (24, 24))
    assert np.array(picture)[..., 3].std() > 0, "an object, and nothing around it"
    files = usd.export(opened, {"exporter_type": "mesh-exporter", "exporter.fmt": "ply"}, gpu="cpu")
    assert [file.suffix for file in files] == [".ply", ".json"] and files[0].is_file()
    figures = usd.evaluate(files[0], files[0])
    assert figures["volume_iou"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": -3}, "size: is -3; expected a number from 1 to 8192"),
        ({"azimuth_deg": "x"}, "azimuth_deg: is 'x'; expected a number"),
        ({"elevation_deg": 91}, "elevation_deg: is 91"),
        ({"distance": 0}, "distance: is 0"),
        ({"fov_y_deg": float("nan")}, "fov_y_deg: is nan"),
    ],
)
def test_a_view_from_nowhere_is_refused(trial, options, said):
    with pytest.raises(usd.UserError, match=f"^{said}"):
        usd.render(trial, **options)


def test_option_values_may_be_paths_and_arrays_and_nothing_that_no_option_is():
    files, numbers = {"a": [Path("x y.png")]}, {"a": np.array([1, 2]), "b": np.float32(0.5)}
    assert api._override("k", files) == 'k={"a": ["x y.png"]}'
    assert api._override("k", numbers) == 'k={"a": [1, 2], "b": 0.5}'
    with pytest.raises(usd.UserError, match=r"^k: is .*; expected numbers, texts"):
        api._override("k", {"a": {1}})


def test_a_trial_that_moved_writes_where_it_lies(trial, tmp_path):
    assert place_overrides(trial.folder) == []
    family = tmp_path / "a, new"
    shutil.copytree(trial.folder, family / "na=me")
    before = sorted(trial.folder.rglob("*"))
    files = usd.export(
        usd.open_trial(family / "na=me"), {"exporter_type": "mesh-exporter", "exporter.fmt": "ply"}, gpu="cpu"
    )
    assert all(file.is_relative_to(family / "na=me") for file in files)
    words, overrides = configurations([str(family / "na=me")])
    assert trial_of(load_experiment(words, overrides)[0]).folder == family / "na=me"
    assert sorted(trial.folder.rglob("*")) == before, "nothing is written where it was made"


def test_a_folder_without_a_trial_is_refused(tmp_path):
    with pytest.raises(usd.UserError, match=r"has no configs/parsed.yaml; expected a trial's folder"):
        usd.open_trial(tmp_path)


def test_components_are_listed_by_kind():
    listed = usd.list_components()
    assert "usd-guidance" in listed["guidance"] and "mesh-exporter" in listed["exporter"]
