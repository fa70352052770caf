"""ImageDream (arXiv 2312.02201): four views of a picture at once, given their cameras about the picture's."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.registry import register
from usd.denoiser import Embedding, EncodedReference, GroupConventions, ViewGroupDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput, UNetConfig
from usd.denoiser.mvdream import VIEWS, camera_numbers, joint_attention
from usd.denoiser.networks import ImageEncoder
from usd.denoiser.picture import ClipPicture
from usd.denoiser.text_encoder import empty_prompt
from usd.denoiser.weights import whole
from usd.math.camera import Cameras

FRONT = -math.pi / 2
"""Azimuth at which the model's own world has the camera of the picture."""


@dataclass(frozen=True)
class ImageDreamReference(EncodedReference):
    """A picture as the tokens of its patches and its scaled latent, and the one camera that took it."""

    tokens: Float[Tensor, "1 K W"]
    latent: Float[Tensor, "1 c h w"]
    cameras: Cameras


@register("imagedream")
class ImageDreamDenoiser(LatentDenoiser[UNetConfig], ViewGroupDenoiser[UNetConfig]):
    """The published single file, whose name tells the variant: "local", or pixel, which sees a fifth view.

    Rows are (object, view). The sentence that the model could be given beside the picture is empty.
    """

    components = ("unet", "vae", "text_encoder", "tokenizer", "image_encoder", "scheduler")
    group, group_size = "imagedream", VIEWS
    conventions = GroupConventions(fraction=0.8, steps=50, scale=5.0, noise_share=0.0)

    def __init__(self, config: UNetConfig, name: str = "") -> None:
        super().__init__(config, name)
        files, execution = self.files, config.execution
        self.is_pixel = "local" not in self.folder.name
        views = VIEWS + self.is_pixel
        self.unet = Frozen(
            lambda: joint_attention(files.network("unet"), views), execution.weights, execution
        )
        self.image_encoder: Frozen[ImageEncoder] = Frozen(
            lambda: files.network("image_encoder"), execution.weights, execution
        )
        self._vision = files.config("image_encoder")
        side = whole(self._vision, "image_size")
        self._clip_picture = ClipPicture.from_folder(self.folder / "feature_extractor", side)
        self._empty: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> ImageDreamReference:
        """Return what is kept of the picture, in [0, 1], and of the one camera it was taken by."""
        if len(cameras) != 1:
            raise ValueError(f"a reference has one camera, got {len(cameras)}")
        picture = self._clip_picture(rgb.float()).to(self.image_encoder.dtype(rgb.device))
        with torch.autocast(rgb.device.type, enabled=False), self.image_encoder.use(rgb.device) as encoder:
            patches = encoder(
                picture
            ).last_hidden_state  # of the last layer but one: the file's last is not read
        return ImageDreamReference(self._image_tokens(patches), self.encode(rgb), cameras)

    @torch.no_grad()
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> NetworkInput:
        """Return the tokens of no sentence and of the picture, its latent, and each camera about the picture's."""
        assert isinstance(reference, ImageDreamReference)
        rows, (words, _) = len(cameras), self._nothing()
        tokens = torch.cat([words.to(reference.tokens), reference.tokens], 1).expand(rows, -1, -1)
        given = NetworkInput(tokens, reference.latent.expand(rows, -1, -1, -1))
        return self.with_cameras(given, cameras, reference)

    @torch.no_grad()
    def unconditional(self, batch: int) -> NetworkInput:
        """Return the tokens of no sentence and of zeros as patches, and zeros as latent; cameras stay to be given."""
        words, image = self._nothing()
        space = self.latent
        latent = words.new_zeros(batch, space.channels, space.height, space.width)
        return NetworkInput(torch.cat([words, image], 1).expand(batch, -1, -1), latent)

    def with_cameras(
        self, embedding: Embedding, cameras: Cameras, reference: EncodedReference | None = None
    ) -> NetworkInput:
        """Return the condition with each row's camera, in the world in which the picture's stands in front."""
        assert isinstance(embedding, NetworkInput) and isinstance(reference, ImageDreamReference)
        turn = FRONT - reference.cameras.spherical.azimuth.to(cameras.device)
        numbers = camera_numbers(cameras.turned(turn.expand(len(cameras))))
        return dataclasses.replace(embedding, time=numbers.to(embedding.tokens.device))

    @override
    def _predict(self, xt: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the UNet's output; in the pixel variant the picture is a fifth view of each group, without noise."""
        assert condition.latent is not None and condition.time is not None
        inner = dataclasses.replace(condition, latent=None)
        if not self.is_pixel:
            return super()._predict(xt, t, inner)
        x, time = (each.unflatten(0, (-1, VIEWS)) for each in (xt, t))
        picture = condition.latent[::VIEWS, None].to(x)
        five = torch.cat([x, picture], 1).flatten(0, 1)
        made = super()._predict(five, torch.cat([time, time[:, :1]], 1).flatten(), _with_fifth(inner))
        return made.unflatten(0, (-1, VIEWS + 1))[:, :VIEWS].flatten(0, 1)

    def _ranges(self, count: int, group: int = 1) -> list[tuple[int, int]]:
        """Return ranges of whole groups, which in the UNet of the pixel variant have a view more."""
        return super()._ranges(count, group + (self.is_pixel and group == VIEWS))

    def _image_tokens(self, patches: Float[Tensor, "B P E"]) -> Float[Tensor, "B K W"]:
        """Return what the UNet's resampler makes of patches, float32."""
        device = patches.device
        with torch.autocast(device.type, enabled=False), self.unet.use(device) as unet:
            assert isinstance(unet, torch.nn.Module)
            return unet.get_submodule("image_embed")(patches.to(self.unet.dtype(device))).float()

    def _nothing(self) -> tuple[Float[Tensor, "1 T W"], Float[Tensor, "1 K W"]]:
        """Return the tokens of no sentence, and those of no picture; both are made once."""
        device = self.alphas_cumprod.device
        if self._empty is None:
            patches = (whole(self._vision, "image_size") // whole(self._vision, "patch_size")) ** 2 + 1
            zeros = torch.zeros(1, patches, whole(self._vision, "hidden_size"), device=device)
            self._empty = empty_prompt(self.files, device), self._image_tokens(zeros)
        words, image = self._empty
        return words.to(device), image.to(device)

    def release_encoders(self) -> None:
        """Free the image encoder; it is loaded again when needed."""
        self.image_encoder.drop()


def _with_fifth(condition: NetworkInput) -> NetworkInput:
    """Return the condition of groups of four with that of a fifth view: the fourth's tokens, and zeros as camera."""

    def longer(name: str, rows: Tensor) -> Tensor:
        each = rows.unflatten(0, (-1, VIEWS))
        last = torch.zeros_like(each[:, :1]) if name == "time" else each[:, -1:]
        return torch.cat([each, last], 1).flatten(0, 1)

    return condition.map(longer)
