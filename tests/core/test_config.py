from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from usd.core import places
from usd.core.config import (
    ConfigError,
    Schedule,
    Spec,
    component,
    defaults,
    option,
    parse,
    plain,
    plain_options,
    spec,
)
from usd.core.loading import ValueOrigin


@dataclass(frozen=True)
class Inner:
    depth: int = option(2, ge=1)


@dataclass(frozen=True)
class Options:
    scale: float = option(1.0, "a number", ge=0)
    weight: Schedule = option(0.5, "a schedule", ge=0, le=1)
    mode: Literal["coarse", "fine"] = option("coarse")
    size: tuple[int, int] = option((4, 4), gt=0)
    names: tuple[str, ...] = option([])
    either: float | Literal["auto"] = option("auto")
    nothing: int | None = option(None)
    loss: dict[str, Schedule] = option({}, ge=0)
    inner: Inner = option({})
    lambda_: float = option(0.0)
    colour: str = option("red", choices=("red", "blue"))


def test_defaults_become_what_their_annotation_says():
    result = parse(Options, {})
    assert result.weight == Schedule.constant(0.5)
    assert result.inner == Inner(depth=2)
    assert result.size == (4, 4) and result.names == ()


def test_values_are_read_by_type():
    result = parse(
        Options, {"scale": 2, "either": 3, "size": [1, 2], "loss": {"a": [0, 1, 0, 10]}, "lambda": 1}
    )
    assert (result.scale, result.either, result.size, result.lambda_) == (2.0, 3.0, (1, 2), 1.0)
    assert isinstance(result.scale, float)
    assert result.loss["a"](5) == 0.5


def test_a_whole_number_is_an_integer_however_it_is_written():
    result = parse(Options, {"size": [1e2, 3.0], "nothing": 1e4, "either": 2.0})
    assert (result.size, result.nothing) == ((100, 3), 10000)
    assert {type(number) for number in (*result.size, result.nothing)} == {int}
    assert isinstance(result.either, float)


def test_a_number_that_may_be_both_keeps_its_kind():
    both = make_dataclass("Both", [("x", int | float, option(1))], frozen=True)
    assert [type(parse(both, {"x": x}).x) for x in (2, 2.0)] == [int, float]


def test_defaults_are_what_is_parsed_where_nothing_is_given():
    @dataclass(frozen=True)
    class Asking(Options):
        needed: int = option()
        geometry: Spec = component("geometry", "implicit-volume")

    found = defaults(Asking)
    assert found == {k: v for k, v in plain_options(parse(Asking, {"needed": 1})).items() if k != "needed"}
    assert found["geometry_type"] == "implicit-volume" and found["weight"] == 0.5


def test_a_parsed_configuration_is_plain_data_that_parses_to_itself():
    result = parse(
        Options, {"weight": [0, 0.1, 0.9, 100], "loss": {"a": 2}, "inner": {"depth": 5}, "lambda": 0.5}
    )
    assert parse(Options, plain(result)) == result
    assert plain(result)["lambda"] == 0.5


# An error message is an interface: these are its snapshots.
MESSAGES = [
    ({"sclae": 1}, "at.sclae: unknown key. Did you mean 'scale'?"),
    ({"scale": "much"}, "at.scale: expected a number, got 'much'"),
    ({"scale": True}, "at.scale: expected a number, got True"),
    ({"scale": None}, "at.scale: expected a number, got null"),
    ({"scale": -1}, "at.scale: -1 is out of range; expected >= 0"),
    ({"weight": 2}, "at.weight: 2 is out of range; expected >= 0 and <= 1"),
    ({"weight": [0, 0.5, 3, 10]}, "at.weight: 3 is out of range; expected >= 0 and <= 1"),
    (
        {"weight": [1e3, 0.5, 0, 10]},
        "at.weight: step 1000.0 must be an integer number of optimizer steps "
        "(a float would count epochs, of which a training has one); "
        "expected a number, [start_step, start_value, end_value, end_step] or {steps: [...], values: [...]}",
    ),
    (
        {"mode": "corse"},
        "at.mode: 'corse' is not a choice; expected one of coarse, fine. Did you mean 'coarse'?",
    ),
    ({"size": [1, 2, 3]}, "at.size: expected [an integer, an integer], got 3 elements"),
    ({"size": [1, 2.5]}, "at.size.1: expected an integer, got 2.5"),
    ({"size": [1, 0]}, "at.size: 0 is out of range; expected > 0"),
    ({"names": "a"}, "at.names: expected a list of (text), got 'a'"),
    ({"either": "often"}, "at.either: expected a number or one of auto, got 'often'"),
    ({"nothing": "x"}, "at.nothing: expected an integer, got 'x'"),
    ({"loss": {"a": -1}}, "at.loss.a: -1 is out of range; expected >= 0"),
    ({"inner": {"depht": 3}}, "at.inner.depht: unknown key. Did you mean 'depth'?"),
    ({"inner": {"quux": 3}}, "at.inner.quux: unknown key. Known keys: depth."),
    ({"inner": {"depth": 0}}, "at.inner.depth: 0 is out of range; expected >= 1"),
    ({"inner": 3}, "at.inner: expected a mapping of options, got 3"),
    (
        {"colour": "bleu"},
        "at.colour: 'bleu' is not a choice; expected one of red, blue. Did you mean 'blue'?",
    ),
]


@pytest.mark.parametrize(("values", "text"), MESSAGES, ids=[str(v) for v, _ in MESSAGES])
def test_error_messages(values, text):
    with pytest.raises(ConfigError) as caught:
        parse(Options, values, "at")
    assert str(caught.value) == text


# ------------------------------------------------------------------------------------------------- components


@dataclass(frozen=True)
class Whole:
    background: Spec = component("background", "solid-color-background")
    material: Spec | None = component("material", optional=True)
    geometry: Spec = component("geometry")


def test_a_component_is_its_name_and_its_own_options():
    result = parse(Whole, {"background": {"color": [0, 0, 0]}, "geometry_type": "implicit-volume"})
    assert (result.background.kind, result.background.name) == ("background", "solid-color-background")
    assert result.background.config.color == (0.0, 0.0, 0.0)
    assert result.material is None
    assert parse(Whole, plain(result)) == result


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({}, "at.geometry_type: required but not given; expected a geometry: custom-mesh, "),
        (
            {"geometry_type": "implicit-volum"},
            "at.geometry_type: no geometry is called 'implicit-volum'; known: ",
        ),
        ({"geometry_type": 3}, "at.geometry_type: expected the name of a geometry, got 3"),
        (
            {"geometry_type": "implicit-volume", "geometry": {"radiu": 1}},
            "at.geometry.radiu: unknown key. Did you mean 'radius'?",
        ),
        (
            {"geometry_type": "implicit-volume", "material": {"a": 1}},
            "at.material: options for nothing: material_type is null",
        ),
    ],
)
def test_component_errors(values, start):
    with pytest.raises(ConfigError) as caught:
        parse(Whole, values, "at")
    assert str(caught.value).startswith(start)


def test_a_spec_can_be_made_without_a_file():
    assert spec("background", "solid-color-background", {"color": [1, 0, 0]}).config.color == (1.0, 0.0, 0.0)


# ------------------------------------------------------------------------------------------------------ paths


@dataclass(frozen=True)
class Paths:
    file: Path = option("none.png")
    out: Path = option("outputs", path="output")
    model: str = option("some/model-id", path=True)


def test_a_path_is_found_beside_the_file_that_set_it_then_among_the_resources(tmp_path, monkeypatch):
    (tmp_path / "here.png").touch()
    origins = {"file": ValueOrigin(tmp_path), "model": ValueOrigin(tmp_path)}
    assert parse(Paths, {"file": "here.png"}, "", origins).file == tmp_path / "here.png"
    assert parse(Paths, {"model": "here.png"}, "", origins).model == str(tmp_path / "here.png")
    clip = parse(Paths, {"model": "load/toybox/clip"}, "", origins).model
    assert clip == str(places.resource("load/toybox/clip"))
    monkeypatch.chdir(tmp_path)
    assert parse(Paths, {"model": "here.png"}).model == "here.png", "the working directory must not matter"


def test_a_path_in_a_file_that_is_elsewhere_is_looked_for_in_the_working_directory(tmp_path, monkeypatch):
    views = tmp_path / "mine" / "views"
    views.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert parse(Paths, {"model": "views"}, "", {"model": ValueOrigin(tmp_path)}).model == str(views)


def test_what_does_not_exist_stays_a_name_or_is_made_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert parse(Paths, {}).model == "some/model-id"
    assert (
        parse(Paths, {"file": "new"}, "", {"file": ValueOrigin(tmp_path)}).file == tmp_path / "mine" / "new"
    )
    by_hand = {"file": ValueOrigin(tmp_path, by_hand=True)}
    assert parse(Paths, {"file": "new"}, "", by_hand).file == tmp_path / "new"


@pytest.mark.parametrize("origins", [{}, {"out": ValueOrigin(places.PACKAGE)}], ids=["default", "of a file"])
def test_outputs_go_below_the_working_directory_whatever_lies_beside_the_file(tmp_path, monkeypatch, origins):
    """A folder of that name beside the file, inside the package say, is not written to."""
    monkeypatch.chdir(tmp_path)
    assert (places.PACKAGE / "core").is_dir()
    assert parse(Paths, {"out": "core"}, "", origins).out == tmp_path / "core"
    assert parse(Paths, {}, "", origins).out == tmp_path / "outputs"
    assert parse(Paths, {"out": str(tmp_path / "a")}, "", origins).out == tmp_path / "a"


@pytest.mark.parametrize("hint", [Path, Path | None])
def test_an_empty_path_is_not_the_working_directory(hint):
    cls = make_dataclass("Options", [("folder", hint, option(None, "a folder"))], frozen=True)
    with pytest.raises(ConfigError, match=r"^run\.folder: is empty; expected a path$"):
        parse(cls, {"folder": ""}, "run")
