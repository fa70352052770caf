"""Options that are given and do not hold: a note for those, and for no others."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from omegaconf import OmegaConf

from usd.app.experiment import load_experiment, merge_contents
from usd.app.stages import KEY, plans
from usd.core import loading, places
from usd.core.config import Spec, component, option, parse, plain_options
from usd.core.loading import load_merged
from usd.core.unread import ReadWith, dropped_options, unread_options


@dataclass(frozen=True)
class Lamp:
    read_with: ClassVar[ReadWith] = {"wattage": ("kind", ("electric",)), "wick": ("kind", ("oil", None))}

    kind: str | None = option(None, "what it burns")
    wattage: int = option(60, "power")
    wick: int = option(3, "length")

    def unread(self):
        return {"shade.color": "without a room"} if self.kind == "electric" else {}


@dataclass(frozen=True)
class Room:
    lamp: Lamp = option({}, "its lamp")


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ({}, []),
        ({"kind": "oil", "wick": 2}, []),
        ({"wattage": 5}, ["lamp.wattage: is not read where kind is null"]),
        ({"kind": "electric", "wick": 2}, ["lamp.wick: is not read where kind is electric"]),
    ],
)
def test_only_what_is_given_and_not_read_is_noted(given, unread):
    values = {"lamp": given}
    assert list(unread_options(parse(Room, values, ""), values)) == [f"note: {line}" for line in unread]


def test_a_default_is_meant_where_it_is_typed_and_not_where_a_file_gives_every_option():
    values = {"lamp": {"kind": "electric", "wick": 3, "wattage": 60}}
    room = parse(Room, values, "")
    assert not list(unread_options(room, values))
    (note,) = unread_options(room, values, {"lamp.wick", "lamp.wattage"})
    assert note.startswith("note: lamp.wick: is not read")


def test_a_trial_s_complete_configuration_says_nothing_that_nobody_wrote(tmp_path, capsys):
    experiment, _ = load_experiment(["configs/usd-patch-mini.yaml"], ["system.guidance.image_path=x.png"])
    (tmp_path / "parsed.yaml").write_text(loading.dump(plain_options(experiment)))
    capsys.readouterr()
    load_experiment([tmp_path / "parsed.yaml"], ["exporter.fmt=ply", "exporter_type=splat-exporter"])
    assert "note" not in capsys.readouterr().out
    load_experiment([tmp_path / "parsed.yaml"], ["system.guidance.own_share=0.3"])
    assert "system.guidance.own_share: is not read" in capsys.readouterr().out


def test_a_key_further_below_counts_where_it_is_given():
    lamp = parse(Lamp, {"kind": "electric"}, "")
    assert list(unread_options(lamp, {"shade": {"size": 1}})) == []
    found = list(unread_options(lamp, {"shade": {"color": 1}}, at="room."))
    assert found == ["note: room.shade.color: is not read without a room"]


def test_shipped_options_that_nothing_reads_are_said(capsys):
    changed = [
        "system.prompt_processor.prompt=a hat",
        "system.renderer.estimator=importance",
        "system.renderer.grid_resolution=64",
        "system.renderer.num_samples_per_ray_proposal=16",
        "system.loss.lambda_img=0.5",
        "system.geometry.pos_encoding_config.start_level=2",
        "system.latent_steps=10",
        "system.weights_ignore_modules=[material]",
        "system.geometry_convert_override.isosurface_threshold=5",
    ]
    load_experiment(["configs/dreamfusion.yaml"], changed)
    said = [line for line in capsys.readouterr().out.splitlines() if "is not read" in line]
    assert {line.split(": ")[1] for line in said} == {
        "system.renderer.grid_resolution",
        "system.renderer.num_samples_per_ray_proposal",
        "system.loss.lambda_img",
        "system.geometry.pos_encoding_config.start_level",
        "system.latent_steps",
        "system.weights_ignore_modules",
        "system.geometry_convert_override",
    }
    assert any(line.endswith("where guidance.use_img_loss is false") for line in said)
    load_experiment(["configs/dreamfusion.yaml"], changed[:1])
    assert "is not read" not in capsys.readouterr().out


# ------------------------------------------------------------------------------- a component of another type


@dataclass(frozen=True)
class Scene:
    radius: float = option(2.0, "size of all")
    data: Spec = component("data", "random-camera-datamodule", "its cameras")


BASE = """
radius: 3.0
data_type: usd-random-camera-datamodule
data: {width: 32, camera_perturb: 0, eval_fovy_deg: 70, eval_camera_distance: "${radius}", reference_fovy_deg: 30}
"""


def notes_of_files(folder, child, *overrides, base=BASE):
    """Return what is noted of a file over a base."""
    (folder / "base.yaml").write_text(base)
    (folder / "child.yaml").write_text(f"base: base.yaml\n{child}")
    merged = load_merged([folder / "child.yaml"], overrides)
    values = merged.resolved()
    return list(dropped_options(parse(Scene, values, ""), values, merged))


def test_a_file_that_names_another_type_is_told_which_options_of_its_base_went(tmp_path):
    """Not the new type's own default (70 degrees), nor what it does not have (reference_fovy_deg)."""
    (note,) = notes_of_files(tmp_path, "data_type: random-camera-datamodule\ndata: {width: 64}")
    assert note == (
        "note: data_type: random-camera-datamodule: takes over no options that the base gives another type; "
        "at their defaults are camera_perturb, eval_camera_distance"
    )


@pytest.mark.parametrize(
    ("child", "overrides"),
    [
        ("data_type: usd-random-camera-datamodule\ndata: {width: 64}", ()),
        ("data: {width: 64}", ()),
        ("radius: 1.5\ndata_type: random-camera-datamodule\ndata: {width: 64, camera_perturb: 0.1}", ()),
        (
            "data_type: random-camera-datamodule\ndata: {width: 64, eval_camera_distance: 1}",
            ("data.camera_perturb=0",),
        ),
    ],
    ids=["the same type", "no type", "every one said again or the same by default", "said by hand"],
)
def test_nothing_is_noted_where_nothing_is_missed(tmp_path, child, overrides):
    assert not notes_of_files(tmp_path, child, *overrides)


def test_a_dropped_option_that_nothing_would_read_is_not_missed(tmp_path):
    base = "data_type: random-camera-datamodule\ndata: {elevation_range: [0, 30], n_test_views: 7}"
    child = "data_type: view-group-datamodule\ndata: {group: syncdreamer}"
    (note,) = notes_of_files(tmp_path, child, base=base)
    assert note.endswith("are n_test_views")
    (note,) = notes_of_files(tmp_path, child.replace("syncdreamer", "mvdream"), base=base)
    assert note.endswith("are elevation_range, n_test_views")


def missed_by_recipe(path):
    """Return what a shipped recipe misses; what it leaves to its user is given here."""
    contents = loading.chain(path)
    asked = sorted(OmegaConf.missing_keys(loading.merge(contents).config))
    merged = merge_contents(contents, [f"{key}=mesh:load/x" for key in asked])
    return [line for line in merged.remarks(merged.experiment()) if "takes over" in line]


@pytest.mark.parametrize("name", ["neus-colmap", "syncdreamer", "dreamfusion-mini"])
def test_a_shipped_recipe_says_again_what_its_base_says_of_another_type(name):
    assert not missed_by_recipe(places.recipes()[name])


@pytest.mark.slow
def test_no_shipped_recipe_misses_what_its_base_says_of_another_type():
    found, staged = {}, []
    for name, path in places.recipes().items():
        contents = loading.chain(path)
        if any(content.get(KEY) for content, _ in contents):
            picture = "stages.object.system.guidance.image_path=load/images/kettle.png"
            given = [picture] if "full" in name else ["system.prompt_processor.prompt=x"]
            lines = [note for plan in plans([path], ["tag=x", *given]) for note in plan.notes]
            staged.append(name)
        else:
            lines = missed_by_recipe(path) if loading.merge(contents).dropped else []
        found[name] = [line for line in lines if "takes over" in line]
    assert len(found) > 60 and len(staged) > 5 and not {name: lines for name, lines in found.items() if lines}
