"""Wonder3D (arXiv 2310.15008): six orthographic views of a picture at once, their normals and their colors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Render
from usd.denoiser import EncodedReference, GroupConventions, ViewGroupDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput, UNetConfig
from usd.denoiser.networks import ImageEncoder
from usd.denoiser.picture import ClipPicture, resize_square
from usd.denoiser.weights import whole
from usd.math.camera import Cameras
from usd.math.normal_map import normal_colors

VIEW_ANGLES = (
    (0.0, 0.0),
    (-0.2362, 0.8125),
    (-0.1686, 1.6934),
    (0.5220, 3.1406),
    (0.6904, 4.8359),
    (0.3733, 5.5859),
)
"""Polar and azimuth difference of each view from the input, radians, as published: labels that the model was trained
with, in a world that is tilted against the picture, and not angles of the cameras that the views are seen from."""
TASKS = ((1.0, 0.0), (0.0, 1.0))
"""The label of normals, and that of colors."""


@dataclass(frozen=True)
class ClipReference(EncodedReference):
    """A picture as its CLIP embedding and its scaled latent, and the one camera that took it."""

    embedding: Float[Tensor, "1 D"]
    latent: Float[Tensor, "1 c h w"]
    cameras: Cameras


@register("wonder3d")
class Wonder3DDenoiser(LatentDenoiser[UNetConfig], ViewGroupDenoiser[UNetConfig]):
    """The published diffusers folder. Rows are (object, normals and colors, view)."""

    components = ("unet", "vae", "image_encoder", "scheduler")
    group, domains, group_size = "wonder3d", ("normal", "color"), 2 * len(VIEW_ANGLES)
    needs = frozenset({"normal"})
    conventions = GroupConventions(fraction=192 / 256, scale=3.0)

    def __init__(self, config: UNetConfig, name: str = "") -> None:
        super().__init__(config, name)
        files = self.files
        self.image_encoder: Frozen[ImageEncoder] = Frozen(
            lambda: files.network("image_encoder"), config.execution.weights, config.execution
        )
        side = whole(files.config("image_encoder"), "image_size")
        self._clip_picture = ClipPicture.from_folder(self.folder / "feature_extractor", side)

    def pictures(self, render: Render, cameras: Cameras) -> Float[Tensor, "R 3 H W"]:
        """Return the normals of each group as colors over white, in its front camera's axes, and then its colors."""
        assert render.normal is not None
        views = len(VIEW_ANGLES)
        if len(cameras) % views:
            raise UserError(
                f"data: the batch has {len(cameras)} views, and '{self.name}' makes {views} at a time; expected "
                f"view-group-datamodule with data.group {self.group}"
            )
        fronts = cameras.c2w[::views, :3, :3].repeat_interleave(views, 0)
        local = torch.einsum("vji,vjhw->vihw", fronts, render.normal)
        normals = normal_colors(local, render.opacity, 1.0)
        each = [x.unflatten(0, (-1, views)) for x in (normals, render.rgb)]
        return torch.stack(each, 1).flatten(0, 2)

    @torch.no_grad()
    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> ClipReference:
        """Return what is kept of the picture over white, in [0, 1], and of the one camera it was taken by."""
        if len(cameras) != 1:
            raise ValueError(f"a reference has one camera, got {len(cameras)}")
        device, framed = rgb.device, resize_square(rgb.float(), self.latent.image_size)
        picture = self._clip_picture(framed).to(self.image_encoder.dtype(device))
        with torch.autocast(device.type, enabled=False), self.image_encoder.use(device) as encoder:
            embedding = encoder(picture).image_embeds.float()
        return ClipReference(embedding, self.encode(rgb), cameras)

    @torch.no_grad()
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> NetworkInput:
        """Return the condition of whole groups of the published cameras. Raises ``UserError`` for other cameras."""
        assert isinstance(reference, ClipReference)
        device = reference.latent.device
        self.refuse_other_cameras(cameras.to(device), reference.cameras.to(device))
        rows = len(cameras) * len(self.domains)
        tokens = reference.embedding[:, None].expand(rows, -1, -1)
        return NetworkInput(tokens, reference.latent.expand(rows, -1, -1, -1), self._labels(rows).to(device))

    @torch.no_grad()
    def unconditional(self, batch: int) -> NetworkInput:
        """Return zeros for the token and the channels beside x_t; views and domains keep their labels."""
        like, space = self.alphas_cumprod, self.latent
        tokens = like.new_zeros(batch, 1, whole(self.files.config("unet"), "cross_attention_dim"))
        latent = like.new_zeros(batch, space.channels, space.height, space.width)
        return NetworkInput(tokens, latent, self._labels(batch).to(like))

    def _labels(self, rows: int) -> Float[Tensor, "R 10"]:
        """Return the sines and cosines that tell the network the view and the domain of each row."""
        if rows % self.group_size:
            raise ValueError(f"rows are whole groups of {self.group_size}, got {rows}")
        each = [(0.0, *angles, *task) for task in TASKS for angles in VIEW_ANGLES]
        return label_features(torch.tensor(each)).repeat(rows // self.group_size, 1)

    def release_encoders(self) -> None:
        """Free the image encoder; it is loaded again when needed."""
        self.image_encoder.drop()


def label_features(labels: Float[Tensor, "R 5"]) -> Float[Tensor, "R 10"]:
    """Return what the network is given of labels: elevation 0, polar and azimuth difference, and the domain's two."""
    return torch.cat([labels.sin(), labels.cos()], -1)
