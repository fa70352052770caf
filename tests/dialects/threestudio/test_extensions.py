"""Files of threestudio's extensions: what is translated, and the line that answers the rest."""

import re

import pytest

from tests.dialects.threestudio.test_translation import notes, recipe, translated
from usd.core import registry
from usd.core.errors import ConfigError
from usd.dialects import dialect_of, translate
from usd.dialects.threestudio import extensions
from usd.dialects.threestudio.extensions import EXTENSIONS, extension_of
from usd.dialects.threestudio.system import TARGETS

DREAMCRAFT = {
    "data_type": "dreamcraft3d-single-image-datamodule",
    "data": {"image_path": "x.png"},
    "guidance_3d_type": "stable-zero123-guidance",
    "freq": {"n_ref": 2, "ref_only_steps": 0, "ref_or_guidance": "alternate", "no_diff_steps": 0},
}


def test_the_coarse_stage_of_dreamcraft3d_is_two_guidances_of_a_picture():
    loss = {"lambda_sd": 0.1, "lambda_3d_sd": 0.2, "lambda_mask_binary": 0.0, "lambda_clip": 0.0}
    found = translated("dreamcraft3d-system", stage="coarse", loss=loss, **DREAMCRAFT)
    assert (found["system_type"], found["data_type"]) == ("usd-system", "usd-random-camera-datamodule")
    system = found["system"]
    assert "stage" not in system and "no_diff_steps" not in system["freq"]
    assert (system["loss"]["lambda_usd"], system["loss"]["lambda_3d"]) == (0.1, 0.2)
    assert not {"lambda_mask_binary", "lambda_clip"} & system["loss"].keys()


def test_its_rasterizer_is_threestudios_before_losses_of_meshes_are_looked_for():
    parts = {"renderer_type": "dreamcraft3d-mask-nvdiff-rasterizer", "geometry_type": "tetrahedra-sdf-grid"}
    loss = {"lambda_sds": 0.1, "lambda_normal_consistency": 1.0}
    said = translated("dreamcraft3d-system", stage="geometry", loss=loss, **parts, **DREAMCRAFT)["system"]
    assert said["renderer_type"] == "nvdiff-rasterizer" and said["loss"]["lambda_normal_consistency"] == 1.0
    assert "not read" not in notes("dreamcraft3d-system", stage="geometry", loss=loss, **parts, **DREAMCRAFT)


@pytest.mark.parametrize(
    ("system", "parts", "key", "extension"),
    [
        (
            "mvdream-system",
            {"guidance_type": "mvdream-multiview-diffusion-guidance"},
            "system.guidance_type",
            "mvdream",
        ),
        (
            "dreamfusion-system",
            {"guidance_type": "multiview-diffusion-guidance"},
            "system.guidance_type",
            "mvdream",
        ),
        ("dreamfusion-system", {"data_type": "random-multiview-camera-datamodule"}, "data_type", "mvdream"),
        (
            "dreamfusion-system",
            {"prompt_processor_type": "multiview-prompt-processor"},
            "prompt_processor",
            "mvdream",
        ),
        ("imagedream-system", {}, "system_type", "mvdream"),
        ("gaussian-splatting-nowhere-system", {}, "system_type", "3dgs"),
        (
            "gaussiandreamer-mvdream-system",
            {},
            "system_type",
            "gaussiandreamer",
        ),
        ("sugar-4dgen-system", {}, "system_type", "dreammesh4d"),
        ("fourdfy-system", {}, "system_type", "4dfy"),
        (
            "dreamcraft3d-system",
            {"guidance_type": "dreamcraft3d-stable-diffusion-bsd-guidance"},
            "guidance",
            "craft3D",
        ),
        ("zero123-system", {"guidance_type": "zero123plus-guidance"}, "system.guidance_type", "zero123plus"),
        ("mesh-fitting-system", {}, "system_type", "meshfitting"),
        (
            "dreamfusion-system",
            {"renderer_type": "stable-nerf-volume-renderer"},
            "renderer",
            "stable-nerf-renderer",
        ),
        ("dreamfusion-system", {"guidance_type": "shap-e-guidance"}, "system.guidance_type", "shap-e"),
        ("hifi-system", {}, "system_type", "hifi123"),
        ("reconfusion-system", {}, "system_type", "reconfusion"),
    ],
)
def test_a_component_of_an_extension_is_answered_in_a_line(system, parts, key, extension):
    with pytest.raises(ConfigError) as problem:
        translate(recipe(system, **parts))
    said = str(problem.value)
    assert said.startswith(key) or key in said.partition(":")[0]
    assert extension in said and "expected" in said and "docs/porting-extensions.md" in said
    assert len(said.splitlines()) == 1 and "unknown key" not in said


def test_no_component_of_ours_or_of_threestudios_is_taken_for_an_extensions():
    ours = {name for kind in registry.KINDS for name in registry.names(kind) if kind != "denoiser"}
    assert len(ours) > 80
    assert all("gaussian" in name for name in ours if extension_of(name)), "these may come any day"
    assert all(re.search("dreamcraft|gaussian", name) for name in TARGETS if extension_of(name))
    assert len({each.name for each in EXTENSIONS}) == len(EXTENSIONS)


def test_a_system_that_somebody_has_ported_is_theirs(monkeypatch):
    assert dialect_of({"system_type": "mvdream-system"}) == "threestudio"
    monkeypatch.setattr(extensions, "is_missing", lambda kind, name: False)
    assert dialect_of({"system_type": "mvdream-system"}) == "usd"
