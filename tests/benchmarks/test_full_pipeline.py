"""benchmarks/full_pipeline.py: which stages a method needs, and that a perfect result measures as one."""

import shutil
from dataclasses import replace

import pytest

from benchmarks import full_pipeline as bench_of
from benchmarks.full_pipeline import ADDED, PipelineBench, measured, stage_names, summary, told, wanted_stages
from tests.tiny_configs import CONFIGS
from usd.app.stages import Record, plans, write_record
from usd.data.pictures import read_rgba, resize_rgba, write_picture
from usd.evaluation import protocol
from usd.toybox import TEST_SEED

SEED = TEST_SEED + 101


@pytest.fixture
def bench(tmp_path):
    return PipelineBench(
        (SEED,), ("sds", "usd", "refined", "mesh"), CONFIGS / "usd-full-mini.yaml", tmp_path, None, ()
    )


def test_a_run_has_the_stages_that_are_asked_for(bench):
    assert wanted_stages(bench, "sds") == ("object", "object_mesh")
    assert set(wanted_stages(bench, "usd")) == {*stage_names(bench)} - {"plain_surface", "plain_mesh"}
    assert wanted_stages(replace(bench, methods=("refined",)), "usd") == ("object", "specialise", "judged")


def test_what_is_judged_is_the_first_stage_refined_by_its_own_lora(bench, tmp_path):
    found = {plan.name: plan for plan in plans([bench.config, ADDED], told(bench, tmp_path, "1-usd"))}
    judged, first = found["judged"].experiment, found["object"]
    assert judged.data.config.path == str(first.trial.folder) and judged.data.config.trial_views == "test"
    assert judged.system.config.lora == str(found["specialise"].trial.save / "lora")
    assert first.experiment.data.config.eval_transforms == tmp_path / "transforms.json"
    assert found["views"].experiment.data.config.eval_transforms is None
    assert first.experiment.system.config.guidance.config.unconditional == "prior"
    assert bench_of.SDS in told(bench, tmp_path, "1-sds")


def test_the_truth_itself_is_perfect(bench, monkeypatch):
    for name, value in (("VIEWS", 2), ("SIZE", 64)):
        monkeypatch.setattr(bench_of, name, value)
    for name, value in (("SAMPLES", 3000), ("VISIBLE_SIZE", 16)):
        monkeypatch.setattr(protocol, name, value)
    toy, run = bench.toy(SEED), bench.trial(SEED, "usd")
    for index in range(2):
        write_picture(run / f"object/save/it5-test/{index}.png", read_rgba(toy / f"views/{index:04d}.png"))
        blurred = resize_rgba(resize_rgba(read_rgba(toy / f"views/{index:04d}.png"), 16, 16), 64, 64)
        write_picture(run / f"judged/save/refined/{index:04d}.png", blurred)
    for stage in ("mesh", "object_mesh"):
        file = run / stage / "model.glb"
        file.parent.mkdir(parents=True)
        shutil.copy(toy / "mesh.glb", file)
        write_record(run / stage, Record({}, {}, 5, True, (str(file),), 1.5))
    found = {
        method: bench.ledger.figures(
            f"{SEED}", bench.settings(method), lambda m=method: measured(bench, SEED, m)
        )
        for method in ("usd", "refined", "mesh", "cut")
    }
    assert found["usd"]["psnr"] == 100 and found["usd"]["mask_iou"] == 1
    assert found["usd"]["sharpness"] == found["usd"]["sharpness_truth"] > found["refined"]["sharpness"]
    for method in ("usd", "mesh"):
        assert found[method]["chamfer_area"] < 1.1 * found[method]["chamfer_floor"]
        assert found[method]["volume_iou"] > 0.95
    assert (
        found["mesh"]["psnr"] > 20
        and found["mesh"]["minutes"] == 1.5
        and "chamfer_area" not in found["refined"]
    )
    assert found["cut"]["mask_iou"] == found["mesh"]["mask_iou"] < 1
    text = bench_of.write_summary(bench)
    assert text == summary(bench) and "| usd | 1 | 100.00" in text and f"| {SEED} a brown and red" in text
    assert (bench.out / "sheet.png").is_file()
