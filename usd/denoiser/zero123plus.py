"""Zero123++ (arXiv 2310.15110): six views of a picture as one picture of 3 x 2 tiles, which reads the reference."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.errors import UserError
from usd.core.random import generator
from usd.core.registry import register
from usd.core.types import LatentSpace
from usd.denoiser import EncodedReference, GroupConventions, ViewGroupDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput, UNetConfig
from usd.denoiser.networks import ImageEncoder
from usd.denoiser.picture import ClipPicture, resize_square
from usd.denoiser.text_encoder import empty_prompt
from usd.denoiser.view_attention import ReferenceUNet
from usd.denoiser.weights import nested, read_json
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise

ROWS, COLUMNS = 3, 2
TILE = 40
"""Latents of a tile's side, 320 pixels; a UNet that was made for fewer has smaller ones."""
LATENT_SHIFT, LATENT_SCALE = 0.22, 0.75
"""What a scaled latent loses, and is then multiplied with, before it is the model's."""
CONTRAST = 0.8
"""The model's pictures, less 1/2, are divided by this before they are encoded."""
FIRST_VERSION = re.compile(r"1[._]1")


@dataclass(frozen=True)
class PlusReference(EncodedReference):
    """A picture as its CLIP embedding and its latent, not scaled, and the one camera that took it."""

    embedding: Float[Tensor, "1 D"]
    latent: Float[Tensor, "1 c h w"]
    cameras: Cameras


@register("zero123plus")
class Zero123PlusDenoiser(LatentDenoiser[UNetConfig], ViewGroupDenoiser[UNetConfig]):
    """The published diffusers folder. 1.1 and 1.2 differ in their cameras, and only the folder's name tells them apart.

    Rows are (object, view), views row by row. The noise of the reference is one for each t.
    """

    components = (
        "unet",
        "vae",
        "text_encoder",
        "tokenizer",
        "vision_encoder",
        "feature_extractor_clip",
        "feature_extractor_vae",
        "scheduler",
    )
    group_size = ROWS * COLUMNS
    backdrop = 127 / 255
    conventions = GroupConventions(fraction=0.85, steps=75, scale=4.0)

    def __init__(self, config: UNetConfig, name: str = "") -> None:
        super().__init__(config, name)
        files, execution = self.files, config.execution
        version = "1.1" if any(map(FIRST_VERSION.search, _version_texts(self.folder))) else "1.2"
        self.group = f"zero123plus-{version}"
        self.image_encoder: Frozen[ImageEncoder] = Frozen(
            lambda: files.network("vision_encoder"), execution.weights, execution
        )
        self.referenced: Frozen[ReferenceUNet] = Frozen(
            lambda: ReferenceUNet(files.network("unet")), execution.weights, execution
        )
        self.latent = _tile_space(self.latent)
        self.ramp = read_ramp(self.folder / "model_index.json")
        self._clip_picture = processor(self.folder / "feature_extractor_clip")
        self._latent_picture = processor(self.folder / "feature_extractor_vae")
        self._empty: tuple[Tensor, Tensor] | None = None

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the latents of views; those of whole groups are encoded as one picture of tiles. Differentiable."""
        views = (resize_square(image.float(), self.latent.image_size) - 0.5) / CONTRAST
        mode = _in_tiles(views, self.mode_of)
        return (mode * self._autoencoder_scale - LATENT_SHIFT) * LATENT_SCALE

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        """Return the pictures in [0, 1] of latents. Differentiable."""
        mode = (z.float() / LATENT_SCALE + LATENT_SHIFT) / self._autoencoder_scale
        return (_in_tiles(mode, self.picture_of) * CONTRAST + 0.5).clamp(0, 1)

    @property
    def _autoencoder_scale(self) -> float:
        return self.latent.scaling_factor / LATENT_SCALE

    @torch.no_grad()
    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> PlusReference:
        """Return what is kept of the picture over gray, in [0, 1], and of the one camera it was taken by."""
        if len(cameras) != 1:
            raise ValueError(f"a reference has one camera, got {len(cameras)}")
        picture = self._clip_picture(rgb.float()).to(self.image_encoder.dtype(rgb.device))
        with torch.autocast(rgb.device.type, enabled=False), self.image_encoder.use(rgb.device) as encoder:
            embedding = encoder(picture).image_embeds.float()
        return PlusReference(embedding, self.mode_of(self._latent_picture(rgb.float())), cameras)

    @torch.no_grad()
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> NetworkInput:
        """Return the condition of whole groups of the published cameras. Raises ``UserError`` for other cameras."""
        assert isinstance(reference, PlusReference)
        device = reference.latent.device
        self.refuse_other_cameras(cameras.to(device), reference.cameras.to(device))
        empty, _ = self._nothing()
        tokens = empty.to(device) + self.ramp.to(device)[:, None] * reference.embedding[:, None]
        rows = len(cameras)
        return NetworkInput(tokens.expand(rows, -1, -1), reference.latent.expand(rows, -1, -1, -1))

    @torch.no_grad()
    def unconditional(self, batch: int) -> NetworkInput:
        """Return the empty prompt, and a plain gray picture as reference."""
        tokens, latent = self._nothing()
        return NetworkInput(tokens.expand(batch, -1, -1), latent.expand(batch, -1, -1, -1))

    @override
    def _predict(self, xt: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the prediction for whole groups, a picture of tiles each."""
        size, device, dtype = self.group_size, xt.device, self.referenced.dtype(xt.device)
        if len(xt) % size:
            raise ValueError(f"rows are whole groups of {size}, got {len(xt)}")
        assert condition.latent is not None
        first = condition.map(lambda _, rows: rows[::size].to(device, dtype))
        assert first.latent is not None
        tokens, reference, times = first.tokens, first.latent, t[::size]
        self._check_width(tokens.shape[-1])
        noisy = add_noise(reference.float(), self._noise(reference, times), self.alphas_cumprod, times).to(
            dtype
        )
        x = to_tiles(xt).to(dtype)
        with torch.autocast(device.type, enabled=False), self.referenced.use(device) as unet:
            chunks = self._ranges(len(x))
            made = [unet(x[a:b], times[a:b], tokens[a:b], noisy[a:b]) for a, b in chunks]
        return from_tiles(torch.cat(made))

    def _noise(self, like: Float[Tensor, "G c h w"], times: Tensor) -> Float[Tensor, "G c h w"]:
        """Return the noise of each reference: the same whenever t is, with and without a condition."""
        each = [
            torch.randn(like.shape[1:], generator=generator("cpu", 0, "zero123plus", int(t))) for t in times
        ]
        return torch.stack(each).to(like.device)

    def _nothing(self) -> tuple[Float[Tensor, "1 T W"], Float[Tensor, "1 c h w"]]:
        """Return the tokens of the empty prompt, and the latent of a gray picture; both are made once."""
        device = self.alphas_cumprod.device
        if self._empty is None:
            tokens = empty_prompt(self.files, device)
            side = self._latent_picture.size
            self._empty = tokens, self.mode_of(torch.zeros(1, 3, side, side, device=device))
        tokens, latent = self._empty
        return tokens.to(device), latent.to(device)

    def release_encoders(self) -> None:
        """Free the image encoder; it is loaded again when needed."""
        self.image_encoder.drop()


def to_tiles(views: Float[Tensor, "R C h w"]) -> Float[Tensor, "G C H W"]:
    """Return pictures of 3 x 2 views, row by row."""
    tiles = views.unflatten(0, (-1, ROWS, COLUMNS)).permute(0, 3, 1, 4, 2, 5)
    return tiles.flatten(4, 5).flatten(2, 3)


def from_tiles(tiled: Float[Tensor, "G C H W"]) -> Float[Tensor, "R C h w"]:
    """Return the views of pictures of 3 x 2: the inverse of ``to_tiles``."""
    views = tiled.unflatten(3, (COLUMNS, -1)).unflatten(2, (ROWS, -1)).permute(0, 2, 4, 1, 3, 5)
    return views.flatten(0, 2)


def _in_tiles(views: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what ``change`` makes of whole groups as pictures of tiles, and of other numbers of views one by one."""
    if len(views) % (ROWS * COLUMNS):
        return change(views)
    return from_tiles(change(to_tiles(views)))


def _tile_space(space: LatentSpace) -> LatentSpace:
    """Return the space of one view, given that of the UNet's configuration."""
    side, pixels = min(TILE, space.height), space.image_size // space.height
    return LatentSpace(space.channels, side, side, side * pixels, space.scaling_factor * LATENT_SCALE)


def _version_texts(folder: Path) -> tuple[str, str]:
    """Return the names that may tell a version: the folder's, and that of the hub's snapshots that it lies in."""
    return folder.name, folder.parent.parent.name


def read_ramp(index: Path) -> Float[Tensor, "T"]:
    """Return how much of the picture's embedding each token of the prompt gets. Raises UserError."""
    given = read_json(index).get("ramping_coefficients")
    if not isinstance(given, list) or not all(isinstance(x, int | float) for x in given):
        raise UserError(
            f"{index}: has no ramping_coefficients; expected a list of numbers, one for each token"
        )
    return torch.tensor([float(x) for x in given])


def processor(folder: Path) -> ClipPicture:
    """Return how pictures are prepared, by transformers' ``preprocessor_config.json``. Raises UserError."""
    path = folder / "preprocessor_config.json"
    config = read_json(path)
    size = nested(config, "size") or {"shortest_edge": config.get("size")}
    crop = nested(config, "crop_size") or {"height": config.get("crop_size")}
    side = next((n for n in (crop.get("height"), size.get("shortest_edge"), size.get("height")) if n), None)
    if isinstance(side, bool) or not isinstance(side, int):
        raise UserError(f"{path}: says no size; expected one in pixels")
    return ClipPicture.from_folder(folder, side)
