"""Prompt debiasing: words go where they speak against a view, and a language model says where."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import TinyModels
from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.rehearsal import rehearsal, write_stand_in
from usd.prompt_processor.debiasing import check_word_numbers, debias_prompt, language_model_shares
from usd.prompt_processor.directions import DIRECTIONS
from usd.prompt_processor.stable_diffusion import StableDiffusionPromptProcessor

VIEWS = ("front", "back")
LIKELY = {"smiling": (3.0, 0.1), "tail": (0.2, 2.0)}  # factors of a view's odds for each word


def shares(prompts: Sequence[str]) -> Tensor:
    """Odds of each view: products of its words' factors, normalized."""
    rows = [
        torch.stack(
            [torch.tensor(LIKELY.get(word, (1.0, 1.0))) for word in prompt.split()] or [torch.ones(2)]
        )
        for prompt in prompts
    ]
    odds = torch.stack([row.prod(0) for row in rows])
    return odds / odds.sum(-1, keepdim=True)


def test_a_word_is_left_out_where_a_view_is_less_likely_with_it() -> None:
    made = debias_prompt("a smiling dog with tail", shares, VIEWS)
    assert made == ["a smiling dog with", "a dog with tail"]


@pytest.mark.parametrize(("share", "kept"), [(0.44, False), (0.46, True)])
def test_a_share_is_compared_with_the_mean_of_both(share: float, kept: bool) -> None:
    """p / ((p + q) / 2) < 0.95 means p / q < 0.9048: of q = 0.5, below 0.452."""

    def known(prompts: Sequence[str]) -> Tensor:
        return torch.tensor([[share if "odd" in prompt else 0.5, 0.5] for prompt in prompts])

    assert debias_prompt("odd", known, VIEWS, [0]) == ["odd", "odd"], "no word would be left"
    assert ("odd" in debias_prompt("odd dog", known, VIEWS, [0])[0]) is kept


def test_words_that_say_nothing_of_views_stay_in_every_prompt() -> None:
    assert debias_prompt("a red dog", shares, VIEWS) == ["a red dog", "a red dog"]


def test_only_candidates_are_left_out() -> None:
    assert debias_prompt("a smiling dog with tail", shares, VIEWS, [4]) == [
        "a smiling dog with",
        "a smiling dog with tail",
    ]
    assert debias_prompt("a smiling dog", shares, VIEWS, []) == ["a smiling dog"] * 2


def test_a_prompt_of_which_nothing_would_be_left_stays() -> None:
    assert debias_prompt("smiling", shares, VIEWS) == ["smiling", "smiling"]


def test_a_number_that_is_no_word_is_one_line() -> None:
    check_word_numbers("a red car", [0, 2], "here")
    with pytest.raises(UserError, match=r"here: 3 is no word of 'a red car'; .* to 2 \('car'\)"):
        check_word_numbers("a red car", [3], "here")


def test_shares_are_what_the_model_says_of_the_gap(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertForMaskedLM

    folder = write_stand_in(ARCHITECTURES["bert"], tmp_path)
    found = language_model_shares(str(folder), DIRECTIONS, "here")(["a smiling dog", "a car"])
    torch.testing.assert_close(found.sum(-1), torch.ones(2))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = BertForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    numbers = tokenizer("This image is depicting a [MASK] view of a car", return_tensors="pt").input_ids
    place = int((numbers[0] == tokenizer.mask_token_id).nonzero())
    pieces = [tokenizer.encode(view, add_special_tokens=False)[0] for view in DIRECTIONS]
    with torch.no_grad():
        truth = torch.softmax(network(numbers).logits[0, place, pieces], -1)
    torch.testing.assert_close(found[1], truth, atol=1e-5, rtol=1e-4)


def test_what_is_no_language_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a masked language model") as caught:
        language_model_shares(str(tmp_path), DIRECTIONS, "here")
    assert "\n" not in str(caught.value)


def test_a_prompt_processor_gives_each_direction_its_own_words(tiny: TinyModels) -> None:
    options = {
        "prompt": "a smiling dog",
        "use_prompt_debiasing": True,
        "pretrained_model_name_or_path": str(tiny.sd),
        "use_cache": False,
    }
    with rehearsal() as models:
        processor = StableDiffusionPromptProcessor(
            parse(StableDiffusionPromptProcessor.Config, options, "here")
        )
        texts = processor.texts()
        assert "google-bert/bert-base-uncased" in models.models
    assert len(texts) == len(DIRECTIONS)
    for text, view in zip(texts, DIRECTIONS, strict=True):
        assert text.endswith(f", {view} view")
        assert set(text.removesuffix(f", {view} view").split()) <= {"a", "smiling", "dog"}


def test_debiasing_without_views_is_refused() -> None:
    options = {"prompt": "a dog", "use_prompt_debiasing": True, "view_dependent_prompting": False}
    with pytest.raises(ConfigError, match="use_prompt_debiasing: speaks of front, side and back"):
        StableDiffusionPromptProcessor(parse(StableDiffusionPromptProcessor.Config, options, "here"))
