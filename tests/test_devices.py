"""Training, looking and exporting on a device that is not the default one: nothing is made or left on another."""

import pytest
import torch

import launch
from tests.fake_device import StrangeTensor, elsewhere
from tests.system import test_reconstruct as reconstruct
from tests.tiny_configs import CONFIGS, SHRUNK, command, save_disc, trial
from usd.app.experiment import load_experiment
from usd.app.models_command import recipe_models
from usd.data.convert import write_views
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.denoiser import open_text_denoiser
from usd.denoiser.entries import entry_of
from usd.denoiser.load import split_lora
from usd.denoiser.rehearsal import rehearsal

STAND_INS = ("wonder3d", "zero123plus", "imagedream", "mvdream", "usd-views", "multiple-angles")
"""Models whose networks are random, but not tiny: one step instead of two."""
SMALL_FILES = ["exporter_type=mesh-exporter", "exporter.texture_size=32", "exporter.check_views=2"]
SMALL_FILES += ["exporter.check_size=32", "exporter.texture_samples=1"]
ONLY = ["trainer.max_steps=1", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]


def published_models(recipe: str) -> set[str]:
    """The models that ``usd models`` says of a shrunk recipe, without the embedded ones and formulas."""
    named = recipe_models(load_experiment([CONFIGS / recipe], SHRUNK[recipe])[0].system)
    entries = {base: entry_of(base) for base in (split_lora(name)[0] for name in named)}
    return {base for base, entry in entries.items() if entry and entry.repository}


def test_the_strange_device_refuses_what_cuda_refuses(monkeypatch):
    with elsewhere(monkeypatch) as device:
        far, here = torch.ones(3, device=device), torch.ones(3)
        assert far.device == device and isinstance(far + 1, StrangeTensor)
        for wrong in (lambda: far + here, lambda: torch.cat([far, here]), far.numpy, lambda: here[far > 0]):
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
        assert torch.equal((far + here.to(device)).cpu(), here + 1) and float(far.sum()) == 3
        assert torch.zeros(2).device.type == "cpu"


def test_a_model_that_went_there_is_not_what_other_tests_open(monkeypatch):
    with elsewhere(monkeypatch) as device:
        far = open_text_denoiser("gaussian", "here").to(device)
    here = open_text_denoiser("gaussian", "here")
    assert far.alphas_cumprod.device == device and here.alphas_cumprod.device.type == "cpu"


def test_gradients_stay_on_the_strange_device(monkeypatch):
    with elsewhere(monkeypatch) as device:
        torch.manual_seed(0)
        layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
        expected = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
        layer.to(device)
        layer(x.to(device)).square().sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.device == device
        torch.testing.assert_close(layer.weight.grad.cpu(), expected)


# Splats compile a kernel for each number of features: half a minute a recipe.
RECIPES = [
    pytest.param(name, marks=pytest.mark.slow) if name.startswith("splats") else name for name in SHRUNK
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_there_is_looked_at_and_exported(name, tmp_path, monkeypatch):
    steps = 1 if name.startswith(STAND_INS) else 2
    quick = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
    with elsewhere(monkeypatch), rehearsal() as models:  # random stand-ins for published models
        assert launch.main(command(name, tmp_path, *quick)) == 0
        assert {model.name for model in models.models.values()} == published_models(name)
        if name.endswith("mini.yaml") and not name.startswith(STAND_INS):
            options = [f"resume={trial(tmp_path).last}", *SMALL_FILES]
            assert launch.main(command(name, tmp_path, *options, mode="--export")) == 0
            assert (trial(tmp_path).save / "it2-export" / "model.glb").stat().st_size > 500
    for file in ("-0.png", "-test/2.png", "-test/transforms.json", "-test.mp4", "-test.png"):
        assert (trial(tmp_path).save / f"it{steps}{file}").is_file(), file


@pytest.mark.parametrize(
    ("guidance", "models"),
    [
        ("usd-guidance", {}),
        ("zero123-guidance", {}),
        ("usd-guidance", {"offload": "unused"}),
    ],
)
def test_diffusion_models_follow_their_input_there(guidance, models, tmp_path, monkeypatch, tiny):
    options = [
        f"system.guidance_type={guidance}",
        f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}",
        f"system.guidance.pretrained_model_name_or_path={tiny.sd}",
        f"system.guidance.zero123_model_name_or_path={tiny.zero123_a}",
        "system.loss.lambda_reference_view=1",
        *(f"system.guidance.models.{key}={value}" for key, value in models.items()),
    ]
    with elsewhere(monkeypatch):
        assert launch.main(command("usd-patch-mini.yaml", tmp_path, *ONLY, *options)) == 0


def test_a_model_that_moves_takes_its_empty_prompt_along(monkeypatch, tiny):
    model = open_text_denoiser(str(tiny.sd), "x")
    here = model.unconditional(2).tokens.clone()
    with elsewhere(monkeypatch) as device:
        assert model.to(device).unconditional(2).tokens.device == device
        again = model.to("cpu").unconditional(2).tokens
    assert again.device.type == "cpu"
    torch.testing.assert_close(again, here)


def test_words_are_read_there(tmp_path, monkeypatch, tiny):
    options = [
        f"system.guidance.pretrained_model_name_or_path={tiny.sd}",
        f"system.prompt_processor.pretrained_model_name_or_path={tiny.sd}",
        f"system.prompt_processor.cache_dir={tmp_path / 'cache'}",
        "system.prompt_processor.prompt=a red car",
        "system.prompt_processor.use_perp_neg=true",
    ]
    name = "usd-text-to-3D-patch.yaml"
    with elsewhere(monkeypatch):
        assert (
            launch.main(
                command(name, tmp_path, *ONLY, *options, "system.guidance_type=stable-diffusion-guidance")
            )
            == 0
        )


@pytest.mark.parametrize(
    ("geometry", "renderer"),
    [("volume-grid", "nerf-volume-renderer"), ("implicit-sdf", "neus-volume-renderer")],
)
def test_geometries_render_there(geometry, renderer, tmp_path, monkeypatch):
    options = [
        f"system.geometry_type={geometry}",
        f"system.renderer_type={renderer}",
        "system.renderer.num_samples_per_ray=16",
        "system.renderer.radius=0.6",
    ]
    options += [
        "system.optimizer.params=null",
        "system.optimizer.args={lr: 0.001}",
        "system.loss.lambda_orient=0",
    ]
    base = [
        item
        for item in command("usd-patch-mini.yaml", tmp_path, *ONLY)
        if "pos_encoding" not in item and "isosurface" not in item and "renderer." not in item
    ]
    with elsewhere(monkeypatch):
        assert launch.main([*base, *options]) == 0


def test_a_surface_is_reconstructed_there(tmp_path, monkeypatch):
    folder, out = tmp_path / "views", tmp_path / "out"
    write_views(render_toy_views(reconstruct.TOY, sphere_cameras(4, 16)), folder)
    argv = reconstruct.command(
        "--train", out, "run", f"data.path={folder}", "data.hold_out=1", "trainer.max_steps=2"
    )
    with elsewhere(monkeypatch):
        assert launch.main(argv) == 0
        again = reconstruct.command(
            "--export", out, "run", f"data.path={folder}", f"resume={trial(out).last}"
        )
        assert launch.main(again) == 0


def test_a_stray_tensor_is_noticed(tmp_path, monkeypatch):
    """The same test with one tensor made on the wrong device, where no result shows it on a CPU."""
    from usd.background.solid_color import SolidColor

    usual = SolidColor.color
    monkeypatch.setattr(
        SolidColor,
        "color",
        lambda self, directions, generator=None: usual(self, directions, generator) * torch.ones(3),
    )
    with elsewhere(monkeypatch), pytest.raises(RuntimeError, match="expected all tensors on one device"):
        launch.main(command("usd-patch-mini.yaml", tmp_path, *ONLY))
