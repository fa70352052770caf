"""Prompts by direction, prompts by library name, and no model where none is needed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError, spec
from usd.core.registry import build
from usd.denoiser import TextDenoiser, open_text_denoiser
from usd.math.camera import orbit_cameras_deg
from usd.prompt_processor.cache import embed_with_cache, read_embedding
from usd.prompt_processor.directions import DIRECTIONS, Decays, direction_index, mixture
from usd.prompt_processor.library import LIBRARY_FILE, full_prompt, library
from usd.prompt_processor.prompt_checks import tokens
from usd.prompt_processor.stable_diffusion import StableDiffusionPromptProcessor


def _processor(**options: object) -> StableDiffusionPromptProcessor:
    return build(
        spec("prompt_processor", "stable-diffusion-prompt-processor", {"use_cache": False, **options})
    )


@pytest.mark.parametrize(
    ("elevation", "azimuth", "direction"),
    [
        (0.0, 0.0, "front"),
        (0.0, 29.0, "front"),
        (0.0, -29.0, "front"),
        (0.0, 31.0, "side"),
        (0.0, 90.0, "side"),
        (0.0, 151.0, "back"),
        (0.0, 180.0, "back"),
        (0.0, -170.0, "back"),
        (0.0, 350.0, "front"),
        (61.0, 180.0, "overhead"),
        (59.0, 180.0, "back"),
    ],
)
def test_direction_of_a_camera(elevation: float, azimuth: float, direction: str) -> None:
    cameras = orbit_cameras_deg(elevation, azimuth, 1.5, 40.0, 8)
    assert DIRECTIONS[int(direction_index(cameras, 30.0, 30.0, 60.0))] == direction


def test_each_camera_is_told_its_direction(tiny: TinyModels) -> None:
    processor = _processor(
        pretrained_model_name_or_path=str(tiny.sd), prompt="a red car", negative_prompt="view"
    )
    cameras = orbit_cameras_deg([0.0, 0.0, 80.0], [180.0, 90.0, 0.0], 1.5, 40.0, 8)
    told = processor(cameras)
    model = open_text_denoiser(str(tiny.sd), "x")
    by_hand = model.embed_text([f"a red car, {d} view" for d in ("back", "side", "overhead")])  # type: ignore[attr-defined]
    torch.testing.assert_close(told.cond.tokens, by_hand.tokens)  # type: ignore[attr-defined]
    torch.testing.assert_close(told.uncond.tokens, model.embed_text(["view"] * 3).tokens)  # type: ignore[attr-defined]


def test_without_view_words_all_cameras_are_told_the_same(tiny: TinyModels) -> None:
    processor = _processor(
        pretrained_model_name_or_path=str(tiny.sd), prompt="a red car", view_dependent_prompting=False
    )
    tokens = processor(orbit_cameras_deg(0.0, [0.0, 180.0], 1.5, 40.0, 8)).cond.tokens  # type: ignore[attr-defined]
    assert torch.equal(tokens[0], tokens[1])


def test_sentences_are_encoded_once(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt="a red car")
    cameras = orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8)
    first = processor(cameras)
    monkeypatch.setattr("usd.prompt_processor.stable_diffusion.open_text_denoiser", None)
    assert torch.equal(processor(cameras).cond.tokens, first.cond.tokens)  # type: ignore[attr-defined]


def test_making_one_loads_nothing() -> None:
    """Image-to-3D has a prompt processor that is never asked: a missing model must not matter."""
    _processor(pretrained_model_name_or_path="nobody/has-this-model", prompt="")


def test_an_empty_prompt_is_an_error_only_when_asked(tiny: TinyModels) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt=" ")
    with pytest.raises(UserError, match=r"system.prompt_processor.prompt: is empty"):
        processor(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))


def test_library_prompts_by_their_words() -> None:
    known = ("a red toy car", "a blue toy boat", "a red boat")
    assert full_prompt("lib:blue_boat", known) == "a blue toy boat"
    assert full_prompt("a red car") == "a red car"
    with pytest.raises(
        UserError, match="2 library prompts fit, such as 'a red toy car' and 'a blue toy boat'"
    ):
        full_prompt("lib:toy", known)
    with pytest.raises(UserError, match=r"0 library prompts fit.*nearest: 'a red boat'"):
        full_prompt("lib:green_boat", known)
    with pytest.raises(UserError, match=r"0 library prompts fit.*nearest: 'a red toy car'"):
        full_prompt("lib:cart", known)
    with pytest.raises(UserError, match="0 library prompts fit"):
        full_prompt("lib:", known)


def test_shipped_library_prompts_differ() -> None:
    prompts = library()
    assert len(prompts) >= 20 and len(set(prompts)) == len(prompts)


def test_the_embedded_model_knows_every_word_of_its_library_prompts() -> None:
    groups = json.loads(LIBRARY_FILE.read_text())
    known = open_text_denoiser("toybox-sd", "x").vocabulary()  # type: ignore[attr-defined]
    assert known is not None and len(groups["toybox"]) >= 8
    for prompt in groups["toybox"]:
        assert set(tokens(prompt)) <= known, prompt
    assert full_prompt("lib:purple_lamp") == "a purple lamp with a green foot"


def test_published_keys_are_accepted_and_misspelt_ones_named() -> None:
    config = spec(
        "prompt_processor",
        "stable-diffusion-prompt-processor",
        {"prompt": "x", "front_threshold": 30.0, "back_threshold": 30.0},
    ).config
    assert (config.front_threshold, config.overhead_threshold) == (30.0, 60.0)
    with pytest.raises(UserError, match="Did you mean 'front_threshold'"):
        spec("prompt_processor", "stable-diffusion-prompt-processor", {"front_treshold": 30.0})


# ----------------------------------------------------------------------------------------------- words of views


def test_the_front_may_be_anywhere() -> None:
    """Turning camera and front together changes nothing."""
    azimuths = [0.0, 40.0, 100.0, -170.0, 200.0]
    here = orbit_cameras_deg(0.0, azimuths, 1.5, 40.0, 8)
    there = orbit_cameras_deg(0.0, [a + 90 for a in azimuths], 1.5, 40.0, 8)
    assert torch.equal(direction_index(here, 45, 45, 60), direction_index(there, 45, 45, 60, 90.0))


def test_toybox_words_are_those_of_the_training_captions() -> None:
    """Every view gets the phrase that training captions say about it, and all phrases are reached."""
    from usd.prompt_processor.directions import phrase_index, phrases
    from usd.toybox.objects import view_words

    azimuths = [float(a) for a in range(-175, 180, 10)]
    told = set()
    for elevation in (-15.0, 0.0, 20.0, 50.0):
        index = phrase_index(orbit_cameras_deg(elevation, [a + 90 for a in azimuths], 1.5, 40.0, 8), 90.0)
        for azimuth, i in zip(azimuths, index.tolist(), strict=True):
            turn, height = torch.tensor([azimuth, elevation]).deg2rad().tolist()
            assert phrases()[i] == view_words(turn, height)
            told.add(i)
    assert told == set(range(24)) and len(set(phrases())) == 24


def test_a_direction_may_have_a_prompt_of_its_own() -> None:
    processor = _processor(
        prompt="a car", prompt_back="the boot of a car", prompt_format="drawing of {prompt}"
    )
    assert processor.texts() == [
        "drawing of a car, side view",
        "drawing of a car, front view",
        "the boot of a car",
        "drawing of a car, overhead view",
    ]
    first = _processor(prompt="a car", view_dependent_prompt_front=True)
    assert first.texts() == [
        "side view of a car",
        "front view of a car",
        "backside view of a car",
        "overhead view of a car",
    ]


def test_a_negative_prompt_is_what_any_text_model_is_told_in_the_place_of_nothing(tiny: TinyModels) -> None:
    model: Any = open_text_denoiser(str(tiny.sd), "x")
    words, silent = _processor(negative_prompt="a red car", use_cache=False), _processor()
    told = words.unconditional(model, 2).tokens
    assert not model.text_encoder.loaded, "read, used once and freed"
    assert torch.equal(told, model.embed_text(["a red car"] * 2).tokens)
    assert torch.equal(silent.unconditional(model, 2).tokens, model.embed_text(["", ""]).tokens)
    long = _processor(negative_prompt="car " * 20)
    with pytest.raises(
        UserError, match=r"system.prompt_processor.negative_prompt: .* tokens; expected at most"
    ):
        long.unconditional(model, 1)


def test_options_that_say_nothing_without_a_prompt_are_known() -> None:
    given = {"prompt": "x", "use_perp_neg": True, "front_threshold": 30.0, "negative_prompt": "y"}
    assert _processor(**given).unused_options() == ["prompt", "use_perp_neg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_back": "x", "view_words": "toybox"}, "prompt_back: speaks of front, side and back"),
        ({"use_perp_neg": True, "view_dependent_prompting": False}, "use_perp_neg: speaks of front"),
        ({"prompt_format": "a photo"}, "prompt_format: 'a photo' leaves the prompt out"),
        ({"view_words": "toybx"}, "Did you mean 'toybox'"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _processor(prompt="a car", **options)


# ------------------------------------------------------------------------------------------------------ Perp-Neg

DECAYS = Decays((1.0, 0.5, -0.606), (1.0, 0.5, 0.967), (4.0, 0.5, -2.426), (4.0, 0.5, -2.426))


def _mixture(azimuth: float, elevation: float = 0.0):
    return mixture(torch.tensor([azimuth]), torch.tensor([elevation]), 60.0, DECAYS)


def test_a_mixture_moves_from_front_to_side_to_back() -> None:
    for azimuth, first, second, share in (
        (0.0, "front", "side", 0.0),
        (45.0, "front", "side", 0.5),
        (-45.0, "front", "side", 0.5),
        (90.0, "side", "back", 0.0),
        (135.0, "side", "back", 0.5),
        (180.0, "side", "back", 1.0),
    ):
        m = _mixture(azimuth)
        assert (DIRECTIONS[int(m.first)], DIRECTIONS[int(m.second)], float(m.share)) == (first, second, share)


def test_what_is_pushed_away_and_how_much() -> None:
    """threestudio's values: nothing of the view itself, the front most of all where the side is seen."""
    front, side = _mixture(0.0), _mixture(90.0)
    assert DIRECTIONS[int(front.negatives[0, 0])] == "front" and abs(float(front.weights[0])) < 1e-3
    assert float(front.weights[1]) == pytest.approx(-(4 - 2.426))
    assert [DIRECTIONS[i] for i in side.negatives[:, 0].tolist()] == ["side", "front"]
    assert float(side.weights[0]) == pytest.approx(0, abs=1e-3)
    assert float(side.weights[1]) == pytest.approx(-(2.718281828**-0.5 + 0.967), abs=1e-4)
    assert (_mixture(30.0, 70.0).weights == 0).all() and DIRECTIONS[
        int(_mixture(30.0, 70.0).first)
    ] == "overhead"
    everywhere = mixture(torch.linspace(-180, 180, 73), torch.zeros(73), 60.0, DECAYS)
    assert (everywhere.weights <= 0).all() and everywhere.share.min() >= 0 and everywhere.share.max() <= 1


def test_what_is_pushed_away_changes_smoothly_round_the_object() -> None:
    """The front's weight, which is first of the negatives ahead and second behind, has no jump at the side."""
    ahead, behind = _mixture(89.99), _mixture(90.01)
    assert float(ahead.weights[0]) == pytest.approx(float(behind.weights[1]), abs=2e-3)
    assert float(ahead.weights[1]) == pytest.approx(float(behind.weights[0]), abs=2e-3)


def test_perp_neg_prompts_are_mixed_embeddings(tiny: TinyModels) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt="a red car", use_perp_neg=True)
    told = processor(orbit_cameras_deg([0.0, 0.0], [0.0, 45.0], 1.5, 40.0, 8))
    model = open_text_denoiser(str(tiny.sd), "x")
    front, side = (model.embed_text([f"a red car, {d} view"]).tokens[0] for d in ("front", "side"))  # type: ignore[attr-defined]
    torch.testing.assert_close(told.cond.tokens[0], front)  # type: ignore[attr-defined]
    torch.testing.assert_close(told.cond.tokens[1], 0.5 * (front + side))  # type: ignore[attr-defined]
    assert len(told.negatives) == 2 and told.weights is not None and told.weights.shape == (2, 2)
    torch.testing.assert_close(told.negatives[1].tokens[0], side)  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------- words and lengths


def test_unknown_words_are_named_with_the_nearest_known(
    tiny: TinyModels, caplog: pytest.LogCaptureFixture
) -> None:
    processor = _processor(
        pretrained_model_name_or_path=str(tiny.sd),
        prompt="with crimson car frnt zzz",
        view_dependent_prompting=False,
    )
    processor(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))
    (said,) = [r.getMessage() for r in caplog.records if "does not know" in r.getMessage()]
    assert "'crimson' (nearest: 'red'), 'frnt' (nearest: 'front'), 'zzz' (nothing near)" in said
    assert "'with'" not in said and said.startswith("system.prompt_processor.prompt: ")


def test_known_words_are_no_reason_for_a_warning(tiny: TinyModels, caplog: pytest.LogCaptureFixture) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt="a red car")
    processor(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))
    assert not caplog.records


@pytest.mark.parametrize("views", [False, True])
def test_a_prompt_of_unknown_words_only_is_an_error(tiny: TinyModels, views: bool) -> None:
    """Also where the model knows the words for the views, which are put behind it."""
    processor = _processor(
        pretrained_model_name_or_path=str(tiny.sd), prompt="an automobile", view_dependent_prompting=views
    )
    with pytest.raises(UserError, match=r"knows none of these words: 'automobile' \(nearest: 'car'\)"):
        processor(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))


def test_a_prompt_beyond_the_tokenizer_is_an_error(tiny: TinyModels) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt="a red red red red red red car")
    with pytest.raises(UserError, match=r"has 13 tokens; expected at most 10"):
        processor(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))


def test_the_embedded_model_knows_the_words_of_its_captions() -> None:
    from usd.toybox.objects import make_toy
    from usd.toybox.vocabulary import NEIGHBORS, nearest_word

    model = open_text_denoiser("toybox-sd", "x")
    known = model.vocabulary()  # type: ignore[attr-defined]
    assert known is not None and {"red", "car", "normals", "of"} <= known and "automobile" not in known
    assert all(word in known for word in make_toy(3).caption.split())
    assert nearest_word("automobiles", known) == "car" and nearest_word("teapot", known) == "kettle"
    assert nearest_word("qwxz", known) is None
    common = {word for others in NEIGHBORS.values() for word in others.split()}
    assert not common & known, "words in the table that the model knows by now"


# ------------------------------------------------------------------------------------------------------- the cache


def test_embeddings_are_kept_and_found_by_content(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_text_denoiser(str(tiny.sd), "x")
    assert isinstance(model, TextDenoiser)
    first = embed_with_cache(model, ["a red car", "a car"], tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and all(file.suffix == ".safetensors" for file in files)
    monkeypatch.setattr(type(model), "embed_text", None)
    again = embed_with_cache(model, ["a car", "a red car", "a car"], tmp_path)
    assert torch.equal(again.tokens, first.tokens[[1, 0, 1]])  # type: ignore[attr-defined]


def test_another_models_embeddings_are_others(tiny: TinyModels, tmp_path: Path) -> None:
    """The same prompt for other weights is another file; so it is after the weights in a folder have changed."""
    copy = tmp_path / "model"
    shutil.copytree(tiny.sd, copy)
    model = open_text_denoiser(str(copy), "x")
    assert isinstance(model, TextDenoiser)
    before = model.fingerprint()
    original = open_text_denoiser(str(tiny.sd), "x")
    assert original.fingerprint() == before  # type: ignore[attr-defined]
    weights = next((copy / "text_encoder").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model.fingerprint() != before


def test_a_broken_file_is_made_again_and_a_locked_folder_does_no_harm(
    tiny: TinyModels, tmp_path: Path
) -> None:
    model = open_text_denoiser(str(tiny.sd), "x")
    assert isinstance(model, TextDenoiser)
    whole = embed_with_cache(model, ["a car"], tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(embed_with_cache(model, ["a car"], tmp_path).tokens, whole.tokens)  # type: ignore[attr-defined]
    assert read_embedding(file) is not None and len(list(tmp_path.iterdir())) == 1
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert torch.equal(embed_with_cache(model, ["a car"], blocked / "below").tokens, whole.tokens)  # type: ignore[attr-defined]


def test_a_model_without_files_is_asked_every_time(tmp_path: Path) -> None:
    model = open_text_denoiser("gaussian", "x")
    assert isinstance(model, TextDenoiser)
    embed_with_cache(model, ["a car"], tmp_path)
    assert not list(tmp_path.iterdir())
