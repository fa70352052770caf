"""Components know the type of their options, wherever its dataclass stands."""

from dataclasses import dataclass

import pytest

from usd.core import registry
from usd.core.config import parse
from usd.core.module import Component, NoOptions
from usd.data.fixed_views import FixedViews, FixedViewsConfig
from usd.data.random_camera import RandomCameraConfig, RandomCameras
from usd.system.usd import UsdConfig, UsdSystem
from usd.system.usd_text_to_3d import TextTo3DConfig, UsdTextTo3DSystem


class Nested(Component["Nested.Config"]):
    @dataclass(frozen=True)
    class Config:
        size: int = 3


@dataclass(frozen=True)
class LargeConfig(Nested.Config):
    size: int = 9


class Beside(Component[LargeConfig]):
    pass


class Inheriting(Beside):
    pass


def test_options_may_stand_in_the_class_beside_it_or_be_inherited() -> None:
    assert Nested(parse(Nested.Config, {})).config.size == 3
    assert Beside.Config is Inheriting.Config is LargeConfig
    assert Component.Config is NoOptions


def test_classes_that_narrow_their_options_say_so_once() -> None:
    assert (UsdSystem.Config, UsdTextTo3DSystem.Config) == (UsdConfig, TextTo3DConfig)
    assert (RandomCameras.Config, FixedViews.Config) == (RandomCameraConfig, FixedViewsConfig)


@pytest.mark.parametrize("kind", ["guidance", "renderer", "geometry", "material", "background", "exporter"])
def test_every_component_that_ships_has_options_of_its_own(kind: str) -> None:
    for name in registry.names(kind):
        cls = registry.find(kind, name)
        assert cls.Config is not NoOptions, name
