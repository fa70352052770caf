"""Refinement: every view is made a little noisy and cleaned again by a model that knows the object (arXiv 2312.06198).

A view x becomes z = E(x), z_t at the time t = strength * 1000, and DDIM under the prompt leads back to z'. The refined
view is D(z'), or, with ``residual`` r, x + r (D(z') - D(z)): then what the autoencoder loses is not lost to the view,
and r below 1 believes the model in part: what it invents is halved with what it mends, an error's square is quartered.
Its alpha stays what it was. Nothing is learnt; the one step of the training refines all views.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core import files
from usd.core.config import ConfigError, option, plain_options
from usd.core.console import say
from usd.core.random import generator
from usd.core.registry import register
from usd.data.pictures import contact_sheet, over, read_rgba, unpremultiply, write_picture
from usd.data.transforms import write_transforms
from usd.data.view_set import ViewSet
from usd.data.views import ViewsData
from usd.denoiser import Embedding, Execution, TextDenoiser, open_text_denoiser
from usd.denoiser.lora import WEIGHTS, lora_model, read_card
from usd.denoiser.sample import conditional_eps
from usd.evaluation.metrics import psnr, sharpness
from usd.math.diffusion import add_noise, ddim_sample, ddim_timesteps, guided_fn, normal_like
from usd.prompt_processor.prompt_checks import check
from usd.system import System

FOLDER, RECORD = "refined", "refined.json"


@dataclass(frozen=True)
class RefineConfig(System.Config):
    """The model, and how far from a view it may go."""

    pretrained_model_name_or_path: str | None = option(
        None, "text model; null: the one that the LoRA was trained on", path=True
    )
    lora: str | None = option(
        None, "folder with pytorch_lora_weights.safetensors; null: the text model as it is", path=True
    )
    lora_scale: float = option(1.0, "factor of the LoRA; 0 is the text model as it is", ge=-100, le=100)
    half_precision_weights: bool = option(True, "fp16 weights on CUDA, unless models.weights says otherwise")
    models: Execution = option({}, "how the text model is kept in memory and run")
    prompt: str | None = option(
        None, "sentence for what the views show; null: the prompt that the LoRA was trained with"
    )
    strength: float = option(
        0.2, "share of the noise schedule to go back to, and of the steps to take", ge=0, le=1
    )
    steps: int = option(50, "DDIM steps of the whole schedule", ge=1, le=1000)
    guidance_scale: float = option(
        6.5, "classifier-free guidance of the prompt against the empty one", ge=0, le=10000
    )
    residual: float | None = option(
        None,
        "share of the change that is added to the view, so that the autoencoder's errors stay out; null: no view, the "
        "model's picture",
        ge=0,
        le=1,
    )
    batch_size: int = option(4, "views refined at once", ge=1, le=65536)


@register("refine-system", "refine")
class RefineSystem(System[RefineConfig, object]):
    """Refinement of the views of ``views-datamodule`` by a text model.

    Writes ``save/refined``: pictures with alpha, and their transforms.json.
    """

    def build(self) -> None:
        """Check that a model is named. Raises ``ConfigError``."""
        if self.config.lora is None and self.config.pretrained_model_name_or_path is None:
            raise ConfigError("system.lora: required but not given; expected the folder of a LoRA")

    def configure_optimizers(self) -> None:
        """Return none: there is nothing to optimize."""
        for text in (".*will run with no optimizer.*", ".*`training_step` returned `None`.*"):
            warnings.filterwarnings("ignore", text)

    @override
    def training_step(self, batch: object) -> None:
        """Refine all views but those that an earlier call has finished."""
        data = self.data
        if not isinstance(data, ViewsData):
            raise ConfigError("data_type: has no views to refine; expected views-datamodule")
        if self.global_rank == 0:
            self.refine(data.train_views)

    def refine(self, views: ViewSet) -> Path:
        """Write the refined views; return their folder."""
        folder, keys = self.save_dir / FOLDER, self._keys(views)
        done = pictures_with_keys(folder, keys)
        names = [f"{index:04d}.png" for index in range(len(views))]
        todo = [index for index, name in enumerate(names) if name not in done]
        size = self.config.batch_size
        model = self.open_model().to(self.device) if todo else None
        for first in range(0, len(todo), size):
            chosen = todo[first : first + size]
            assert model is not None
            for index, picture in zip(chosen, self._refine_views(model, views, chosen), strict=True):
                write_picture(folder / names[index], picture)
                done[names[index]] = keys[index]
            files.write_record(folder / RECORD, {"views": done})
        write_transforms(folder / "transforms.json", [views.cameras.to("cpu")], names)
        self._report(folder, views, names, done)
        return folder

    def open_model(self) -> TextDenoiser:
        """Open the text model with its LoRA."""
        config = self.config
        name, where = config.pretrained_model_name_or_path or "", "system.pretrained_model_name_or_path"
        if config.lora is not None:
            name, where = lora_model(Path(config.lora), name or None, config.lora_scale), "system.lora"
        model = open_text_denoiser(name, where, config.models.single(config.half_precision_weights))
        check(model, (self.prompt(),), "system.prompt")
        return model

    def prompt(self) -> str:
        """Return the prompt. Raises ``ConfigError`` where neither the configuration nor the LoRA says one."""
        prompt = self.config.prompt
        if prompt is None and self.config.lora is not None:
            prompt = read_card(Path(self.config.lora)).prompt
        if prompt is None:
            raise ConfigError("system.prompt: required but not given; expected what the views show")
        return prompt

    def _refine_views(
        self, model: TextDenoiser, views: ViewSet, chosen: list[int]
    ) -> Float[Tensor, "B 4 H W"]:
        """Refine some of the views; their alpha stays what it was."""
        rgba = views.rgba[chosen].to(self.device)
        cond, uncond = model.embed_text([self.prompt()] * len(rgba)), model.unconditional(len(rgba))
        space = model.latent
        shape = (1, space.channels, space.height, space.width)
        noise = [
            normal_like(torch.empty(shape), generator("cpu", self.seed, "refine", index)) for index in chosen
        ]
        refined = refine_pictures(
            model, over(rgba), (cond, uncond), torch.cat(noise).to(self.device), self.config
        )
        return unmix_white(refined, rgba[:, 3:]).cpu()

    def _keys(self, views: ViewSet) -> list[str]:
        """Return of each refined view a digest of what decides it."""
        settings = {key: value for key, value in plain_options(self.config).items() if key in RESULT_KEYS}
        text = json.dumps({**settings, "prompt": self.prompt(), "seed": self.seed}, sort_keys=True)
        start: list[str | bytes] = [text]
        if self.config.lora is not None and (Path(self.config.lora) / WEIGHTS).is_file():
            start.append((Path(self.config.lora) / WEIGHTS).read_bytes())
        return [files.digest(*start, picture.cpu().numpy().tobytes()) for picture in views.rgba]

    def _report(self, folder: Path, views: ViewSet, names: list[str], done: dict[str, str]) -> None:
        """Write sharpness before and after, how far the views moved, and a sheet: before above after."""
        after = torch.stack([read_rgba(folder / name) for name in names])
        before = views.rgba.cpu()
        figures = {
            "sharpness_before": sharpness(before).mean().item(),
            "sharpness_after": sharpness(after).mean().item(),
            "psnr_to_before": psnr(over(after), over(before)).clamp_max(100).mean().item(),
        }
        files.write_record(folder / RECORD, {**figures, "prompt": self.prompt(), "views": done})
        self.log_dict({f"train/{name}": value for name, value in figures.items()})
        eight = [(2 * i + 1) * len(names) // 16 for i in range(8)]
        rows = eight if len(names) > 8 else list(range(len(names)))
        pictures = torch.cat([over(before[rows]), over(after[rows])])
        write_picture(self.save_dir / f"{FOLDER}.png", contact_sheet(pictures, columns=len(rows)))
        say(
            "refined {} views: sharpness {sharpness_before:.3f} -> {sharpness_after:.3f}, "
            "{psnr_to_before:.1f} dB from what they were\n".format(len(names), **figures)
        )


RESULT_KEYS = (
    "pretrained_model_name_or_path",
    "lora_scale",
    "strength",
    "steps",
    "guidance_scale",
    "residual",
)


@torch.no_grad()
def refine_pictures(
    model: TextDenoiser,
    pictures: Float[Tensor, "B 3 H W"],
    prompts: tuple[Embedding, Embedding],
    noise: Float[Tensor, "B c h w"],
    config: RefineConfig,
) -> Float[Tensor, "B 3 H W"]:
    """Noise pictures in [0, 1] and denoise them under ``prompts``, (prompt, empty prompt); see the module's head."""
    alphas, size = model.alphas_cumprod, pictures.shape[-2:]
    z = model.encode(pictures)
    times = last_times(config.steps, config.strength, len(alphas))
    denoised = z
    if times:
        at = torch.full((len(z),), times[0], device=z.device, dtype=torch.long)
        fn = guided_fn(
            conditional_eps(model, prompts[0]), conditional_eps(model, prompts[1]), config.guidance_scale
        )
        denoised = ddim_sample(fn, add_noise(z, noise, alphas, at), times, alphas)
    decoded = model.decode(denoised)
    if config.residual is not None:
        change = resample(decoded - model.decode(z), size)
        return (pictures + config.residual * change).clamp(0, 1)
    return resample(decoded, size).clamp(0, 1)


def last_times(steps: int, strength: float, count: int = 1000) -> list[int]:
    """Return the last ``strength`` of DDIM's falling times: 199, 179, ..., 19 for 50 steps and 0.2."""
    return ddim_timesteps(steps, count - 1)[steps - round(strength * steps) :]


def resample(picture: Float[Tensor, "B 3 h w"], size: torch.Size) -> Float[Tensor, "B 3 H W"]:
    """Return pictures at another size, bicubic, antialiased; values may overshoot."""
    if picture.shape[-2:] == size:
        return picture
    return torch.nn.functional.interpolate(
        picture, tuple(size), mode="bicubic", align_corners=False, antialias=True
    )


def unmix_white(
    picture: Float[Tensor, "B 3 H W"], alpha: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 4 H W"]:
    """Return straight RGBA that shows ``picture`` over white; colors of half-covered pixels are unmixed from white."""
    return unpremultiply((picture - (1 - alpha)).clamp_min(0), alpha)


# ----------------------------------------------------------------------------------------------------------- record


def pictures_with_keys(folder: Path, keys: list[str]) -> dict[str, str]:
    """Return names and keys of the pictures in ``folder`` that were made with these keys."""
    views = (files.read_record(folder / RECORD) or {}).get("views")
    record = views if isinstance(views, dict) else {}
    names = {f"{index:04d}.png": key for index, key in enumerate(keys)}
    return {name: key for name, key in names.items() if record.get(name) == key and (folder / name).is_file()}
