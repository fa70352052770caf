"""Zero-1-to-3: the noise predicted in a latent under a picture and the relative pose of the camera."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option, parse
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Reading, ViewDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput
from usd.denoiser.load import load_network, load_tensors, read_json, readable
from usd.denoiser.picture import ClipPicture
from usd.denoiser.view_volume import VOLUME, load_volume
from usd.denoiser.zero123_condition import (
    CameraProjection,
    CameraProjectionConfig,
    FourthNumber,
    relative_pose,
)
from usd.math.camera import Cameras

PROJECTIONS = ("clip_camera_projection", "cc_projection")  # the two published layouts


@dataclass(frozen=True)
class Zero123Reading(Reading):
    """The reference as Zero-1-to-3 knows it: CLIP embedding, patch tokens, unscaled latent, camera, view volume."""

    embedding: Float[Tensor, "1 D"]
    patches: Float[Tensor, "1 T E"]
    latent: Float[Tensor, "1 c h w"]
    cameras: Cameras
    volume: Float[Tensor, "1 C n n n"] | None = None


@register("zero123")
class Zero123Denoiser(LatentDenoiser, ViewDenoiser):
    """Zero-1-to-3 in either diffusers layout (``clip_camera_projection`` or ``cc_projection``)."""

    parts = ("unet", "vae", "image_encoder", "scheduler", "|".join(PROJECTIONS))

    @dataclass(frozen=True)
    class Config(LatentDenoiser.Config):
        fourth_number: FourthNumber = option(
            "distance",
            "last number of the pose: difference of distances, or Stable-Zero123's input polar angle",
        )

    def __init__(self, config: Config, name: str = "") -> None:
        super().__init__(config, name)
        folder = self.folder
        self.fourth_number = config.fourth_number
        self.image_encoder = Frozen(
            lambda: load_network("transformers", "CLIPVisionModelWithProjection", folder / "image_encoder"),
            config.running.weights,
            config.running,
        )
        self.projection = Frozen(lambda: load_projection(folder))
        place = folder / VOLUME
        self.volume = Frozen(lambda: load_volume(place)) if place.is_dir() else None
        self._vision = read_json(folder / "image_encoder" / "config.json")
        self._clip_picture = ClipPicture.from_folder(
            folder / "feature_extractor", int(self._vision["image_size"])
        )

    @torch.no_grad()
    def read(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> Zero123Reading:
        """The picture over white, in [0, 1], and the one camera it was taken by."""
        if len(cameras) != 1:
            raise ValueError(f"a reference has one camera, got {len(cameras)}")
        picture = self._clip_picture(rgb.float()).to(self.image_encoder.dtype(rgb.device))
        with torch.autocast(rgb.device.type, enabled=False), self.image_encoder.use(rgb.device) as encoder:
            seen = encoder(picture)
        patches = seen.last_hidden_state[:, 1:].float()
        volume = (
            None
            if self.volume is None
            else self.volume.on(rgb.device).lift(rgb.float(), cameras.to(rgb.device))
        )
        return Zero123Reading(seen.image_embeds.float(), patches, self.latent_mode(rgb), cameras, volume)

    @torch.no_grad()
    def embed_view(self, reading: Reading, cameras: Cameras) -> NetworkInput:
        assert isinstance(reading, Zero123Reading)
        device = reading.latent.device
        target, reference = cameras.to(device), reading.cameras.to(device)
        pose = relative_pose(target, reference, self.fourth_number)
        tokens, time = self._project(reading.embedding, reading.patches, pose)
        beside = reading.latent.expand(len(cameras), -1, -1, -1)
        if self.volume is not None and reading.volume is not None:
            hint = self.volume.on(device).see(reading.volume, reference, target).hint
            beside = torch.cat([beside, hint], 1)
        return NetworkInput(tokens, beside, time)

    @torch.no_grad()
    def unconditional(self, batch: int) -> NetworkInput:
        """Zeros for the tokens, the time embedding and all channels beside x_t."""
        like, vision = self.alphas_cumprod, self._vision
        patches = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
        tokens, time = self._project(
            like.new_zeros(1, int(vision["projection_dim"])),
            like.new_zeros(1, patches, int(vision["hidden_size"])),
            like.new_zeros(batch, 4),
        )
        space = self.latent
        beside = int(read_json(self.folder / "unet" / "config.json").get("in_channels", 8)) - space.channels
        latent = like.new_zeros(batch, beside, space.height, space.width)
        return NetworkInput(
            torch.zeros_like(tokens), latent, None if time is None else torch.zeros_like(time)
        )

    def release_encoders(self) -> None:
        self.image_encoder.drop()

    def _project(self, embedding: Tensor, patches: Tensor, pose: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens and time vector for each pose, float32."""
        projection = self.projection.on(pose.device)
        count = len(pose)
        rows = patches.expand(count, -1, -1) if projection.config.patch_tokens else None
        with torch.autocast(pose.device.type, enabled=False):
            return projection(embedding.expand(count, -1), rows, pose)


def load_projection(folder: Path) -> CameraProjection:
    """The camera projection of a Zero-1-to-3 folder, whichever layout it has. Raises UserError."""
    place = next((folder / name for name in PROJECTIONS if (folder / name).is_dir()), None)
    if place is None:
        raise UserError(
            f"{folder}: has neither {' nor '.join(PROJECTIONS)}; expected a Zero-1-to-3 diffusers folder"
        )
    weights = {_own_name(key): value for key, value in load_tensors(place).items()}
    projection = CameraProjection(_projection_config(folder, place))
    with readable(place, "a camera projection"):
        projection.load_state_dict({key: value.float() for key, value in weights.items()})
    return projection


def _own_name(key: str) -> str:
    """Layout B calls the layer ``projection``, layout A and we ``proj``."""
    return "proj." + key.removeprefix("projection.") if key.startswith("projection.") else key


def _projection_config(folder: Path, place: Path) -> CameraProjectionConfig:
    """Our own keys of its config.json; widths from the networks on either side; anything else is the original."""
    path = place / "config.json"
    said: dict[str, Any] = read_json(path) if path.is_file() else {}
    ours = {field.name: said[field.name] for field in fields(CameraProjectionConfig) if field.name in said}
    unet, vision = (
        read_json(folder / "unet" / "config.json"),
        read_json(folder / "image_encoder" / "config.json"),
    )
    widths = {
        "embedding_dim": vision.get("projection_dim", 768),
        "width": unet.get("cross_attention_dim", 768),
    }
    return parse(CameraProjectionConfig, {**widths, **ours}, str(path))
