"""The shipped distillation recipes, shrunk until a step takes milliseconds; models are the analytic ones."""

from pathlib import Path

from PIL import Image

from usd.app.experiment import Trial

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

SIZES = [
    "data.width=16",
    "data.height=16",
    "data.eval_width=16",
    "data.eval_height=16",
    "data.n_val_views=2",
    "data.n_test_views=3",
    "system.geometry.pos_encoding_config.n_levels=3",
    "system.geometry.pos_encoding_config.log2_hashmap_size=10",
    "system.geometry.isosurface_resolution=24",
    "trainer.enable_progress_bar=false",
]
PATCHES = ["system.renderer.patch_size=8", "system.renderer.base_renderer.num_samples_per_ray=16"]
VOLUME = ["system.renderer.num_samples_per_ray=16"]
MODELS = ["system.guidance.pretrained_model_name_or_path=gaussian"]
VIEWS = [*MODELS, "system.guidance.zero123_model_name_or_path=gaussian"]
EXPECTED = [
    "system.expected_views.fit_steps=1",
    "system.expected_views.views=2",
]  # the guidance from step 1 on
WORDS = [
    *MODELS,
    "system.prompt_processor.pretrained_model_name_or_path=gaussian",
    "system.prompt_processor.prompt=a chair",
]
SHAPE = [
    "system.geometry.isosurface_resolution=12",
    "system.geometry_convert_from=null",
    "system.geometry.shape_init=sphere",
]
PICTURES = [
    "system.guidance_3d.pretrained_model_name_or_path=gaussian",
    "system.guidance_3d.zero123_model_name_or_path=gaussian",
]
LATENTS = [
    "system.material.n_output_dims=3",  # as many as the analytic model has
    "system.background.n_output_dims=3",
    "system.background.color=[0,0,0]",
]
GRID = [item for item in SIZES if "isosurface" not in item]
BARE = [item for item in GRID if "pos_encoding" not in item]

SPLATS = [*BARE, "system.geometry.n_splats=50", "system.geometry.fusion.resolution=12"]

SHRUNK = {
    "splats-image.yaml": [*SPLATS, *VIEWS],
    "splats-image-mini.yaml": [*SPLATS, *VIEWS, *EXPECTED],
    "splats-text.yaml": [*SPLATS, *WORDS],
    "splats-text-mini.yaml": [*SPLATS, *WORDS],
    "usd-patch.yaml": [*SIZES, *PATCHES, *VIEWS],
    "usd-patch-mini.yaml": [*SIZES, *VOLUME, *VIEWS, *EXPECTED],
    "usd-text-to-3D-patch.yaml": [*SIZES, *PATCHES, *WORDS],
    "usd-text-to-3D-patch-mini.yaml": [*SIZES, *VOLUME, *WORDS],
    "usd-text-to-3D-geometry.yaml": [*BARE, *SHAPE, *WORDS],
    "usd-text-to-3D-geometry-mini.yaml": [*BARE, *SHAPE, *WORDS],
    "usd-text-to-3D-texture.yaml": [*GRID, *SHAPE, *WORDS],
    "usd-text-to-3D-texture-mini.yaml": [*GRID, *SHAPE, *WORDS],
    "dreamfusion.yaml": [*SIZES, *VOLUME, *WORDS],
    "dreamfusion-mini.yaml": [*SIZES, *VOLUME, *WORDS],
    "prolificdreamer-mini.yaml": [*SIZES, *VOLUME, *WORDS],
    "textmesh-mini.yaml": [*SIZES, *VOLUME, *WORDS],
    "latent-nerf-mini.yaml": [*SIZES, *VOLUME, *WORDS, *LATENTS],
    "sjc-mini.yaml": [*SIZES, *VOLUME, *WORDS, *LATENTS],
    "hifa-mini.yaml": [*SIZES, *VOLUME, *WORDS],
    "sdi-mini.yaml": [*SIZES, *VOLUME, *WORDS],
    "zero123-mini.yaml": [*SIZES, *VOLUME, *VIEWS],
    "usd-views-mini.yaml": [*SIZES, *VOLUME],
    "multiple-angles.yaml": [*SIZES, *PATCHES, "system.guidance.models.image_size=16"],
    "wonder3d.yaml": [*SIZES, *VOLUME],  # this, that above and the next three have stand-ins
    "zero123plus.yaml": [*SIZES, *VOLUME],
    "imagedream.yaml": [*SIZES, *VOLUME],
    "mvdream.yaml": [*SIZES, *VOLUME, "system.prompt_processor.prompt=a chair"],
    "magic123-mini.yaml": [*SIZES, *VOLUME, *WORDS, *PICTURES],
}


def command(name: str, out: Path, *overrides: str, mode: str = "--train", tag: str = "run") -> list[str]:
    """Arguments of the launcher for a shrunk recipe that writes to ``out/<name>/<tag>``."""
    place = [f"exp_root_dir={out}", "use_timestamp=false", f"tag={tag}", "name=small"]
    return ["--config", str(CONFIGS / name), mode, "--gpu", "cpu", *SHRUNK[name], *place, *overrides]


def trial(out: Path, tag: str = "run") -> Trial:
    return Trial(out / "small" / tag)


def save_disc(path: Path, size: int = 32) -> Path:
    """A red disc with alpha."""
    picture = Image.new("RGBA", (size, size))
    for x in range(size):
        for y in range(size):
            if (x - size / 2 + 0.5) ** 2 + (y - size / 2 + 0.5) ** 2 < (0.3 * size) ** 2:
                picture.putpixel((x, y), (220, 40, 30, 255))
    picture.save(path)
    return path
