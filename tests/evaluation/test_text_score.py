"""The text score: what competes with a sentence, and what renders of true toys get."""

import re
from pathlib import Path

import pytest
import torch

from usd.app.toys import toy_glb
from usd.evaluation.embedded import Clip
from usd.evaluation.text_score import (
    CLIP,
    competitors,
    in_color,
    score_file,
    scoring_cameras,
    sentence_margins,
    text_score,
)
from usd.toybox import TEST_SEED
from usd.toybox.objects import make_toy
from usd.toybox.render import render
from usd.toybox.shapes import COLORS, SHAPES

TOY = make_toy(TEST_SEED, 0.0, "mushroom")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load(CLIP)


@pytest.fixture(scope="module")
def seen() -> torch.Tensor:
    return render([TOY], scoring_cameras(4, 64)).over_white()


def test_a_sentence_competes_with_every_other_category_and_every_other_colour() -> None:
    against = competitors("a red mushroom with a white stem")
    named = [next(word for word in caption.split() if word in SHAPES) for caption in against.categories]
    assert sorted(named) == sorted(set(SHAPES) - {"mushroom"})
    firsts = [re.findall("|".join(COLORS), caption)[:1] for caption in against.categories]
    assert sum(first == ["red"] for first in firsts) > 15, (
        "of the same colour, so that colour alone does not win"
    )
    assert len(against.colors) == len(COLORS) - 1
    assert "an orange mushroom with a white stem" in against.colors
    assert "a red mushroom with a white stem" not in [*against.colors, *against.categories]


def test_a_sentence_of_unknown_things_competes_with_all_categories() -> None:
    against = competitors("a wooden locomotive")
    assert len(against.categories) == len(SHAPES) and against.colors == ()


def test_only_the_first_colour_and_its_article_change() -> None:
    assert in_color("An orange duck with an orange beak", "orange", "red") == "a red duck with an orange beak"
    assert in_color("the red car", "red", "blue") == "the blue car"


def test_renders_of_the_toy_itself_are_found_and_of_another_are_not(clip: Clip, seen: torch.Tensor) -> None:
    own = text_score(clip, seen, TOY.caption)
    assert own.category >= 0.75 and own.views == 4
    assert own.caption <= own.category
    other = text_score(clip, seen, "a teal airplane with pink wings")
    assert (other.category, other.caption) == (0.0, 0.0) and other.similarity < own.similarity


def test_margins_are_those_by_which_pictures_are_found(clip: Clip, seen: torch.Tensor) -> None:
    own = sentence_margins(clip, seen, TOY.caption)
    assert own.shape == (4,)
    assert float((own > 0).float().mean()) == text_score(clip, seen, TOY.caption).caption
    assert bool((sentence_margins(clip, seen, "a teal airplane with pink wings") < 0).all())


def test_a_file_is_scored_as_it_is_read_back(tmp_path: Path) -> None:
    """The same toy as a GLB with vertex colors, through another program's eyes."""
    file = tmp_path / "toy.glb"
    file.write_bytes(toy_glb(TOY))
    score = score_file(file, TOY.caption)
    assert score.category >= 0.75 and score.views == 8
    assert "of 8 views found among all categories" in score.line()
