"""``clip-system``: trains the embedded CLIP, whose towers the embedded diffusion models are conditioned by.

Besides the contrastive loss (arXiv 2103.00020) the picture's embedding is asked, through a linear map, from which side
and height it sees the toy: captions say it in eight words only, and Zero-1-to-3 needs it finer.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.toybox import ToyViews
from usd.system.pretraining.model_training import ModelTraining, half, save_half
from usd.toybox.vocabulary import MAX_TOKENS, SPECIAL, known_words, make_tokenizer, save_tokenizer, tokenize

if TYPE_CHECKING:
    from transformers import CLIPModel

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
HARMONICS = 3
VIEW_READER = "view_reader.safetensors"


class ViewReadingClip(nn.Module):
    """A CLIP, and the linear map that reads the view from the picture's embedding."""

    def __init__(self, clip: "CLIPModel") -> None:
        super().__init__()
        self.clip = clip
        self.view = nn.Linear(clip.config.projection_dim, 2 * HARMONICS + 1)

    def picture(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Return embeddings as Zero-1-to-3 takes them (not normalized)."""
        pooled = self.clip.vision_model((pictures - 0.5) / 0.5).pooler_output
        return self.clip.visual_projection(pooled)

    def text(self, ids: Tensor) -> Float[Tensor, "B D"]:
        """Return embeddings of tokenized captions (not normalized)."""
        return self.clip.text_projection(self.clip.text_model(ids).pooler_output)


@register("clip-system")
class ClipSystem(ModelTraining["ClipSystem.Config", ToyViews, ToyViews, ViewReadingClip]):
    """Training of both towers from scratch on captioned views."""

    @dataclass(frozen=True)
    class Config(ModelTraining.Config):
        """Shape of the towers, and the losses."""

        projection_dim: int = option(256, "width of the shared embedding", ge=1, le=8192)
        text_width: int = option(128, "width of the text tower", ge=64, le=8192)
        text_layers: int = option(2, "layers of the text tower", ge=1, le=64)
        vision_width: int = option(192, "width of the image tower", ge=64, le=8192)
        vision_layers: int = option(4, "layers of the image tower", ge=1, le=64)
        patch_px: int = option(8, "side of an image patch", ge=2, le=4096)
        image_size: int = option(64, "side of the pictures in pixels", ge=8, le=4096)
        view_words: float = option(0.7, "share of captions that say the view", ge=0, le=1)
        lambda_contrastive: float = option(1.0, "weight of the contrastive loss", ge=0)
        lambda_view: float = option(1.0, "weight of reading the view from the embedding", ge=0)

    def build_network(self) -> ViewReadingClip:
        """Build both towers, untrained."""
        from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

        c = self.config
        self.tokenizer = make_tokenizer()
        text = CLIPTextConfig(
            vocab_size=len(SPECIAL) + len(known_words()), hidden_size=c.text_width, intermediate_size=4 * c.text_width,
            num_hidden_layers=c.text_layers, num_attention_heads=c.text_width // 64,
            max_position_embeddings=MAX_TOKENS, pad_token_id=0, bos_token_id=1, eos_token_id=3,
            projection_dim=c.projection_dim,
        )  # fmt: skip
        vision = CLIPVisionConfig(
            hidden_size=c.vision_width, intermediate_size=4 * c.vision_width, num_hidden_layers=c.vision_layers,
            num_attention_heads=c.vision_width // 64, image_size=c.image_size, patch_size=c.patch_px,
            projection_dim=c.projection_dim,
        )  # fmt: skip
        config = CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=c.projection_dim
        )
        config._attn_implementation = "eager"  # scaled_dot_product_attention is slow backwards on a CPU
        return ViewReadingClip(CLIPModel(config))

    @override
    def compute(self, batch: ToyViews, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the contrastive loss and the error of views that are read from embeddings."""
        assert batch.pictures is not None
        chosen = (
            torch.rand(len(batch.captions), generator=generator, device=generator.device)
            < self.config.view_words
        )
        ids = tokenize(self.tokenizer, batch.captions_with_views(chosen.tolist())).to(self.device)
        with self.autocast():
            picture, text = self.network.picture(batch.pictures), self.network.text(ids)
            view = self.network.view(picture).float()
        scale = self.network.clip.logit_scale.exp().clamp(max=100)
        contrast, hits = contrastive(picture.float(), text.float(), scale)
        self.figures["retrieval"] = hits
        error = (view - view_targets(batch)).square().mean(1)[batch.named].mean()
        return {
            "contrastive": self.config.lambda_contrastive * contrast,
            "view": self.config.lambda_view * error,
        }

    @override
    @torch.no_grad()
    def validate(self, batch: ToyViews, index: int) -> None:
        """Report how often a picture finds its caption, and the error of azimuths."""
        assert batch.pictures is not None
        ids = tokenize(self.tokenizer, batch.captions).to(self.device)
        picture, text = self.average.picture(batch.pictures), self.average.text(ids)
        view = self.average.view(picture)[batch.named]
        azimuth = torch.atan2(view[:, 0], view[:, 1])
        turn = torch.atan2(
            torch.sin(azimuth - batch.facing[batch.named]), torch.cos(azimuth - batch.facing[batch.named])
        )
        distinct = {c: i for i, c in reversed(list(enumerate(batch.captions)))}
        rows = list(distinct.values())
        similarity = nn.functional.normalize(picture, dim=1) @ nn.functional.normalize(text[rows], dim=1).T
        nearest = [list(distinct)[k] for k in similarity.argmax(1).tolist()]
        right = sum(a == b for a, b in zip(nearest, batch.captions, strict=True)) / len(nearest)
        self.log_validation(
            {"caption_retrieval": right, "azimuth_error_deg": turn.abs().rad2deg().median().item()}
        )

    def publish(self, folder: Path) -> None:
        """Write a CLIP of transformers, and beside it the reader of views."""
        save_half(self.average.clip, folder)
        save_tokenizer(folder)
        reader = {key: value.contiguous() for key, value in half(self.average.view).state_dict().items()}
        save_file(reader, folder / VIEW_READER)
        (folder / "preprocessor_config.json").write_text(
            json.dumps(preprocessor(self.config.image_size), indent=2)
        )


def preprocessor(size: int) -> dict[str, object]:
    """Return the configuration that ``CLIPImageProcessor`` reads."""
    return {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"height": size, "width": size},
        "resample": 3, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD), "do_convert_rgb": True,
    }  # fmt: skip


def view_targets(batch: ToyViews) -> Float[Tensor, "B K"]:
    """Return sin and cos of the first multiples of the azimuth from the toy's front, and the elevation."""
    k = torch.arange(1, HARMONICS + 1, device=batch.facing.device)
    angle = batch.facing[:, None] * k
    waves = torch.stack([torch.sin(angle), torch.cos(angle)], -1).flatten(1)
    return torch.cat([waves, batch.cameras.spherical.elevation[:, None]], 1)


def contrastive(
    picture: Float[Tensor, "B D"], text: Float[Tensor, "B D"], scale: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], float]:
    """Return the symmetric cross entropy over a batch, and how often a picture finds its own text."""
    logits = scale * nn.functional.normalize(picture, dim=1) @ nn.functional.normalize(text, dim=1).T
    own = torch.arange(len(logits), device=logits.device)
    loss = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
    return loss, float((logits.argmax(1) == own).float().mean())
