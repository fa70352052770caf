"""``text-to-image-system``: trains the embedded Stable Diffusion on captioned toys.

Captions are dropped for a share of the samples, so that the unconditional prediction (empty prompt) is a real prior.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.toybox import ToyViews
from usd.denoiser.attention import plain_attention
from usd.math.diffusion import (
    EpsFn,
    ddim_sample,
    ddim_timesteps,
    eps_from_v,
    guided_fn,
    scaled_linear_alphas_cumprod,
)
from usd.system.pretraining.diffusion_training import (
    draw_timesteps,
    error_by_noise,
    make_unet,
    noise_and_target,
    write_scheduler,
)
from usd.system.pretraining.model_training import ModelTraining, save_half, write_rows
from usd.toybox.objects import says_normals
from usd.toybox.vocabulary import make_tokenizer, save_tokenizer, tokenize

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

PROMPTS = (
    "a red car with a blue roof", "a yellow duck with an orange beak and red wings", "a green chair with black legs",
    "a blue mug with a white handle", "a pink house with a gray roof", "a purple robot with yellow arms",
    "a white airplane with red wings, from the left", "a teal owl with a white belly",
    "normals of a red car with a blue roof, from the front left", "normals of a teal owl, from the front", "",
)  # fmt: skip


class TextToImage(nn.Module):
    """UNet and text encoder, which learn together."""

    unet: "UNet2DConditionModel"
    text_encoder: "CLIPTextModel"

    def __init__(self, unet: "UNet2DConditionModel", text_encoder: "CLIPTextModel") -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, xt: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Return the v of x_t under tokenized captions."""
        tokens = self.text_encoder(ids)[0]
        return self.unet(xt, t, encoder_hidden_states=tokens).sample


def drop_caption(caption: str, dropped: bool) -> str:
    """Return the caption, or an empty one if it is ``dropped`` and does not speak of normals.

    The empty caption is that of pictures only, so that what is subtracted from their score never speaks of normals.
    """
    return "" if dropped and not says_normals(caption) else caption


@register("text-to-image-system")
class TextToImageSystem(ModelTraining["TextToImageSystem.Config", ToyViews, ToyViews, TextToImage]):
    """Training of the UNet from scratch (or from ``start_from``), with the text tower of the embedded CLIP."""

    @dataclass(frozen=True)
    class Config(ModelTraining.Config):
        """Shape of the UNet, and how captions and times are drawn."""

        channels: tuple[int, ...] = option(
            (64, 128, 192), "feature channels of each resolution", ge=1, le=8192
        )
        latent_size: int = option(16, "side of the latents", ge=4, le=1024)
        text_encoder: str = option(
            "load/toybox/clip", "folder of the CLIP whose text tower is taken", path=True
        )
        autoencoder: str = option(
            "load/toybox/stable-diffusion/vae", "folder of the autoencoder (for sheets)", path=True
        )
        start_from: str | None = option(None, "folder with unet and text_encoder to go on from", path=True)
        caption_dropout: float = option(
            0.15, "share of pictures without a caption (not of normals)", ge=0, le=1
        )
        view_words: float = option(0.6, "share of captions that say the view", ge=0, le=1)
        high_noise_share: float = option(0.3, "share of times drawn from above 450 of 1000 only", ge=0, le=1)
        sample_scale: float = option(3.0, "guidance scale of the sheets", ge=0, le=10000)

    def build_network(self) -> TextToImage:
        """Build both networks, untrained or as ``start_from`` has them."""
        self.tokenizer = make_tokenizer()
        if self.config.start_from:
            folder = Path(self.config.start_from)
            from diffusers import UNet2DConditionModel

            unet = plain_attention(
                UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
            )
            return TextToImage(unet, read_text_encoder(folder / "text_encoder"))
        text = read_text_encoder(Path(self.config.text_encoder))
        unet = make_unet(self.config.channels, 4, self.config.latent_size, text.config.hidden_size)
        return TextToImage(unet, text)

    @override
    def compute(self, batch: ToyViews, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the squared error of v."""
        assert batch.latents is not None
        count = len(batch.captions)
        uniform = torch.rand(2, count, generator=generator, device=generator.device)
        captions = batch.captions_with_views((uniform[0] < self.config.view_words).tolist())
        dropped = (uniform[1] < self.config.caption_dropout).tolist()
        captions = [drop_caption(c, is_dropped) for c, is_dropped in zip(captions, dropped, strict=True)]
        ids = tokenize(self.tokenizer, captions).to(self.device)
        t = draw_timesteps(count, self.config.high_noise_share, generator, self.device)
        xt, v = noise_and_target(batch.latents, t, generator)
        with self.autocast():
            output = self.network(xt, t, ids)
        error = (output.float() - v).square().mean(dim=(1, 2, 3))
        self.figures.update(error_by_noise(error.detach(), t))
        return {"v": error.mean()}

    @override
    @torch.no_grad()
    def validate(self, batch: ToyViews, index: int) -> None:
        """Write a sheet of samples."""
        from diffusers import AutoencoderKL

        ids = tokenize(self.tokenizer, list(PROMPTS)).to(self.device)
        vae = AutoencoderKL.from_pretrained(self.config.autoencoder, torch_dtype=torch.float32).to(
            self.device
        )
        source = torch.Generator("cpu").manual_seed(0)
        side = self.config.latent_size
        rows = [
            self._sample(ids, torch.randn(len(ids), 4, side, side, generator=source), vae) for _ in range(4)
        ]
        write_rows(rows, self.sheet_path("samples"))

    def _sample(self, ids: Tensor, noise: Tensor, vae: "AutoencoderKL") -> Tensor:
        """Return guided pictures of tokenized captions."""
        alphas = scaled_linear_alphas_cumprod().to(self.device)
        empty = tokenize(self.tokenizer, [""] * len(ids)).to(self.device)

        def predictor(captions: Tensor) -> EpsFn:
            return lambda xt, t: eps_from_v(xt, self.average(xt, t, captions).float(), alphas, t)

        fn = guided_fn(predictor(ids), predictor(empty), self.config.sample_scale)
        with self.autocast():
            z = ddim_sample(fn, noise.to(self.device), ddim_timesteps(25), alphas)
            return (vae.decode(z).sample.float() / 2 + 0.5).clamp(0, 1)

    def publish(self, folder: Path) -> None:
        """Write a Stable Diffusion folder."""
        save_half(self.average.unet, folder / "unet")
        save_half(self.average.text_encoder, folder / "text_encoder")
        save_tokenizer(folder / "tokenizer")
        write_scheduler(folder / "scheduler")
        (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2))


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "requires_safety_checker": False,
}


def read_text_encoder(folder: Path) -> "CLIPTextModel":
    """Read a text tower in float32 with plain attention, from its own folder or a whole CLIP's."""
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
