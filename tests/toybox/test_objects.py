"""Toys are pure functions of their seeds, fit their ball, and say what they are in words the models know."""

import math

import numpy as np
import pytest
import torch

from usd.math.camera import orbit_cameras_deg
from usd.toybox.distance import signed_distance
from usd.toybox.objects import UNCAPTIONED, facing, make_toy, view_words
from usd.toybox.scene import RADIUS, SUBTRACT
from usd.toybox.shapes import SHAPES
from usd.toybox.vocabulary import MAX_TOKENS, known_words, make_tokenizer, tokenize


def test_a_toy_is_a_function_of_its_seed() -> None:
    for seed in (0, 7, 1_000_003):
        first, again = make_toy(seed), make_toy(seed)
        assert np.array_equal(first.primitives, again.primitives)
        assert first.caption == again.caption
    captions = {make_toy(seed).caption for seed in range(60)}
    assert len(captions) > 50


def test_there_are_at_least_sixteen_categories_and_all_appear() -> None:
    found = {make_toy(seed, uncaptioned_share=0.0).category for seed in range(400)}
    assert len(SHAPES) >= 16
    assert found == set(SHAPES)


def test_the_share_of_uncaptioned_toys_is_a_setting() -> None:
    count = sum(make_toy(seed, uncaptioned_share=0.5).category == UNCAPTIONED for seed in range(200))
    assert 70 < count < 130
    assert all(make_toy(seed, uncaptioned_share=1.0).category == UNCAPTIONED for seed in range(10))


@pytest.mark.parametrize("category", [*SHAPES, None])
def test_a_toy_fits_its_ball_and_has_a_surface(category: str | None) -> None:
    direction = torch.nn.functional.normalize(
        torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    for seed in range(3):
        toy = make_toy(seed, 1.0, category)
        assert len(toy.primitives) <= 64
        distance, _ = signed_distance(toy, direction * RADIUS * 1.03)
        assert distance.min() > -2e-3
        solid = toy.primitives[toy.primitives[:, 1] != SUBTRACT]
        inside, _ = signed_distance(toy, torch.from_numpy(solid[:, 17:20]).contiguous())
        assert inside.min() < 0


def test_captions_are_made_of_known_words_and_fit() -> None:
    tokenizer = make_tokenizer()
    captions = [f"{make_toy(seed, 0.2).caption}, from the front left and above" for seed in range(300)]
    ids = tokenize(tokenizer, captions)
    assert ids.shape == (300, MAX_TOKENS)
    assert not (ids == tokenizer.unk_token_id).any()
    assert (ids == tokenizer.eos_token_id).sum(1).eq(1).all()
    assert len(known_words()) < 128


def test_the_view_is_said_from_where_the_front_is() -> None:
    toy = make_toy(3, 0.0, "car")
    cameras = orbit_cameras_deg(
        10.0, [90 + math.degrees(toy.yaw) + turn for turn in (0, 90, 180, 270)], 1.5, 40.0, 8
    )
    said = [view_words(a, 0.2) for a in facing(toy, cameras).tolist()]
    assert said == ["from the front", "from the left", "from the back", "from the right"]


def test_a_negative_seed_and_an_unknown_category_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        make_toy(-1)
    with pytest.raises(ValueError, match="unknown"):
        make_toy(1, category="spoon")
