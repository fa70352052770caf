"""What a guidance sees and wants, as pictures; and that asking it leaves no trace."""

import pytest
import torch
from PIL import ImageFont

from usd.core.config import spec
from usd.core.registry import build
from usd.math.camera import orbit_cameras_deg
from usd.system import System
from usd.viewer.insight import (
    HEAT,
    captioned_sheet,
    guidance_pictures,
    guidance_scale_of,
    heat_map,
    open_guidance_of,
)


def opened(guidance: str = "usd-guidance", **options: object) -> System:
    settings = {
        "geometry": {"radius": 0.6, "pos_encoding_config": {"n_levels": 2, "log2_hashmap_size": 8}},
        "renderer": {"radius": 0.6, "num_samples_per_ray": 8},
        "guidance_type": guidance,
        "guidance": {
            "pretrained_model_name_or_path": "gaussian",
            "zero123_model_name_or_path": "gaussian",
            **options,
        },
        "optimizer": {"args": {"lr": 0.01}},
    }
    torch.manual_seed(0)
    system = build(spec("system", "usd-system", settings), System)
    system.guidance = system.open_guidance()
    return system


@pytest.fixture(scope="module")
def camera():
    return orbit_cameras_deg(15.0, 30.0, 1.5, 50.0, 16)


def test_a_guidance_is_asked_once_it_knows_its_reference(camera):
    system = opened()
    assert open_guidance_of(system) is None
    system.guidance.set_reference(torch.rand(1, 3, 16, 16), camera)
    assert open_guidance_of(system) is system.guidance


def test_the_view_the_estimates_and_the_gradient_are_shown_and_nothing_changes(camera):
    system = opened(guidance_scale=3.0)
    system.guidance.set_reference(torch.rand(1, 3, 16, 16), camera)
    random, weights = torch.random.get_rng_state(), {k: v.clone() for k, v in system.state_dict().items()}
    found = guidance_pictures(system, system.guidance, camera, 0.5)
    again = guidance_pictures(system, system.guidance, camera, 0.5)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(weights[name], value) for name, value in system.state_dict().items())
    names = list(found)
    assert names[:4] == ["rendered", "with noise, t = 500", "step, rectified", "step, not rectified"]
    assert names[4].startswith("gradient, up to") and names[5] == "its direction"
    for name, picture in found.items():
        assert picture.shape[0] == 3 and bool(picture.isfinite().all())
        assert torch.equal(picture, again[name]), "the noise is the same at every look"
    assert not torch.equal(found["with noise, t = 500"], found["rendered"])


def test_without_another_models_prediction_the_scale_is_what_differs(camera):
    system = opened(unconditional="own", guidance_scale=3.0)
    system.guidance.set_reference(torch.rand(1, 3, 16, 16), camera)
    assert guidance_scale_of(system.guidance) == 3.0
    assert list(guidance_pictures(system, system.guidance, camera, 0.3))[2:4] == [
        "step, scale 3",
        "step, scale 1",
    ]


def test_a_guidance_that_learns_is_not_taught_by_a_look(camera):
    system = opened("vsd-guidance")
    system.guidance.set_reference(torch.rand(1, 3, 16, 16), camera)
    guidance_pictures(system, system.guidance, camera, 0.5)
    assert system.guidance.learns and system.guidance.renders.student is None, "its model was not even opened"


def test_heat_goes_from_black_to_light():
    colors = heat_map(torch.tensor([[0.0, 1.0, 2.0]]))
    torch.testing.assert_close(colors[:, 0, 0], torch.tensor(HEAT[0]))
    torch.testing.assert_close(colors[:, 0, 1], torch.tensor(HEAT[2]))
    torch.testing.assert_close(colors[:, 0, 2], torch.tensor(HEAT[-1]))
    assert bool(heat_map(torch.zeros(2, 2)).isfinite().all())


def test_a_sheet_holds_all_pictures_whatever_their_captions():
    pictures = {
        "a very long caption that does not fit below its picture": torch.ones(3, 8, 8),
        "b": torch.zeros(3, 4, 4),
    }
    sheet = captioned_sheet(pictures, side=60, columns=2)
    assert sheet.shape[1] == 60 + 6 + 60 and sheet[10, 10].tolist() == [255, 255, 255]
    assert sheet[10, 80].tolist() == [0, 0, 0] and sheet[70:].max() > 100, "captions are light"
    assert ImageFont.load_default(12).getlength("b") < 60
