"""``make demo-text`` from end to end, at a size where it takes seconds: three stages, a file, a score."""

import trimesh

from usd.app import demo_text
from usd.report.records import TrialRecord

SMALL = [
    *[f"data.{key}=16" for key in ("width", "height", "eval_width", "eval_height")],
    "data.n_val_views=2",
    "data.n_test_views=2",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.enable_progress_bar=false",
    "system.guidance.pretrained_model_name_or_path=gaussian",
    "system.prompt_processor.pretrained_model_name_or_path=gaussian",
    "stages.patch.system.renderer.num_samples_per_ray=16",
    "stages.patch.system.geometry.isosurface_resolution=24",
    "stages.geometry.system.geometry.isosurface_resolution=12",
    "stages.texture.system.geometry.isosurface_resolution=12",
    *[f"stages.{s}.system.geometry.pos_encoding_config.n_levels=3" for s in ("patch", "texture")],
    "stages.mesh.exporter.texture_size=64",
    "stages.mesh.exporter.check_views=1",
    "stages.mesh.exporter.unwrap_time_limit=0",
]


def test_a_sentence_becomes_a_textured_file(tmp_path, capsys):
    given = ["a teal mug: small", "--gpu", "cpu", *SMALL, f"exp_root_dir={tmp_path}"]
    assert demo_text.main(given) == 0
    out = capsys.readouterr().out
    run = tmp_path / "USD-text-to-3D-mini" / "a_teal_mug-_small"
    (file,) = run.glob("mesh/save/it2-export/*.glb")
    assert trimesh.load(file, force="mesh").visual.kind == "texture"
    for said in (*(str(run / stage) for stage in ("patch", "geometry", "texture", "mesh")), str(file)):
        assert said in out
    assert "text score" in out and "of 8 views found among all categories" in out
    assert (run / "geometry" / "save" / "it2-test" / "1.png").is_file()
    made_by = TrialRecord.of(run / "mesh")
    assert made_by.option("resume") == str(run / "texture" / "ckpts" / "last.ckpt") and made_by.model == file
    assert demo_text.main(given) == 0
    assert capsys.readouterr().out.count(": done (") == 4, "the second call only looks"


def test_a_mistake_is_one_line(capsys):
    assert demo_text.main(["stages.txture.trainer.max_steps=3"]) == 2
    assert capsys.readouterr().err.startswith("error: stages.txture: no such stage")
