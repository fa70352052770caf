"""The comparison of pipelines: what is configuration, what each run is given, and what its tables say."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import pipelines, runs
from benchmarks.pipelines import PIPELINES, PROTOCOLS, Pipeline, PipelineBench, Subject
from usd.core.errors import UserError
from usd.data.pictures import write_picture

PUBLISHED = PIPELINES.with_name("pipelines-published.yaml")


def _object(folder: Path, name: str, note: dict[str, object] | None = None) -> Path:
    """A folder as a data set has it: a picture, a mesh, and perhaps what is known of the picture."""
    place = folder / name
    write_picture(place / "input.png", torch.rand(4, 8, 8))
    (place / "mesh.obj").write_text("v 0 0 0\n")
    if note is not None:
        (place / "picture.json").write_text(json.dumps(note))
    return place


@pytest.fixture
def bench(tmp_path: Path) -> PipelineBench:
    _object(tmp_path / "objects", "cup")
    _object(tmp_path / "objects", "hat", {"elevation_deg": 50, "irregular": True})
    subjects = tuple(pipelines.folder_objects(tmp_path / "objects"))
    names = tuple(pipelines.read_pipelines(PIPELINES))
    return PipelineBench(subjects, names, PIPELINES, tmp_path, None, ("trainer.max_steps=3",))


@pytest.mark.parametrize("file", [PIPELINES, PUBLISHED], ids=["embedded", "published"])
def test_every_pipeline_of_a_file_has_a_recipe_and_a_meaning(file: Path, tmp_path: Path) -> None:
    bench = PipelineBench((), (), file, tmp_path, None, ())
    described = bench.pipelines
    assert {"sds", "usd"} < described.keys() and len(described) >= 5
    for name, pipeline in described.items():
        assert pipeline.meaning and bench.recipe(name).is_file()
        assert bool(pipeline.views) is ("reconstruct" in pipeline.recipe)


def test_objects_of_a_folder_say_where_their_picture_was_taken_from(bench: PipelineBench, tmp_path) -> None:
    cup, hat = bench.subjects
    assert (cup.name, cup.elevation_deg, cup.irregular) == ("cup", 15.0, False)
    assert (hat.elevation_deg, hat.irregular) == (50.0, True)
    assert cup.source.endswith("mesh.obj")  # nothing but a mesh: results are seen by their own cameras
    (cup.truth / "transforms.json").touch()
    assert cup.source == str(cup.truth)
    (hat.truth / "mesh.obj").unlink()
    with pytest.raises(UserError, match="holds no mesh"):
        pipelines.folder_objects(tmp_path / "objects")
    with pytest.raises(UserError, match=r"input\.png"):
        pipelines.folder_objects(tmp_path / "nothing")


def test_a_run_is_given_the_picture_or_the_views_that_were_made_of_it(bench: PipelineBench) -> None:
    hat = bench.subjects[1]
    straight, by_views = bench.launch(hat, "sds"), bench.launch(hat, "zero123plus-style")
    assert f"system.guidance.image_path={hat.picture}" in straight.overrides
    assert "data.reference_elevation_deg=50" in straight.overrides
    assert straight.overrides[-2:] == ("system.guidance.unconditional=own", "trainer.max_steps=3")
    assert by_views.overrides[0] == f"data.path={bench.views(hat, 'zero123plus-style')}"
    assert not any("image_path" in word for word in by_views.overrides)
    assert bench.settings("sds")["recipe"] == bench.settings("usd")["recipe"]
    assert bench.settings("sds") != bench.settings("usd")


def test_views_are_made_once_for_the_same_words(bench: PipelineBench, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(
        pipelines, "make_views", lambda args: (calls.append(args), args.out.mkdir(parents=True))
    )
    hat = bench.subjects[1]
    first = pipelines.generated(bench, hat, "zero123plus-style")
    assert pipelines.generated(bench, hat, "zero123plus-style") == first and len(calls) == 1
    assert (calls[0].model, calls[0].elevation, calls[0].azimuth) == ("toybox-views", 50.0, 90.0)
    other = Subject("hat", hat.picture, hat.truth, 20.0)
    pipelines.generated(bench, other, "zero123plus-style")
    assert len(calls) == 2


def test_irregular_pictures_stand_apart_and_missing_figures_are_dashes(bench: PipelineBench) -> None:
    cup, hat = bench.subjects
    for subject, psnr in ((cup, 20.0), (hat, 16.0)):
        bench.ledger.figures(subject.name, bench.settings("sds"), lambda p=psnr: {"psnr": p, "seconds": 60.0})
    views = {"psnr": 21.0, "seconds": 30.0, "views_psnr": 19.0, "agree": 25.0}
    bench.ledger.figures("cup", bench.settings("zero123plus-style"), lambda: views)
    usual, irregular = pipelines.table(bench, PROTOCOLS["toys"]).split("**Irregular pictures**")
    assert "| sds | 1 | 20.00 | - | - | 60 |" in usual
    assert "| zero123plus-style | 1 | 21.00 | 19.00 | 25.00 | 30 |" in usual
    assert "| sds | 1 | 16.00 | 60 |" in irregular
    assert "| zero123plus-style" not in irregular, "what has not run has no row"
    assert "nothing is aligned" in usual and "- usd: unbiased" in irregular


def test_a_published_protocol_has_its_number_of_objects(bench: PipelineBench, tmp_path: Path) -> None:
    given = ["--folder", str(tmp_path / "objects"), "--out", str(tmp_path / "out")]
    found, args = pipelines.arguments([*given, "--only", "usd"])
    assert found.methods == ("usd",) and len(found.subjects) == 2 and args.protocol == "toys"
    with pytest.raises(UserError, match="has 30 objects, and 2 are given"):
        pipelines.arguments([*given, "--protocol", "gso-30"])
    assert all(protocol.align == "none" for protocol in PROTOCOLS.values())


def test_a_misspelled_recipe_or_key_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine:\n  recipe: usd-pach.yaml\n")
    bench = PipelineBench((), ("mine",), file, tmp_path, None, ())
    with pytest.raises(UserError, match=r"mine\.recipe: there is no 'usd-pach\.yaml'"):
        bench.recipe("mine")
    file.write_text("mine:\n  recipe: usd-patch.yaml\n  view: []\n")
    with pytest.raises(UserError, match="view"):
        pipelines.read_pipelines(file)
    file.write_text("mine:\n  recipe: usd-patch.yaml\n")
    assert pipelines.read_pipelines(file)["mine"] == Pipeline(recipe="usd-patch.yaml")
    with pytest.raises(UserError, match="there is no file"):
        pipelines.read_pipelines(tmp_path / "none.yaml")


def test_toys_are_objects_too_and_the_first_are_seen_from_elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runs, "toy_folder", lambda seed, out: _object(out / "toys", str(seed)))
    found = pipelines.toys((1_000_100, 1_000_101), 1, tmp_path)
    assert [subject.irregular for subject in found] == [False, True, False]
    assert found[1].truth == found[0].truth and found[1].picture.is_file()
    assert found[1].elevation_deg != found[0].elevation_deg == 15.0
