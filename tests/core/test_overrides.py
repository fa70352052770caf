"""What is typed by hand: the option decides whether it is a text, a number or YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from usd.app.experiment import load_experiment
from usd.app.stages import plans
from usd.core.config import Spec, component, option, parse
from usd.core.errors import ConfigError
from usd.core.loading import load_merged, override
from usd.core.overrides import OptionReader

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


@dataclass(frozen=True)
class Inner:
    prompt: str = option("")
    scale: float = option(1.0)


@dataclass(frozen=True)
class Options:
    prompt: str = option("")
    perhaps: str | None = option(None)
    file: Path | None = option(None)
    model: str = option("", path=True)
    elevation: float | Literal["auto"] = option("auto")
    either: int | str = option(0)
    fmt: Literal["glb", "no"] | tuple[Literal["glb", "obj"], ...] = option("glb")
    names: tuple[str, ...] = option([])
    words: dict[str, str] = option({})
    mixed: dict[str, bool | int | float | str] = option({})
    number: float = option(1.0)
    sizes: tuple[int, ...] = option([])
    inner: Inner = option({})
    background: Spec = component("background", "solid-color-background")


def typed(*overrides: str) -> Any:
    loaded = load_merged([], overrides, OptionReader(Options))
    return parse(Options, loaded.resolved(), "", loaded.origins)


TEXTS = [
    "???",
    "\\???",
    "pic #1.png",
    "a red mug #1",
    "a red mug: with a handle",
    "[red] mug",
    "{a} mug",
    "yes",
    "no",
    "*a*",
    "&a",
    "!a",
    "%a",
    "@a",
    "`a`",
    "| a",
    "> a",
    "- a",
    "? a",
    "1e3",
    "007",
    "1_000",
    "0x1F",
    "12:30:00",
    "2024-01-01",
    ".nan",
    "~",
    "null",
    "true",
    "a = b",
    "=",
    "",
    " a red mug ",
    "a\nb",
    "it's",
    '"half',
    '"hello" and "bye"',
    "${oc.env:HOME}",
    "\\${x}",
    "a\\",
    "größe 🧸",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_option_takes_the_text_as_typed(text):
    assert typed(f"prompt={text}").prompt == text
    assert typed(f"inner.prompt={text}").inner.prompt == text
    assert typed(f"words.one={text}").words == {"one": text}


@pytest.mark.parametrize("text", [*TEXTS, "'whole'", '"whole"'])
def test_an_override_made_for_a_text_gives_that_text(text):
    assert typed(override("prompt", text)).prompt == text
    assert typed(override("perhaps", text)).perhaps == text


def test_quotes_by_habit_come_off_and_null_is_nothing_where_nothing_is_allowed():
    assert typed('prompt="a red mug"').prompt == "a red mug"
    assert typed("perhaps=x", "perhaps=null").perhaps is None
    assert typed('perhaps="null"').perhaps == "null"
    assert typed("file=null").file is None


def test_a_path_is_a_text_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pic #1.png", "photo: 1.png", "[a] 'b'.png", "~nobody.png", "a=b.png"):
        (tmp_path / name).touch()
        assert typed(f"file={name}").file == tmp_path / name
        assert typed(f"model={name}").model == str(tmp_path / name)


@pytest.mark.parametrize(
    ("told", "key", "value"),
    [
        ("elevation=40", "elevation", 40.0),
        ("elevation=1e1", "elevation", 10.0),
        ("elevation=auto", "elevation", "auto"),
        ("either=12", "either", 12),
        ("either=12 #3", "either", "12 #3"),
        ("fmt=[glb,obj]", "fmt", ("glb", "obj")),
        ("fmt=no", "fmt", "no"),
        ("names=[yes, 1e3, '#1']", "names", ("yes", "1e3", "#1")),
        ("words={a: yes, b: 007}", "words", {"a": "yes", "b": "007"}),
        ("mixed={a: yes, b: 1e1, c: x}", "mixed", {"a": True, "b": 10.0, "c": "x"}),
        ("mixed.a=3", "mixed", {"a": 3}),
        ("number=1e-3", "number", 0.001),
        ("number=${inner.scale}", "number", 1.0),
        ("sizes=[1, 2]", "sizes", (1, 2)),
    ],
)
def test_other_options_are_yaml_and_numbers_are_numbers(told, key, value):
    found = getattr(typed("inner.scale=1", told), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("number=*a*", "number: expected a number, got '*a*'"),
        ("number=[1, 2", "number: expected a number, got '[1, 2'"),
        ("number=3 #4", "number: expected a number, got '3 #4'"),
        ("sizes=[1, 2] # both", "sizes: expected a list of (an integer), got '[1, 2] # both'"),
        ("number=~", "number: expected a number, got null"),
        ("elevation=a #1: b", "elevation: expected a number or one of auto, got 'a #1: b'"),
        ("names=a #1", "names: expected a list of (text), got 'a #1'"),
        ("promt=*a*", "promt: unknown key. Did you mean 'prompt'?"),
        ("inner.x=[", "inner.x: unknown key. Known keys: prompt, scale."),
    ],
)
def test_what_is_no_value_is_refused_in_the_option_s_words(told, message):
    with pytest.raises(ConfigError) as caught:
        typed(told)
    assert str(caught.value) == message


def test_an_interpolation_in_a_text_is_pointed_out():
    loaded = load_merged([], ["prompt=${number}", override("perhaps", "${number}")], OptionReader(Options))
    assert loaded.notes == (
        "note: prompt: '${number}' is taken as it stands; an interpolation belongs in a file",
    )


# ------------------------------------------------------------------------------------------------- experiments

PICTURE = "system.guidance.image_path"


def test_components_named_on_the_same_line_before_or_after_say_what_is_text(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(f"base: {CONFIGS / 'usd-text-to-3D-patch-mini.yaml'}\n")
    given = ["system.prompt_processor.prompt=a red mug #1", "tag=${x}: #2", "system.exporter.save_name=a #1"]
    typed_last = ["system.exporter_type=mesh-exporter", "data_type=random-camera-datamodule"]
    experiment, _ = load_experiment([file], [*given, *typed_last])
    assert experiment.system.config.prompt_processor.config.prompt == "a red mug #1"
    assert experiment.exporter.config.save_name == "a #1"
    assert experiment.tag == "${x}: #2"


def test_interpolations_of_a_file_use_the_text_as_typed():
    experiment, _ = load_experiment([CONFIGS / "usd-patch-mini.yaml"], [f"{PICTURE}=my pic #1.png"])
    assert experiment.tag == "my_pic_#1.png"


def test_stages_take_texts_said_to_all_or_to_one():
    told = ["system.prompt_processor.prompt=a red mug #1: *big*", "stages.texture.description=[x] ${y}"]
    found = plans([CONFIGS / "usd-text-to-3D-mini.yaml"], told)
    prompts = {plan.experiment.system.config.prompt_processor.config.prompt for plan in found}
    assert prompts == {"a red mug #1: *big*"}
    assert [plan.experiment.description for plan in found if plan.name == "texture"] == ["[x] ${y}"]
    assert found[0].trial.folder.parent.name == "a_red_mug_#1-_-big-"
    one = plans([CONFIGS / "usd-full-mini.yaml"], [f"stages.object.{PICTURE}=my pic #1.png"])
    assert one[0].experiment.system.config.guidance.config.image_path == "my pic #1.png"


# ------------------------------------------------------------------------------------------- another component


def notes_of(capsys, file: str, *overrides: str) -> tuple[Any, list[str]]:
    experiment, _ = load_experiment([CONFIGS / file], overrides)
    return experiment, [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]


def test_another_guidance_keeps_what_both_have_and_says_what_goes(capsys):
    made, notes = notes_of(capsys, "usd-patch-mini.yaml", "system.guidance_type=zero123-guidance")
    assert made.system.config.guidance.config.zero123_model_name_or_path == "toybox-zero123"
    assert made.system.config.guidance.config.lambda_ == 1.0, "its own default, not the other formula's"
    assert notes == [
        "note: system.guidance_type=zero123-guidance: drops lambda of the file's system.guidance; its other options stay"
    ]


def test_another_system_keeps_its_parts(capsys):
    given = ["system_type=usd-text-to-3d-system", "system.prompt_processor.prompt=x"]
    before, _ = load_experiment([CONFIGS / "usd-patch-mini.yaml"])
    capsys.readouterr()
    made, (note,) = notes_of(capsys, "usd-patch-mini.yaml", *given)
    kept, old = made.system.config, before.system.config
    assert (kept.geometry, kept.optimizer, kept.guidance) == (old.geometry, old.optimizer, old.guidance)
    assert "lambda_sparsity" in kept.loss and "lambda_rgb" not in kept.loss
    assert note == (
        "note: system_type=usd-text-to-3d-system: drops reference_view_latents, expected_views, "
        "loss.lambda_reference_view, "
        "loss.lambda_rgb, loss.lambda_mask of the file's system; its other options stay"
    )


def test_the_same_type_or_an_outer_type_after_an_inner_one_loses_nothing(capsys):
    same, notes = notes_of(capsys, "usd-patch-mini.yaml", "system_type=usd-system")
    assert same.system == load_experiment([CONFIGS / "usd-patch-mini.yaml"])[0].system and not notes
    given = ["system.geometry_type=volume-grid", "system_type=usd-text-to-3d-system"]
    made, _ = notes_of(capsys, "usd-patch-mini.yaml", *given, "system.prompt_processor.prompt=x")
    assert made.system.config.geometry.name == "volume-grid"


def test_a_type_over_a_default_one_drops_the_default_one_s_options(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("background: {color: [0, 0, 0]}")
    loaded = load_merged([file], ["background_type=neural-environment-map-background"], OptionReader(Options))
    assert "color" not in (loaded.config.background or {})
    assert loaded.notes and "drops color of the file's background" in loaded.notes[0]
