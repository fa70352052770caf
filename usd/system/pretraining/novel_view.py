"""``novel-view-system``: fine-tunes the embedded Stable Diffusion into the embedded Zero-1-to-3 (arXiv 2303.11328).

As in the original the UNet gets the reference latent beside x_t (new input channels zero at first) and, for its text,
tokens made of the reference's CLIP embedding and the relative camera; both are dropped for a share of the samples.
What a small model needs besides is configuration: of ``CameraProjection``, and a ``ViewVolume`` trained before.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.toybox import ToyViews, ViewPairs
from usd.denoiser.attention import plain_attention
from usd.denoiser.components import open_components
from usd.denoiser.view_volume import VOLUME, load_volume, write_volume, wrong_azimuths
from usd.denoiser.weights import load_network, read_json, weights_folder
from usd.denoiser.zero123 import load_projection
from usd.denoiser.zero123_condition import CameraProjection, CameraProjectionConfig, relative_pose
from usd.evaluation.metrics import psnr
from usd.math.camera import Cameras
from usd.math.diffusion import (
    EpsFn,
    ddim_sample,
    ddim_timesteps,
    eps_from_v,
    guided_fn,
    scaled_linear_alphas_cumprod,
)
from usd.system.pretraining.clip import VIEW_READER, preprocessor
from usd.system.pretraining.diffusion_training import (
    draw_timesteps,
    error_by_noise,
    noise_and_target,
    write_scheduler,
)
from usd.system.pretraining.model_training import ModelTraining, half, save_half, write_rows

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

POSE_TIMES = (500, 700, 850)
LAYOUT = "clip_camera_projection"
CONDITIONAL = ("projection.", "unet.conv_in.", "unet.class_embedding.")


@dataclass(frozen=True)
class ProjectionShape:
    """Shape of the projection from reference and pose to the UNet; see ``CameraProjectionConfig``."""

    type: Literal["linear", "steered"] = option("steered", "kind of projection: linear or steered")
    tokens: int = option(8, "tokens that carry embedding and pose", ge=1, le=1024)
    harmonics: int = option(3, "multiples of the azimuth difference that steer features", ge=1, le=100)
    channels: int = option(
        32, "pairs of features turned by each multiple of the azimuth difference", ge=1, le=8192
    )
    hidden: int = option(512, "width of the projection's hidden layer", ge=1, le=65536)
    patch_tokens: bool = option(True, "append the image tower's patch tokens to those of the projection")
    time_width: int = option(128, "width of the vector for the time embedding; 0 for none", ge=0, le=8192)


@dataclass(frozen=True)
class Condition:
    """Condition of B targets: CLIP embedding, patch tokens, pose, and the channels beside x_t.

    ``beside`` is the reference latent, and the hint of the view volume where there is one.
    """

    embedding: Float[Tensor, "B D"]
    patches: Float[Tensor, "B T E"]
    pose: Float[Tensor, "B 4"]
    beside: Float[Tensor, "B c h w"]


class NovelView(nn.Module):
    """UNet and projection, which learn together."""

    unet: "UNet2DConditionModel"
    projection: CameraProjection

    def __init__(self, unet: "UNet2DConditionModel", projection: CameraProjection) -> None:
        super().__init__()
        self.unet, self.projection = unet, projection

    def forward(
        self,
        xt: Tensor,
        t: Tensor,
        condition: Condition,
        keep_tokens: Tensor | None = None,
        keep_beside: Tensor | None = None,
    ) -> Tensor:
        """Return the v of x_t. ``keep_*`` (B,) of 0 and 1 drop conditions; unconditional is zeros for all of them."""
        tokens, time = self.projection(condition.embedding, condition.patches, condition.pose)
        beside = condition.beside
        if keep_tokens is not None:
            tokens = tokens * keep_tokens[:, None, None].to(tokens)
            time = None if time is None else time * keep_tokens[:, None].to(time)
        if keep_beside is not None:
            beside = beside * keep_beside[:, None, None, None]
        x = torch.cat([xt, beside.to(xt)], 1)
        return self.unet(x, t, encoder_hidden_states=tokens, class_labels=time).sample

    def learn_condition(self, learns: bool) -> None:
        """Let the conditional path learn or not: all that only it uses, and the input layer that takes ``beside``."""
        for name, parameter in self.named_parameters():
            if name.startswith(CONDITIONAL) or ".attn2." in name:
                parameter.requires_grad_(learns)


@register("novel-view-system")
class NovelViewSystem(ModelTraining["NovelViewSystem.Config", ViewPairs, ToyViews, NovelView]):
    """Fine-tuning of Stable Diffusion into Zero-1-to-3, by default of ``load/toybox/stable-diffusion``."""

    transient = ModelTraining.transient | {"tower", "volume"}

    @dataclass(frozen=True)
    class Config(ModelTraining.Config):
        """Models to start from, and how conditions and times are drawn."""

        start_from: str = option(
            "load/toybox/stable-diffusion", "Stable Diffusion folder to fine-tune", path=True
        )
        clip: str = option(
            "load/toybox/clip", "folder of the CLIP whose image tower reads the reference", path=True
        )
        volume: str | None = option(
            None,
            "folder of a view volume (configs/toybox/view_volume.yaml) whose hint lies beside x_t",
            path=True,
        )
        projection: ProjectionShape = option(
            {}, "shape of the projection that gives reference and pose to the network"
        )
        share_autoencoder: bool = option(
            False, "publish a pointer to the base model's autoencoder in place of a copy"
        )
        drop_all: float = option(0.1, "share of samples without any condition", ge=0, le=1)
        drop_tokens: float = option(0.05, "share of samples without embedding and pose", ge=0, le=1)
        drop_beside: float = option(0.05, "share of samples without reference latent and hint", ge=0, le=1)
        drop_below: int = option(
            1000,
            "noise level, of 1000, from which on no sample lacks its conditions; 1000: anywhere",
            ge=0,
            le=1000,
        )
        freeze_condition_after: int | None = option(
            None,
            "step after which the conditional path learns no more: projection, cross-attention, input layer",
            ge=0,
        )
        high_noise_share: float = option(0.5, "share of times drawn from above 450 of 1000 only", ge=0, le=1)

    def build_network(self) -> NovelView:
        """Build UNet and projection, from Stable Diffusion or an earlier training."""
        from diffusers import UNet2DConditionModel
        from transformers import CLIPVisionModelWithProjection

        base = Path(self.config.start_from)
        self.tower = CLIPVisionModelWithProjection.from_pretrained(
            self.config.clip, torch_dtype=torch.float32, attn_implementation="eager"
        )
        self.tower.requires_grad_(False).eval()
        self.volume = load_volume(Path(self.config.volume)) if self.config.volume else None
        unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
        if (base / LAYOUT).is_dir():
            return NovelView(plain_attention(unet), load_projection(open_components(base)))
        projection = CameraProjection(self._projection_config(unet))
        reader = Path(self.config.clip) / VIEW_READER
        if projection.config.type == "steered" and reader.is_file():
            projection.read_view_from(load_file(reader))
        beside = unet.config.in_channels + (self.volume.config.hint if self.volume else 0)
        return NovelView(widen(unet, beside, projection.config.time_width), projection)

    def _projection_config(self, unet: "UNet2DConditionModel") -> CameraProjectionConfig:
        """Return the projection between the image tower and the UNet."""
        shape, vision = self.config.projection, self.tower.config
        return CameraProjectionConfig(
            embedding_dim=vision.projection_dim,
            width=unet.config.cross_attention_dim,
            type=shape.type,
            tokens=shape.tokens,
            harmonics=shape.harmonics,
            channels=shape.channels,
            hidden=shape.hidden,
            patch_dim=vision.hidden_size if shape.patch_tokens else 0,
            time_width=shape.time_width,
        )

    @torch.no_grad()
    def condition(
        self,
        pictures: Float[Tensor, "R 3 H W"],
        latents: Float[Tensor, "R c h w"],
        reference: Cameras,
        target: Cameras,
    ) -> Condition:
        """Return the condition of R * k targets: target j belongs to reference j // k."""
        k = len(target) // len(reference)
        with self.autocast():
            features = self.tower((pictures - 0.5) / 0.5)
            beside = latents.repeat_interleave(k, 0)
            if self.volume is not None:
                views = self.volume.see(self.volume.lift(pictures, reference), reference, target)
                beside = torch.cat([beside, views.hint], 1)
        rows = torch.arange(len(reference), device=target.device).repeat_interleave(k)
        return Condition(
            features.image_embeds.float()[rows],
            features.last_hidden_state[:, 1:].float()[rows],
            relative_pose(target, reference[rows]),
            beside,
        )

    @override
    def compute(self, batch: ViewPairs, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the squared error of v."""
        reference, x0, latents = batch.reference, batch.target.latents, batch.reference.latents
        assert x0 is not None and latents is not None and reference.pictures is not None
        condition = self.condition(reference.pictures, latents, reference.cameras, batch.target.cameras)
        draw = torch.rand(len(x0), generator=generator, device=generator.device).to(self.device)
        t = draw_timesteps(len(x0), self.config.high_noise_share, generator, self.device)
        keep_tokens, keep_beside = kept_conditions(self.config, draw, t)
        if self.config.freeze_condition_after is not None:
            self.network.learn_condition(step < self.config.freeze_condition_after)
        xt, v = noise_and_target(x0, t, generator)
        with self.autocast():
            output = self.network(xt, t, condition, keep_tokens, keep_beside)
        error = (output.float() - v).square().mean(dim=(1, 2, 3))
        self.figures.update(error_by_noise(error.detach(), t))
        return {"v": error.mean()}

    # ------------------------------------------------------------------------------------------------ validation

    @override
    @torch.no_grad()
    def validate(self, batch: ToyViews, index: int) -> None:
        """Report pose sensitivity on held-out toys, and PSNR of sampled views beside copying; write a sheet."""
        pictures = batch.pictures
        assert pictures is not None
        vae = self._autoencoder().to(self.device).eval()
        n_views = batch.views_each()
        first = torch.arange(0, len(pictures), n_views)
        target = torch.tensor([i for i in range(len(pictures)) if i % n_views], device=self.device)
        latents = vae.encode(pictures * 2 - 1).latent_dist.mode()
        repeats = n_views - 1

        def condition(cameras: Cameras) -> Condition:
            return self.condition(pictures[first], latents[first], batch.cameras[first], cameras)

        true, theirs = condition(batch.cameras[target]), batch.cameras[first.repeat_interleave(repeats)]
        wrong = {
            name: condition(cameras)
            for name, cameras in wrong_azimuths(batch.cameras[target], theirs).items()
        }
        figures = self._pose_figures(latents[target], true, wrong, batch.named[target])
        copied = pictures[first].repeat_interleave(repeats, 0)
        made = self._sample(true, vae)
        figures["psnr"] = psnr(made, pictures[target]).mean().item()
        figures["psnr_of_copying"] = psnr(copied, pictures[target]).mean().item()
        self.log_validation(figures)
        k = min(16, len(first))
        views = pictures.view(len(first), n_views, *pictures.shape[1:])
        made = made.view(len(first), repeats, *pictures.shape[1:])
        rows = [views[:k, 0]] + [r for j in range(repeats) for r in (views[:k, j + 1], made[:k, j])]
        write_rows(rows, self.sheet_path("views"))

    def _pose_figures(
        self, x0: Tensor, condition: Condition, wrong: dict[str, Condition], named: Tensor
    ) -> dict[str, float]:
        """Return the noise error with a wrong azimuth over that with the true one; 1 means the azimuth is ignored."""
        figures = {}
        for time in POSE_TIMES:
            t = torch.full((len(x0),), time, device=self.device)
            xt, v = noise_and_target(x0, t, torch.Generator("cpu").manual_seed(time))
            true = self._error(xt, v, t, condition)[named].mean()
            for name, other in wrong.items():
                figures[f"pose_{name}_{time}"] = (self._error(xt, v, t, other)[named].mean() / true).item()
            figures[f"error_{time}"] = true.item()
        return figures

    def _error(self, xt: Tensor, v: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the squared error of v, for each target."""
        with self.autocast():
            return (self.average(xt, t, condition).float() - v).square().mean(dim=(1, 2, 3))

    def _sample(
        self, condition: Condition, vae: "AutoencoderKL", scale: float = 1.5, steps: int = 20
    ) -> Tensor:
        """Return guided pictures of the targets."""
        alphas = scaled_linear_alphas_cumprod().to(self.device)
        shape = (len(condition.pose), self.average.unet.config.out_channels, *condition.beside.shape[2:])
        noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(1)).to(self.device)
        unconditional = torch.zeros(len(noise), device=self.device)

        def predictor(keep: Tensor | None) -> EpsFn:
            return lambda xt, t: eps_from_v(xt, self.average(xt, t, condition, keep, keep).float(), alphas, t)

        with self.autocast():
            z = ddim_sample(
                guided_fn(predictor(None), predictor(unconditional), scale),
                noise,
                ddim_timesteps(steps),
                alphas,
            )
            return (vae.decode(z).sample.float() / 2 + 0.5).clamp(0, 1)

    def publish(self, folder: Path) -> None:
        """Write the layout of published Zero-1-to-3 folders; the autoencoder is the base model's."""
        save_half(self.average.unet, folder / "unet")
        save_half(self.tower, folder / "image_encoder")
        projection, place = half(self.average.projection), folder / LAYOUT
        place.mkdir(parents=True, exist_ok=True)
        save_file(projection.state_dict(), place / "diffusion_pytorch_model.safetensors")
        config = asdict(self.average.projection.config)
        (place / "config.json").write_text(
            json.dumps({"_class_name": "CameraProjection", **config}, indent=2)
        )
        if self.volume is not None:
            write_volume(half(self.volume), folder / VOLUME)
        write_scheduler(folder / "scheduler")
        extractor = folder / "feature_extractor"
        extractor.mkdir(exist_ok=True)
        size = preprocessor(self.tower.config.image_size)
        (extractor / "preprocessor_config.json").write_text(json.dumps(size, indent=2))
        self._publish_autoencoder(folder / "vae")
        (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2))

    def _autoencoder(self) -> "AutoencoderKL":
        """Read the base model's autoencoder."""
        return load_network("diffusers", "AutoencoderKL", Path(self.config.start_from) / "vae").float()

    def _publish_autoencoder(self, place: Path) -> None:
        """Write a copy, or its configuration with a pointer to the base model's weights."""
        if not self.config.share_autoencoder:
            save_half(self._autoencoder(), place)
            return
        owner = weights_folder(Path(self.config.start_from) / "vae")
        if owner.resolve() == place.resolve():
            return
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        config = read_json(owner / "config.json") | {"weights_of": os.path.relpath(owner, place)}
        (place / "config.json").write_text(json.dumps(config, indent=2))


def kept_conditions(
    config: NovelViewSystem.Config, draw: Float[Tensor, "B"], t: Int[Tensor, "B"]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Return 1 where uniform draws keep the tokens of a condition, and the picture beside x_t; else 0.

    At noise levels from ``drop_below`` up all are kept.
    """
    tokens_end = config.drop_all + config.drop_tokens
    beside_end = tokens_end + config.drop_beside
    beside, high = (
        (draw >= config.drop_all) & ((draw < tokens_end) | (draw >= beside_end)),
        t >= config.drop_below,
    )
    return ((draw >= tokens_end) | high).float(), (beside | high).float()


MODEL_INDEX = {
    "_class_name": "Zero123Pipeline",
    "clip_camera_projection": ["usd.denoiser.zero123_condition", "CameraProjection"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@torch.no_grad()
def widen(unet: "UNet2DConditionModel", beside: int, time_width: int) -> "UNet2DConditionModel":
    """Return the UNet with ``beside`` more input channels and, if wanted, a vector beside the time.

    At first it computes what it did.
    """
    from diffusers import UNet2DConditionModel

    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    config |= {"in_channels": unet.config.in_channels + beside}
    if time_width:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": time_width}
    wide = UNet2DConditionModel(**config)
    weights = dict(unet.state_dict())
    old = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([old, old.new_zeros(len(old), beside, *old.shape[2:])], 1)
    wide.load_state_dict(weights, strict=False)
    if time_width:
        last = wide.class_embedding.linear_2
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return plain_attention(wide)
