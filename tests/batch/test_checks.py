"""Tasks that are known to fail before their turn: options no recipe has, sentences no model reads."""

from dataclasses import replace
from pathlib import Path

import pytest

from usd.batch import Task
from usd.batch.checks import check_task
from usd.core import places
from usd.core.errors import UserError
from usd.core.loading import override
from usd.serve.recipes import source_overrides


def task(folder: Path, recipe: str, *overrides: str, sentence: str = "") -> Task:
    """Return a task as the service makes it; it has a picture where no sentence is given."""
    picture = "" if sentence else str(folder / "picture.png")
    file = places.recipes()[recipe]
    given = (*source_overrides(file, picture, sentence), *overrides)
    return Task(
        "one",
        picture or sentence,
        str(folder / "one" / "object"),
        (str(file),),
        given,
        is_picture=not sentence,
    )


@pytest.mark.parametrize("recipe", ["usd-patch-mini", "usd-full-mini"])
def test_a_task_with_options_of_its_recipe_passes_and_writes_nothing(tmp_path: Path, recipe: str) -> None:
    check_task(task(tmp_path, recipe, "trainer.max_steps=3", "stages.mesh.exporter.fmt=obj"))
    assert list(tmp_path.iterdir()) == []


def test_a_mesh_is_placed_later_and_no_reason_for_a_refusal(tmp_path: Path) -> None:
    given = replace(task(tmp_path, "usd-improve-mini"), mesh=str(tmp_path / "mesh.glb"))
    check_task(given)
    with pytest.raises(UserError, match=r"^trainer\.max_steps: "):
        check_task(replace(given, overrides=(*given.overrides, "trainer.max_steps=ten")))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("system.guidnce=1", "system.guidnce: unknown key. Did you mean 'guidance'"),
        ("system.guidance.guidance_scale=much", "system.guidance.guidance_scale: expected"),
        ("trainer.max_steps=-1", "trainer.max_steps: "),
        ("stages.msh.exporter.fmt=obj", "stages.msh: no such stage"),
    ],
)
def test_what_no_recipe_has_is_one_line_with_the_key_as_it_was_typed(
    tmp_path: Path, option: str, said: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_task(task(tmp_path, "usd-patch-mini", option))
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_a_sentence_is_read_by_the_model_where_that_is_at_hand(tmp_path: Path) -> None:
    recipe = "usd-text-to-3D-mini"
    check_task(task(tmp_path, recipe, sentence="a red car with a zebra"))
    with pytest.raises(UserError, match=r"knows none of these words: 'ein'.*'rotes'"):
        check_task(task(tmp_path, recipe, sentence="ein rotes auto"))
    with pytest.raises(UserError, match="expected at most 32"):
        check_task(task(tmp_path, recipe, sentence=" ".join(["a red car and"] * 8)))
    elsewhere = override("system.prompt_processor.pretrained_model_name_or_path", "sd-2.1-base")
    check_task(task(tmp_path, recipe, elsewhere, sentence="ein rotes auto"))
