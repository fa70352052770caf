"""threestudio-3dgs' scenes of Gaussian splats: options that stand elsewhere here."""

import pytest

from tests.dialects.threestudio.test_translation import recipe, translated
from usd.core.errors import ConfigError
from usd.dialects import translate
from usd.dialects.threestudio import extensions

GEOMETRY = {
    "position_lr_init": 0.001,
    "position_lr_final": 0.00002,
    "position_lr_max_steps": 1000,
    "scale_lr": 0.005,
    "feature_lr": 0.01,
    "densification_interval": 500,
    "min_opac_prune": 0.005,
    "prune_interval": 500,
    "init_num_pts": 4096,
    "pc_init_radius": 0.8,
}
SCENE = {
    "geometry_type": "gaussian-splatting",
    "geometry": GEOMETRY,
    "renderer_type": "diff-gaussian-rasterizer-shading",
}


def test_options_of_gaussians_have_their_places_and_learning_rates_are_the_optimizers():
    found = translated("gaussian-splatting-system", **SCENE)["system"]
    geometry, groups = found["geometry"], found["optimizer"]["params"]
    assert geometry == {
        "n_splats": 4096,
        "blob_std": pytest.approx(0.8 / 5**0.5),
        "density": {"every": 500, "prune_opacity": 0.005},
    }
    assert groups["geometry.means"] == {"lr": [0, 0.001, 0.00002, 1000]}
    assert groups["geometry.scales"] == {"lr": 0.005} and groups["geometry.constant"] == {"lr": 0.01}
    assert found["renderer_type"] == "diff-gaussian-rasterizer"


def test_without_a_geometry_of_gaussians_they_are_answered_in_a_line(monkeypatch):
    monkeypatch.setattr(extensions, "is_missing", lambda kind, name: name == "gaussian-splatting")
    with pytest.raises(
        ConfigError, match=r"^system.geometry_type: gaussian-splatting is of the extension threestudio-3dgs"
    ):
        translate(recipe("gaussian-splatting-system", **SCENE))
