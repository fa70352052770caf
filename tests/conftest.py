"""Tiny diffusion models with random weights, as real folders in every published layout."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "usd"


def modules_with_shapes() -> list[str]:
    """Modules that annotate arrays; elsewhere mypy suffices, and checks of every call took as long as the tests."""
    files = [file for file in PACKAGE.rglob("*.py") if "jaxtyping" in file.read_text(encoding="utf-8")]
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    return sorted(name.removesuffix(".__init__") for name in names)


install_import_hook(modules_with_shapes(), "beartype.beartype")  # before the first of them is imported

from usd.core.process import keep_memory  # noqa: E402

# on a machine with other work to do, examples are slow to come by; that says nothing about the code
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
keep_memory()


@pytest.fixture(autouse=True, scope="module")
def _no_reports():
    """Keep trainings from writing report.html, which takes longer than they do; tests/report has its own.

    Only what is imported already is changed: importing the application takes longer than most files of tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in {"usd.app.modes", "usd.app.export"} & sys.modules.keys():
            patch.setattr(f"{module}.report_trial", lambda trial, system=None: None)
        yield


@pytest.fixture(scope="module")
def browser():
    """Open a real browser for a module's tests; where there is none they are skipped."""
    from benchmarks.browser import EXECUTABLE, chromium

    pytest.importorskip("playwright")
    if EXECUTABLE is None:
        pytest.skip("no chromium on this machine")
    with chromium() as opened:
        yield opened


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
WORDS = [
    "<pad>",
    "<unk>",
    "<start>",
    "<end>",
    "a",
    "red",
    "car",
    "view",
    "side",
    "front",
    "back",
    "overhead",
    ",",
]
SIZE, WIDTH, EMBED = 16, 16, 12  # latent side 8 of pictures 16 px wide; token width; image embedding width


@dataclass(frozen=True)
class TinyModels:
    """Folders: Stable Diffusion; Zero-1-to-3 in layouts A, B, in fp16 and steered; Stable Diffusion with v prediction."""

    sd: Path
    zero123_a: Path
    zero123_b: Path
    zero123_half: Path
    zero123_steered: Path
    zero123_volume: Path
    sd_v: Path


def _unet(seed: int, channels: int, time_width: int = 0):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=4,
        class_embed_type="projection" if time_width else None,
        projection_class_embeddings_input_dim=time_width or None,
    )


def _vae(seed: int):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    )


def _text_encoder(seed: int):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=10,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    )


def _tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<start>", eos_token="<end>"
    )


def _image_encoder(seed: int):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=EMBED,
        )
    )


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_common(folder: Path, unet, prediction: str = "epsilon") -> None:
    unet.save_pretrained(folder / "unet")
    _vae(1).save_pretrained(folder / "vae")
    _write_json(
        folder / "scheduler/scheduler_config.json",
        {"beta_schedule": "scaled_linear", "prediction_type": prediction, **BETAS},
    )


def _write_sd(folder: Path, prediction: str = "epsilon") -> Path:
    _write_common(folder, _unet(0, 4), prediction)
    _text_encoder(2).save_pretrained(folder / "text_encoder")
    _tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def _write_zero123(folder: Path, place: str, layer: str, half: bool = False) -> Path:
    unet, encoder = _unet(3, 8), _image_encoder(4)
    torch.manual_seed(5)
    projection = {
        f"{layer}.weight": torch.randn(WIDTH, EMBED + 4) * 0.1,
        f"{layer}.bias": torch.randn(WIDTH) * 0.1,
    }
    if half:
        unet, encoder = unet.half(), encoder.half()
        projection = {key: value.half() for key, value in projection.items()}
    _write_common(folder, unet)
    encoder.save_pretrained(folder / "image_encoder")
    _write_json(
        folder / "feature_extractor/preprocessor_config.json",
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3},
    )
    _write_json(folder / place / "config.json", {"_class_name": "published", "embedding_dim": EMBED})
    torch.save(projection, folder / place / "diffusion_pytorch_model.bin")
    return folder


def _write_steered(folder: Path) -> Path:
    """The embedded form: several tokens, patch tokens, and a vector for the time embedding."""
    from safetensors.torch import save_file

    from usd.denoiser.zero123_condition import CameraProjection, CameraProjectionConfig

    torch.manual_seed(6)
    config = CameraProjectionConfig(
        embedding_dim=EMBED,
        width=WIDTH,
        type="steered",
        tokens=2,
        channels=4,
        hidden=16,
        patch_dim=16,
        time_width=6,
    )
    _write_common(folder, _unet(3, 8, time_width=6), "v_prediction")
    _image_encoder(4).save_pretrained(folder / "image_encoder")
    place = folder / "clip_camera_projection"
    _write_json(place / "config.json", {"_class_name": "CameraProjection", **asdict(config)})
    save_file(CameraProjection(config).state_dict(), place / "diffusion_pytorch_model.safetensors")
    return folder


TINY_VOLUME = {
    "picture": 16,
    "latent": 8,
    "features": 8,
    "coarse": 4,
    "coarse_channels": 8,
    "fine_channels": 4,
}
TINY_VOLUME |= {"samples": 6, "head": 8, "hint": 5}


def _write_volume(folder: Path) -> Path:
    """The embedded form with a view volume, whose hint widens the UNet's input."""
    from usd.denoiser.view_volume import VOLUME, ViewVolume, ViewVolumeConfig, write_volume

    _write_zero123(folder, "clip_camera_projection", "proj")
    _unet(3, 4 + 4 + TINY_VOLUME["hint"]).save_pretrained(folder / "unet")
    torch.manual_seed(7)
    write_volume(ViewVolume(ViewVolumeConfig(**TINY_VOLUME)), folder / VOLUME)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModels]:
    """One set of folders for the whole run."""
    root = tmp_path_factory.mktemp("models")
    state = torch.random.get_rng_state()
    yield TinyModels(
        sd=_write_sd(root / "sd"),
        zero123_a=_write_zero123(root / "a", "clip_camera_projection", "proj"),
        zero123_b=_write_zero123(root / "b", "cc_projection", "projection"),
        zero123_half=_write_zero123(root / "half", "clip_camera_projection", "proj", half=True),
        zero123_steered=_write_steered(root / "steered"),
        zero123_volume=_write_volume(root / "volume"),
        sd_v=_write_sd(root / "v", "v_prediction"),
    )
    torch.random.set_rng_state(state)
