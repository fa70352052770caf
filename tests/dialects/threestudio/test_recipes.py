"""A recipe in threestudio's words for each of its features, ours to the letter: all are read, and run dry."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.threestudio_inputs import write_inputs
from benchmarks.threestudio_recipes import SPARE_COARSE, Recipes, working_in
from usd.dialects import dialect_of

FOLDER = Path(__file__).parent / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))
QUICK = ("dreamfusion", "encodings", "zero123")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Recipes:
    work = tmp_path_factory.mktemp("recipes")
    return Recipes(FOLDER, work, write_inputs(work))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_is_known_for_threestudios_and_understood_whole(file: Path, recipes: Recipes) -> None:
    reader = replace(recipes, checkpoints={SPARE_COARSE: recipes.work / "earlier.ckpt"})
    assert dialect_of(yaml.safe_load(file.read_text(encoding="utf-8"))) == "threestudio"
    assert reader.load(file).dialect == "usd"


def dry_run(file: Path, recipes: Recipes) -> None:
    with working_in(recipes.work):
        result = recipes.run(file)
    assert not result.error


@pytest.mark.parametrize("name", QUICK)
def test_a_recipe_runs_dry(name: str, recipes: Recipes) -> None:
    dry_run(FOLDER / f"{name}.yaml", recipes)


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in FILES if f.stem not in QUICK], ids=lambda file: file.stem)
def test_every_other_recipe_runs_dry(file: Path, recipes: Recipes) -> None:
    dry_run(file, recipes)
