"""Options that nothing reads as the others are: a note for those that were given, and for no others."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from usd.app.experiment import load_experiment
from usd.core.config import option, parse
from usd.core.unread import ReadWith, unread_options


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


def test_a_key_further_below_counts_where_it_is_given():
    lamp = parse(Lamp, {"kind": "electric"}, "")
    assert list(unread_options(lamp, {"shade": {"size": 1}})) == []
    found = list(unread_options(lamp, {"shade": {"color": 1}}, "room."))
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
