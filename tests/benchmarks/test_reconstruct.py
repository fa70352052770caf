"""Reconstruction's benchmark: which objects, which views, and which recipe each input is made with."""

from pathlib import Path

import pytest

from benchmarks.reconstruct import ToyObject, arguments
from usd.core.errors import UserError


def names(*argv: str) -> list[str]:
    return [it.name for it in arguments(argv)[0].subjects]


def test_mesh_files_stand_in_the_place_of_toys_or_beside_them() -> None:
    assert len(names()) == 6 and names("--objects", "2") == names()[:2]
    assert names("--meshes", "a/spot.obj:t.png", "duck.glb") == ["spot", "duck"]
    assert names("--meshes", "duck.glb", "--objects", "1") == ["duck", *names()[:1]]
    with pytest.raises(UserError, match="--objects: is 0"):
        names("--objects", "0")


def test_splats_are_made_of_the_views_that_surfaces_are_made_of(tmp_path: Path) -> None:
    bench, args = arguments(["--inputs", "views", "splats", "--out", str(tmp_path), "trainer.max_steps=5"])
    assert not args.docs and bench.views("7", "splats") == bench.views("7", "views")
    surface, splats = (bench.launch(ToyObject(1_000_000), kind) for kind in bench.methods)
    assert [launch.configs[0].name for launch in (surface, splats)] == [
        "reconstruct.yaml",
        "reconstruct-splats.yaml",
    ]
    assert surface.overrides == splats.overrides and surface.trial != splats.trial
    assert "trainer.max_steps=5" in splats.overrides
    assert bench.settings("views") != bench.settings("splats")
