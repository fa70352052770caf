from pathlib import Path

import pytest

from usd.app.catalog import describe
from usd.background import Background
from usd.background.textured import TexturedBackground
from usd.core import registry
from usd.core.config import spec
from usd.core.errors import UserError
from usd.core.module import preset

EXAMPLE = """
from dataclasses import dataclass
from usd.background import Background
from usd.core.registry import register

@register("{name}")
class Plain(Background):
    pass
"""


@pytest.fixture
def custom(tmp_path, monkeypatch) -> Path:
    (tmp_path / "background").mkdir()
    monkeypatch.setenv("USD_CUSTOM", str(tmp_path))
    return tmp_path / "background"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("usd-guidance", "usd"),
        ("usd-text-to-3D_guidance", "usd_text_to_3d"),
        ("nerf-volume-renderer", "nerf_volume"),
        ("usd-random-camera-datamodule", "usd_random_camera"),
        ("stable-diffusion-prompt-processor", "stable_diffusion"),
        ("implicit-volume", "implicit_volume"),
    ],
)
def test_the_value_names_the_file(name, stem):
    assert stem in registry.stems(name)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_component_stands_in_the_file_its_name_says(kind):
    for name, file in registry.names(kind).items():
        aliases = getattr(__import__(f"usd.{kind}", fromlist=["x"]), "ALIASES", {})
        expected = [*registry.stems(name), aliases.get(name), "presets"]
        assert file.stem in expected, f"{name} is in {file}"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_component_can_be_found_and_declares_a_config(kind):
    assert registry.names(kind), f"no {kind} at all"
    for name in registry.names(kind):
        assert hasattr(registry.find(kind, name).Config, "__dataclass_fields__")


def test_a_dropped_in_file_is_found_listed_and_used(custom):
    (custom / "plain_one.py").write_text(EXAMPLE.format(name="plain-one"))
    assert registry.names("background")["plain-one"] == custom / "plain_one.py"
    assert registry.find("background", "plain-one").__name__ == "Plain"


def test_of_files_that_do_not_hold_the_name_none_is_parsed(custom, monkeypatch):
    """A kind has dozens of files; parsing them all for every name took a second."""
    for stem in ("one", "two", "three"):
        (custom / f"{stem}.py").write_text(EXAMPLE.format(name=f"plain-{stem}"))
    (custom / "elsewhere.py").write_text(EXAMPLE.format(name="plain-sought"))
    parsed, parse = [], registry.ast.parse
    monkeypatch.setattr(
        registry.ast,
        "parse",
        lambda text, *args, **options: parsed.append(text) or parse(text, *args, **options),
    )
    assert registry.find("background", "plain-sought").__module__ == "custom.background.elsewhere"
    assert [text for text in parsed if "plain-" in text] == [EXAMPLE.format(name="plain-sought")]


def test_the_example_in_custom_works():
    assert registry.find("background", "sky-background").__name__ == "Sky"


def test_a_missing_package_breaks_only_the_file_that_needs_it(custom):
    (custom / "broken.py").write_text("import no_such_package\n" + EXAMPLE.format(name="broken-background"))
    with pytest.raises(UserError, match="'broken-background' needs the package 'no_such_package'"):
        registry.find("background", "broken-background")
    assert registry.find("background", "solid-color-background")


def test_a_file_with_a_mistake_says_where(custom):
    (custom / "typo.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"typo\.py, line 1: invalid syntax"):
        registry.find("background", "typo-background")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'solid-color-background'"):
        registry.find("background", "solid-colour-background")
    with pytest.raises(UserError, match="not a kind of component"):
        registry.find("camera", "x")


def test_only_subclasses_of_an_interface_can_be_registered():
    with pytest.raises(TypeError, match="must subclass the interface of a kind"):
        registry.register("x")(type("Stray", (), {}))


def test_a_class_is_found_as_the_interface_that_is_asked_for():
    assert registry.find(Background, "solid-color-background") is registry.find(
        "background", "solid-color-background"
    )
    with pytest.raises(
        UserError,
        match=r"'solid-color-background' is SolidColor; expected a background that is a TexturedBackground",
    ):
        registry.find(TexturedBackground, "solid-color-background")
    built = registry.build(spec("background", "solid-color-background", {"color": [0, 0.5, 1]}), Background)
    assert list(built.config.color) == [0, 0.5, 1]


PRESET = """
from usd.background.solid_color import SolidColor
from usd.core.module import preset

Night = preset("night-background", SolidColor, "A dark one.", color=[0.0, 0.0, 0.1])
"""


def test_a_preset_is_a_component_with_other_defaults(custom):
    (custom / "night.py").write_text(PRESET)
    night = registry.find("background", "night-background")
    assert "night-background" in registry.names("background") and night.__doc__ == "A dark one."
    assert list(registry.build(spec("background", "night-background"), Background).config.color) == [
        0,
        0,
        0.1,
    ]
    with pytest.raises(TypeError, match=r"has no option 'colour'. Did you mean 'color'\?"):
        preset("x-background", night, "", colour=1)


def test_describing_a_preset_shows_its_own_defaults():
    said = describe("zero123-guidance").splitlines()
    assert any(line.startswith("  lambda: a number, >= 0") and "[1.0]" in line for line in said)
    assert any(line.startswith("  unconditional: ") and '["own"]' in line for line in said)


INTRUDER = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
"""

NO_NAMES = [
    "",
    ".",
    "..",
    "../outside",
    "../../outside",
    "{outside}",
    "{outside}.py",
    "sub/inside",
    "..\\outside",
    "C:\\outside",
    "\\\\host\\share",
    "\u2024\u2024/outside",
    "\uff0e\uff0e\uff0foutside",
    "outside\0",
    "\0",
    "outside\n",
    " outside",
    "~/outside",
    "$HOME/outside",
    "file:///outside",
    "usd.app.demo",
    "-outside",
    "__init__",
    "\u00e4ther",
    "x" * 5000,
]


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_a_name_that_is_a_path_imports_nothing(custom, name):
    outside = custom.parent.parent / "outside"
    for folder in (custom, custom.parent, custom.parent.parent, custom / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "outside.py").write_text(INTRUDER)
        (folder / "inside.py").write_text(INTRUDER)
    with pytest.raises(
        UserError, match="is no name of a background; expected letters, digits, - and _"
    ) as caught:
        registry.find("background", name.format(outside=outside))
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 250
    assert not list(custom.parent.parent.rglob("ran"))


def test_a_file_that_is_a_link_out_of_its_folder_is_not_imported(custom, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked.py").write_text(INTRUDER + EXAMPLE.format(name="linked-background"))
    (custom / "linked.py").symlink_to(elsewhere / "linked.py")
    with pytest.raises(UserError, match=r"linked\.py: is a link to .*; expected the file itself"):
        registry.find("background", "linked-background")
    assert not (elsewhere / "ran").exists()


def test_a_folder_of_components_may_itself_be_reached_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "there" / "background").mkdir(parents=True)
    (tmp_path / "there" / "background" / "distant.py").write_text(EXAMPLE.format(name="distant-background"))
    (tmp_path / "here").symlink_to(tmp_path / "there")
    monkeypatch.setenv("USD_CUSTOM", str(tmp_path / "here"))
    assert registry.find("background", "distant-background").__name__ == "Plain"


def test_a_class_cannot_be_registered_under_a_path():
    from usd.background import Background

    with pytest.raises(TypeError, match=r"'\.\./x' is no name of a component"):
        registry.register("../x")(type("Stray", (Background,), {}))
