"""A feature volume lifted from the reference picture, seen from the target camera: how a small model knows where it is.

The idea is that of PixelNeRF (arXiv 2012.02190) and SyncDreamer (arXiv 2309.03453): a picture becomes features in the
reference camera's frustum, the frustum fills a cube, the cube is completed in 3D and rendered from any camera. What
comes out lies beside x_t in the UNet, so that turning with the camera is geometry and need not be learned.
The cube stands upright and turns with the reference: only the azimuth *difference* matters, as in Zero-1-to-3.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, softplus

from usd.core.config import option, parse
from usd.denoiser.weights import load_tensors, read_json, readable
from usd.kernels.trilinear import sample_volumes
from usd.math.camera import Cameras

VOLUME = "view_volume"  # its place in a Zero-1-to-3 folder


@dataclass(frozen=True)
class ViewVolumeConfig:
    """Shape of the network. Sizes are voxels or pixels a side."""

    picture: int = option(64, "side in pixels at which the reference is read", ge=16, le=4096)
    latent: int = option(16, "side of the latents that the hint lies beside", ge=4, le=1024)
    features: int = option(
        32, "channels of the picture's features at half its size; deeper ones have more", ge=8, le=8192
    )
    coarse: int = option(16, "side of the cube that is completed in 3D", ge=4, le=512)
    coarse_channels: int = option(16, "channels of the cube that is completed in 3D", ge=8, le=8192)
    fine_channels: int = option(
        12, "channels of the cube of twice that side, which is rendered", ge=4, le=8192
    )
    samples: int = option(16, "samples along each ray", ge=2, le=4096)
    head: int = option(64, "channels of the layers after rendering", ge=8, le=8192)
    hint: int = option(16, "channels given to the UNet, the expected latent among them", ge=5, le=8192)
    extent: float = option(0.52, "half the side of the cube, world units", gt=0, le=1000)


@dataclass(frozen=True)
class VolumeView:
    """B views of a volume: colors over white and opacity at twice the latents' side, and the hint beside x_t.

    The hint's first channels are the expected latent.
    """

    rgb: Float[Tensor, "B 3 r r"]
    opacity: Float[Tensor, "B 1 r r"]
    hint: Float[Tensor, "B K h w"]


class ViewVolume(nn.Module):
    """``lift`` a reference once, ``see`` it from any camera."""

    def __init__(self, config: ViewVolumeConfig) -> None:
        super().__init__()
        self.config = config
        f, c, d = config.features, config.coarse_channels, config.fine_channels
        self.reader = PictureFeatures(f)
        self.to_frustum = nn.Conv2d(2 * f, c * config.coarse, 1)
        self.complete = Completion(c)
        self.refine = nn.Sequential(
            Conv3d(c + f // 2, d + 8, 1),
            nn.SiLU(),
            Conv3d(d + 8, d, 3, padding=1),
            nn.SiLU(),
            Conv3d(d, d + 1, 1),
        )
        self.to_fine = nn.Conv2d(f, f // 2, 1)
        self.head_in = nn.Conv2d(4 * (d + 1), config.head, 1)
        self.head = nn.Sequential(Residual(config.head), Residual(config.head))
        self.head_out = nn.Conv2d(config.head, config.hint, 1)

    def lift(self, pictures: Float[Tensor, "R 3 H W"], cameras: Cameras) -> Float[Tensor, "R C n n n"]:
        """Return the volume of each reference, from pictures in [0, 1] over white of any size."""
        size = self.config.picture
        small = (
            interpolate(pictures, (size, size), mode="bilinear", antialias=True)
            if pictures.shape[-1] != size
            else pictures
        )
        fine, coarse = self.reader(small * 2 - 1)
        frustum = self.to_frustum(coarse).unflatten(1, (self.config.coarse_channels, self.config.coarse))
        places = self._frustum_places(cameras, self.config.coarse)
        cube = grid_sample(frustum.float(), places, align_corners=False, padding_mode="border")
        cube = self.complete(cube)
        flat = self._frustum_places(cameras, 2 * self.config.coarse)[..., :2]
        n = flat.shape[1]
        pixels = grid_sample(
            self.to_fine(fine).float(), flat.flatten(1, 2), align_corners=False, padding_mode="border"
        )
        pixels = pixels.unflatten(2, (n, n))
        up = interpolate(cube.float(), scale_factor=2, mode="trilinear", align_corners=False)
        return self.refine(torch.cat([up, pixels], 1)).float()

    def see(self, volumes: Float[Tensor, "R C n n n"], reference: Cameras, target: Cameras) -> VolumeView:
        """Return the views of R volumes (R references) by R * k target cameras: target j sees volume j // k."""
        side, count = 2 * self.config.latent, len(target) // len(volumes)
        rows = torch.arange(len(volumes), device=reference.c2w.device).repeat_interleave(count)
        theirs = reference[rows]
        origins, directions = face_reference(target, theirs).resize(side, side).rays()
        depth, spacing = self._depths(origins, directions)
        places = (origins[..., None, :] + depth[..., None] * directions[..., None, :]) / self.config.extent
        values = sample_volumes(volumes, places.reshape(len(volumes), -1, 3))
        values = values.unflatten(2, (count, *places.shape[1:-1])).transpose(1, 2).flatten(0, 1)
        density = softplus(values[:, 0] * 4 - 1) * 10 * (places.abs() < 1).all(-1)
        rgb, opacity, rest = _composite_volume(values, compositing_weights(density * spacing)[:, None])
        rendered = torch.cat([rgb * 2 - 1, opacity, rest], 1)
        x = self.head(self.head_in(nn.functional.pixel_unshuffle(rendered, 2)))
        return VolumeView(rgb, opacity, self.head_out(x).float())

    def _depths(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return middles and lengths of equal stretches of each ray within the ball about the cube's center."""
        radius, n = self.config.extent, self.config.samples
        middle = -(origins * directions).sum(-1)
        nearest = (origins.square().sum(-1) - middle.square()).clamp_min(0)
        reach = (radius**2 - nearest).clamp_min(1e-4).sqrt()
        steps = (torch.arange(n, device=origins.device) + 0.5) / n * 2 - 1
        depth = middle[..., None] + reach[..., None] * steps
        return depth, (2 * reach / n)[..., None].expand_as(depth)

    def _frustum_places(self, cameras: Cameras, side: int) -> Float[Tensor, "R n n n 3"]:
        """Return each voxel's place in the reference's frustum, as ``grid_sample`` counts: x, y, depth in [-1, 1]."""
        line = ((torch.arange(side, device=cameras.device) + 0.5) / side * 2 - 1) * self.config.extent
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        upright = face_reference(cameras, cameras).resize(2, 2)
        pixels, depth = upright.project(torch.stack([x, y, z], -1).reshape(-1, 3))
        near = cameras.spherical.distance[:, None]
        places = torch.cat([pixels - 1, ((depth - near) / self.config.extent)[..., None]], -1)
        return places.unflatten(1, (side, side, side))


def wrong_azimuths(target: Cameras, reference: Cameras) -> dict[str, Cameras]:
    """Return poses to compare the true one with: random azimuths, and the reference's other side (B cameras each)."""
    source = torch.Generator("cpu").manual_seed(0)
    turn = torch.rand(len(target), generator=source).to(target.device) * 2 * torch.pi
    return {
        "random": target.turned(turn),
        "negated": target.turned(-2 * target.relative_to(reference).azimuth),
    }


def face_reference(cameras: Cameras, reference: Cameras) -> Cameras:
    """Return the cameras turned about the vertical so that the reference stands at azimuth 0."""
    return cameras.turned(-reference.spherical.azimuth)


def compositing_weights(optical: Float[Tensor, "B r r S"]) -> Float[Tensor, "B r r S"]:
    """Return each sample's share of the ray's color, from its density times length, front to back."""
    before = torch.cumsum(optical, -1) - optical
    return torch.exp(-before) * (1 - torch.exp(-optical))


class Conv3d(nn.Conv3d):
    """A 3D convolution that computes in float32, whatever autocast says, where its input or output is small."""

    FEW = 4  # voxels a side

    def forward(self, x: Float[Tensor, "B C *sides"]) -> Float[Tensor, "B K *sides2"]:
        """Convolve, in float32 where there are few voxels."""
        if min(x.shape[-3:]) // self.stride[0] >= self.FEW:
            return super().forward(x)
        # oneDNN's bfloat16 weight gradient of 2 x 2 x 2 voxels is wrong on CPUs with AVX-512 but no AMX (torch 2.13)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice; in 2D or 3D."""

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else Conv3d
        layers = [nn.GroupNorm(8, channels), nn.SiLU(), conv(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(
            *layers, nn.GroupNorm(8, channels), nn.SiLU(), conv(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus what the layers make of it."""
        return x + self.layers(x)


class Attention(nn.Module):
    """Self-attention over all pixels, heads of 32 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, channels), channels // 32
        self.inward, self.outward = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the input plus what the pixels tell each other."""
        rows = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.inward(rows).unflatten(-1, (3, self.heads, 32)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
        out = self.outward((weights @ v).transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).reshape(x.shape)


class PictureFeatures(nn.Module):
    """A small U-Net over the reference: features at half and at a quarter of its size, aware of the whole picture."""

    def __init__(self, f: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, f, 4, 2, 1), Residual(f))
        self.down = nn.ModuleList(
            [nn.Conv2d(a, b, 4, 2, 1) for a, b in ((f, 2 * f), (2 * f, 4 * f), (4 * f, 4 * f))]
        )
        wide = 4 * f
        self.quarter, self.eighth = Residual(2 * f), nn.Sequential(Residual(4 * f), Attention(4 * f))
        self.whole = nn.Sequential(Residual(wide), Attention(wide), Residual(wide))
        self.up = nn.ModuleList([nn.Conv2d(wide, 4 * f, 1), nn.Conv2d(4 * f, 2 * f, 1)])
        self.join = nn.ModuleList([nn.Sequential(Residual(4 * f), Attention(4 * f)), Residual(2 * f)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features at half and at a quarter of the picture's size."""
        half = self.first(x)
        quarter = self.quarter(self.down[0](half))
        eighth = self.eighth(self.down[1](quarter))
        whole = self.whole(self.down[2](eighth))
        eighth = self.join[0](eighth + interpolate(self.up[0](whole), scale_factor=2, mode="nearest"))
        return half, self.join[1](quarter + interpolate(self.up[1](eighth), scale_factor=2, mode="nearest"))


class Completion(nn.Module):
    """A small 3D U-Net that fills in what the reference does not show."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fine = Residual(c, 3)
        self.down = Conv3d(c, 2 * c, 4, 2, 1)
        self.middle = Residual(2 * c, 3)
        self.deeper = Conv3d(2 * c, 4 * c, 4, 2, 1)
        self.whole = nn.Sequential(Residual(4 * c, 3), Residual(4 * c, 3))
        self.up = nn.ModuleList([Conv3d(4 * c, 2 * c, 1), Conv3d(2 * c, c, 1)])
        self.join = nn.ModuleList([Residual(2 * c, 3), Residual(c, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the cube with what the reference does not show filled in."""
        x = self.fine(x)
        middle = self.middle(self.down(x))
        whole = self.whole(self.deeper(middle))
        middle = self.join[0](middle + interpolate(self.up[0](whole), scale_factor=2, mode="nearest"))
        return self.join[1](x + interpolate(self.up[1](middle), scale_factor=2, mode="nearest"))


def load_volume(place: Path) -> ViewVolume:
    """Return the view volume stored in a folder. Raises UserError."""
    config = read_json(place / "config.json")
    ours = {field.name: config[field.name] for field in fields(ViewVolumeConfig) if field.name in config}
    volume = ViewVolume(parse(ViewVolumeConfig, ours, str(place / "config.json")))
    with readable(place, "a view volume"):
        volume.load_state_dict({key: value.float() for key, value in load_tensors(place).items()})
    return volume.eval()


def write_volume(volume: ViewVolume, place: Path) -> None:
    """Store a view volume as ``load_volume`` reads it."""
    place.mkdir(parents=True, exist_ok=True)
    save_file(volume.state_dict(), place / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "ViewVolume", **asdict(volume.config)}
    (place / "config.json").write_text(json.dumps(config, indent=2))


def _composite_volume(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return colors over white, opacity and further features: sums over the samples along each ray."""
    opacity = weights.sum(-1)
    rgb = (torch.sigmoid(values[:, 1:4]) * weights).sum(-1) + 1 - opacity
    return rgb, opacity, (values[:, 4:] * weights).sum(-1)
