"""Zero-1-to-3: the noise predicted in a latent under a picture and the relative pose of the camera."""

from dataclasses import dataclass, fields
from typing import ClassVar, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option, parse
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import EncodedReference, ViewDenoiser
from usd.denoiser.components import PROJECTION, PROJECTIONS, ModelComponents
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput, UNetConfig
from usd.denoiser.networks import ImageEncoder
from usd.denoiser.picture import ClipPicture
from usd.denoiser.single_file import STABLE
from usd.denoiser.view_volume import VOLUME, ViewVolume, load_volume
from usd.denoiser.weights import readable, whole
from usd.denoiser.zero123_condition import (
    CameraProjection,
    CameraProjectionConfig,
    PoseConvention,
    relative_pose,
)
from usd.math.camera import Cameras


@dataclass(frozen=True)
class Zero123Reference(EncodedReference):
    """The reference as Zero-1-to-3 knows it: CLIP embedding, patch tokens, unscaled latent, camera, view volume."""

    embedding: Float[Tensor, "1 D"]
    patches: Float[Tensor, "1 T E"]
    latent: Float[Tensor, "1 c h w"]
    cameras: Cameras
    volume: Float[Tensor, "1 C n n n"] | None = None


@register("zero123")
class Zero123Denoiser(LatentDenoiser["Zero123Denoiser.Config"], ViewDenoiser["Zero123Denoiser.Config"]):
    """Zero-1-to-3 in either diffusers layout (``clip_camera_projection`` or ``cc_projection``)."""

    components: ClassVar[tuple[str, ...]] = (
        "unet",
        "vae",
        "image_encoder",
        "scheduler",
        "|".join(PROJECTIONS),
    )

    @dataclass(frozen=True)
    class Config(UNetConfig):
        pose_convention: PoseConvention | None = option(
            None,
            "last number of the pose: difference of distances, or Stable-Zero123's input polar angle; "
            "unset: as the model's files say",
        )

    def __init__(self, config: Config, name: str = "") -> None:
        super().__init__(config, name)
        files, place = self.files, self.folder / VOLUME
        self.pose_convention: PoseConvention = config.pose_convention or stored_pose_convention(files)
        self.image_encoder: Frozen[ImageEncoder] = Frozen(
            lambda: files.network("image_encoder"), config.execution.weights, config.execution
        )
        self.projection: Frozen[CameraProjection] = Frozen(lambda: load_projection(files))
        self.volume: Frozen[ViewVolume] | None = (
            Frozen(lambda: load_volume(place)) if place.is_dir() else None
        )
        self.assumes_elevation = self.volume is not None
        self._vision = files.config("image_encoder")
        self._clip_picture = self._clip_input()

    @torch.no_grad()
    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> Zero123Reference:
        """Return what is kept of the picture over white, in [0, 1], and of the one camera it was taken by."""
        if len(cameras) != 1:
            raise ValueError(f"a reference has one camera, got {len(cameras)}")
        picture = self._clip_picture(rgb.float()).to(self.image_encoder.dtype(rgb.device))
        with torch.autocast(rgb.device.type, enabled=False), self.image_encoder.use(rgb.device) as encoder:
            output = encoder(picture)
        patches = output.last_hidden_state[:, 1:].float()
        volume = (
            None
            if self.volume is None
            else self.volume.on(rgb.device).lift(rgb.float(), cameras.to(rgb.device))
        )
        return Zero123Reference(output.image_embeds.float(), patches, self.latent_mode(rgb), cameras, volume)

    @torch.no_grad()
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> NetworkInput:
        """Return tokens of picture and relative pose, the reference's latent, and the hint of a view volume."""
        assert isinstance(reference, Zero123Reference)
        device = reference.latent.device
        target, source = cameras.to(device), reference.cameras.to(device)
        pose = relative_pose(target, source, self.pose_convention)
        tokens, time = self._project(reference.embedding, reference.patches, pose)
        channels = reference.latent.expand(len(cameras), -1, -1, -1)
        if self.volume is not None and reference.volume is not None:
            hint = self.volume.on(device).see(reference.volume, source, target).hint
            channels = torch.cat([channels, hint], 1)
        return NetworkInput(tokens, channels, time)

    @torch.no_grad()
    def expected_latents(
        self, reference: EncodedReference, cameras: Cameras
    ) -> Float[Tensor, "B c h w"] | None:
        """Return the latents that the view volume shows, which it was trained on; None without one."""
        assert isinstance(reference, Zero123Reference)
        if self.volume is None or reference.volume is None:
            return None
        device = reference.latent.device
        hint = (
            self.volume.on(device)
            .see(reference.volume, reference.cameras.to(device), cameras.to(device))
            .hint
        )
        return hint[:, : self.latent.channels]

    @torch.no_grad()
    def unconditional(self, batch: int) -> NetworkInput:
        """Return zeros for the tokens, the time embedding and all channels beside x_t."""
        like, vision = self.alphas_cumprod, self._vision
        patches = (whole(vision, "image_size") // whole(vision, "patch_size")) ** 2
        tokens, time = self._project(
            like.new_zeros(1, whole(vision, "projection_dim")),
            like.new_zeros(1, patches, whole(vision, "hidden_size")),
            like.new_zeros(batch, 4),
        )
        space = self.latent
        channels = whole(self.files.config("unet"), "in_channels", 8) - space.channels
        latent = like.new_zeros(batch, channels, space.height, space.width)
        return NetworkInput(
            torch.zeros_like(tokens), latent, None if time is None else torch.zeros_like(time)
        )

    def _clip_input(self) -> ClipPicture:
        """Return how CLIP's picture is made: as in training, or as pipelines of ``clip_camera_projection`` do."""
        original = self.files.projection_layout() == PROJECTIONS[1]
        return ClipPicture.from_folder(
            self.folder / "feature_extractor",
            whole(self._vision, "image_size"),
            self.latent.image_size if original else None,
        )

    def release_encoders(self) -> None:
        """Free the image encoder; it is loaded again when needed."""
        self.image_encoder.drop()

    def _project(self, embedding: Tensor, patches: Tensor, pose: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return tokens and time vector for each pose, float32."""
        projection = self.projection.on(pose.device)
        count = len(pose)
        rows = patches.expand(count, -1, -1) if projection.config.patch_tokens else None
        with torch.autocast(pose.device.type, enabled=False):
            return projection(embedding.expand(count, -1), rows, pose)


def load_projection(files: ModelComponents) -> CameraProjection:
    """Return the camera projection of a Zero-1-to-3 model, whichever layout it has. Raises UserError."""
    if not files.has(PROJECTION):
        raise UserError(
            f"{files.place}: has neither {' nor '.join(PROJECTIONS)}; expected a Zero-1-to-3 diffusers folder"
        )
    weights = files.tensors(PROJECTION)
    projection = CameraProjection(_projection_config(files))
    with readable(files.source(PROJECTION), "a camera projection"):
        projection.load_state_dict({key: value.float() for key, value in weights.items()})
    return projection


def stored_pose_convention(files: ModelComponents) -> PoseConvention:
    """Return the pose's last number as the model's files say, else as its name says. Raises UserError."""
    stable = STABLE.search(files.place.name) or STABLE.search(
        files.place.parent.parent.name
    )  # a hub's snapshot
    found = files.config(PROJECTION).get("fourth_number", "input-polar" if stable else "distance")
    if found not in get_args(PoseConvention):
        raise UserError(
            f"{files.source(PROJECTION)}: pose_convention '{found}' is not known; "
            f"expected {' or '.join(get_args(PoseConvention))}"
        )
    return cast(PoseConvention, found)


def _projection_config(files: ModelComponents) -> CameraProjectionConfig:
    """Return our own keys of its config.json, and widths from the networks on either side; the rest is the original."""
    config = files.config(PROJECTION)
    ours = {
        field.name: config[field.name] for field in fields(CameraProjectionConfig) if field.name in config
    }
    widths = {
        "embedding_dim": files.config("image_encoder").get("projection_dim", 768),
        "width": files.config("unet").get("cross_attention_dim", 768),
    }
    return parse(CameraProjectionConfig, {**widths, **ours}, str(files.source(PROJECTION)))
