"""SyncDreamer's volume (arXiv 2309.03453, section 3.3): noisy views -> a cube of features -> each view's frustum.

All views at t are lifted into one cube, so that each view is denoised knowing the others; the cube is resampled in the
frustum of a view, and the UNet attends, pixel by pixel, to the samples along the pixel's ray. Modules have the names
under which the published checkpoint stores them.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import grid_sample, silu

from usd.core.errors import UserError
from usd.math.view_groups import (
    SYNCDREAMER_DISTANCE,
    SYNCDREAMER_FOCAL,
    opencv_world_to_camera,
    syncdreamer_cameras,
)

CUBE, HALF_SIDE, DEPTHS = 32, 0.5, 48
TIME_WIDTH, POSE_WIDTH, VIEW_CHANNELS = 256, 4, 16
REACH = 0.86603  # of the cube's corners from its center, rounded as published
Pyramid = dict[int, Float[Tensor, "B C D r r"]]
"""Frustum features by their width in pixels."""


class ViewFeatures(nn.Module):
    """A residual block of the encoder of noisy views, told t and the view."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time_embed = nn.Conv2d(TIME_WIDTH, channels, 1)
        self.view_embed = nn.Conv2d(POSE_WIDTH, channels, 1)
        layers = [nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        again = [nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.conv = nn.Sequential(*layers, *again)

    def forward(self, x: Tensor, t: Tensor, pose: Tensor) -> Tensor:
        """Return x (N C h w) plus what the layers make of it, t (N 256) and the pose (N 4)."""
        told = self.time_embed(t[..., None, None]) + self.view_embed(pose[..., None, None])
        return x + self.conv(x + told)


class TargetEncoder(nn.Module):
    """The 2D encoder of a noisy view's latent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(4, channels, 3, padding=1)
        self.out_conv0 = ViewFeatures(channels)
        self.out_conv1 = ViewFeatures(channels)
        self.out_conv2 = ViewFeatures(channels)
        self.final_out = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, pose: Tensor) -> Tensor:
        """Return features (N C h w) of noisy latents (N 4 h w)."""
        x = self.init_conv(x)
        for block in (self.out_conv0, self.out_conv1, self.out_conv2):
            x = block(x, t, pose)
        return self.final_out(x)


class DownBlock3D(nn.Module):
    """Norm, SiLU and a 3D convolution of features that are told t and perhaps the pose."""

    def __init__(self, inward: int, outward: int, stride: int, posed: bool) -> None:
        super().__init__()
        self.t_conv = nn.Conv3d(TIME_WIDTH, inward, 1)
        self.v_conv = nn.Conv3d(POSE_WIDTH, inward, 1) if posed else None
        self.bn = nn.GroupNorm(8, inward)
        self.conv = nn.Conv3d(inward, outward, 3, stride, padding=1)

    def forward(self, x: Tensor, t: Tensor, pose: Tensor | None) -> Tensor:
        """Return the block's features."""
        return self.conv(silu(self.bn(_with_time_and_pose(x, self.t_conv, self.v_conv, t, pose))))


class UpBlock3D(nn.Module):
    """The same with a transposed convolution, which doubles every side."""

    def __init__(self, inward: int, outward: int, posed: bool) -> None:
        super().__init__()
        self.t_conv = nn.Conv3d(TIME_WIDTH, inward, 1)
        self.v_conv = nn.Conv3d(POSE_WIDTH, inward, 1) if posed else None
        self.norm = nn.GroupNorm(8, inward)
        self.conv = nn.ConvTranspose3d(inward, outward, 3, 2, padding=1, output_padding=1)

    def forward(self, x: Tensor, t: Tensor, pose: Tensor | None) -> Tensor:
        """Return the block's features."""
        return self.conv(silu(self.norm(_with_time_and_pose(x, self.t_conv, self.v_conv, t, pose))))


def _with_time_and_pose(
    x: Tensor, time: nn.Module, view: nn.Module | None, t: Tensor, pose: Tensor | None
) -> Tensor:
    x = x + time(t[..., None, None, None])
    return x if view is None or pose is None else x + view(pose[..., None, None, None])


class CubeNetwork(nn.Module):
    """The 3D U-Net over the cube of all views' features."""

    def __init__(self, inward: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d = dims
        self.init_conv = nn.Conv3d(inward, a, 3, padding=1)
        self.conv0 = DownBlock3D(a, a, 1, False)
        self.conv1 = DownBlock3D(a, b, 2, False)
        self.conv2_0, self.conv2_1 = DownBlock3D(b, b, 1, False), DownBlock3D(b, b, 1, False)
        self.conv3 = DownBlock3D(b, c, 2, False)
        self.conv4_0, self.conv4_1 = DownBlock3D(c, c, 1, False), DownBlock3D(c, c, 1, False)
        self.conv5 = DownBlock3D(c, d, 2, False)
        self.conv6_0, self.conv6_1 = DownBlock3D(d, d, 1, False), DownBlock3D(d, d, 1, False)
        self.conv7, self.conv8 = UpBlock3D(d, c, False), UpBlock3D(c, b, False)
        self.conv9 = UpBlock3D(b, a, False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the cube (1 a n n n) of views' features (1 C n n n)."""
        fine = self.conv0(self.init_conv(x), t, None)
        half = self.conv2_1(self.conv2_0(self.conv1(fine, t, None), t, None), t, None)
        quarter = self.conv4_1(self.conv4_0(self.conv3(half, t, None), t, None), t, None)
        eighth = self.conv6_1(self.conv6_0(self.conv5(quarter, t, None), t, None), t, None)
        quarter = quarter + self.conv7(eighth, t, None)
        half = half + self.conv8(quarter, t, None)
        return fine + self.conv9(half, t, None)


class FrustumNetwork(nn.Module):
    """The 3D U-Net over a view's frustum, whose four levels the UNet attends to."""

    def __init__(self, inward: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d = dims
        self.conv0 = nn.Conv3d(inward, a, 3, padding=1)
        self.conv1, self.conv2 = DownBlock3D(a, b, 2, True), DownBlock3D(b, b, 1, True)
        self.conv3, self.conv4 = DownBlock3D(b, c, 2, True), DownBlock3D(c, c, 1, True)
        self.conv5, self.conv6 = DownBlock3D(c, d, 2, True), DownBlock3D(d, d, 1, True)
        self.up0, self.up1, self.up2 = UpBlock3D(d, c, True), UpBlock3D(c, b, True), UpBlock3D(b, a, True)

    def forward(self, x: Tensor, t: Tensor, pose: Tensor) -> Pyramid:
        """Return the features of each level."""
        fine = self.conv0(x)
        half = self.conv2(self.conv1(fine, t, pose), t, pose)
        quarter = self.conv4(self.conv3(half, t, pose), t, pose)
        eighth = self.conv6(self.conv5(quarter, t, pose), t, pose)
        quarter = quarter + self.up0(eighth, t, pose)
        half = half + self.up1(quarter, t, pose)
        fine = fine + self.up2(half, t, pose)
        return {level.shape[-1]: level for level in (fine, half, quarter, eighth)}


class SpatialVolume(nn.Module):
    """The networks of the volume under the names of the checkpoint."""

    def __init__(self, views: int, cube: tuple[int, ...], frustum: tuple[int, ...]) -> None:
        super().__init__()
        self.target_encoder = TargetEncoder(VIEW_CHANNELS)
        self.spatial_volume_feats = CubeNetwork(views * VIEW_CHANNELS, cube)
        self.frustum_volume_feats = FrustumNetwork(cube[0], frustum)


class VolumeNetworks(nn.Module):
    """The volume and the embedding of its time. Built from the shapes of a checkpoint; geometry is the published."""

    def __init__(self, shapes: Mapping[str, Tensor]) -> None:
        super().__init__()
        cube = _widths(
            shapes,
            "spatial_volume.spatial_volume_feats.",
            ("init_conv", "conv1.conv", "conv3.conv", "conv5.conv"),
        )
        frustum = _widths(
            shapes,
            "spatial_volume.frustum_volume_feats.",
            ("conv0", "conv1.conv", "conv3.conv", "conv5.conv"),
        )
        views = shapes["spatial_volume.spatial_volume_feats.init_conv.weight"].shape[1] // VIEW_CHANNELS
        self.time_embed = nn.Sequential(
            nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU(), nn.Linear(TIME_WIDTH, TIME_WIDTH)
        )
        self.spatial_volume = SpatialVolume(views, cube, frustum)

    def embed_time(self, t: Int[Tensor, "N"]) -> Float[Tensor, "N 256"]:
        """Return the embedding of t: cosines and sines at 128 frequencies, through two layers."""
        half = TIME_WIDTH // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angle = t[:, None].float() * frequency
        return self.time_embed(torch.cat([angle.cos(), angle.sin()], -1))

    def lift(
        self, x: Float[Tensor, "V 4 h w"], t: Int[Tensor, "1"], pose: Float[Tensor, "V 4"]
    ) -> Float[Tensor, "1 C n n n"]:
        """Return the cube of a group of noisy latents."""
        time = self.embed_time(t)
        features = self.spatial_volume.target_encoder(x, time.expand(len(x), -1), pose)
        sampled = grid_sample(features, cube_pixels(x.shape[-1]).to(x), align_corners=True)
        stacked = sampled.reshape(1, -1, CUBE, CUBE, CUBE)
        return self.spatial_volume.spatial_volume_feats(stacked, time)

    def frustum(
        self,
        cube: Float[Tensor, "1 C n n n"],
        views: Int[Tensor, "N"],
        t: Int[Tensor, "1"],
        pose: Float[Tensor, "N 4"],
        side: int,
    ) -> Pyramid:
        """Return the features in the frustums of these views, at latents of ``side``."""
        places = frustum_places(side).to(cube)[views] / HALF_SIDE
        sampled = grid_sample(cube.expand(len(views), -1, -1, -1, -1), places, align_corners=True)
        return self.spatial_volume.frustum_volume_feats(
            sampled, self.embed_time(t).expand(len(views), -1), pose
        )


def _widths(shapes: Mapping[str, Tensor], prefix: str, convolutions: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(shapes[f"{prefix}{name}.weight"].shape[0] for name in convolutions)


def _unit_intrinsics(side: int) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of the published cameras for latents of ``side``, without half a pixel's shift."""
    focal, middle = SYNCDREAMER_FOCAL * side, side / 2
    return torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])


def cube_pixels(side: int) -> Float[Tensor, "V 1 m 2"]:
    """Return where each voxel, in the order z y x, lies in each view, as ``grid_sample`` counts."""
    line = torch.linspace(-HALF_SIDE, HALF_SIDE, CUBE)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z, torch.ones_like(x)], -1).reshape(-1, 4)
    seen = points @ (_unit_intrinsics(side) @ opencv_world_to_camera(syncdreamer_cameras())).transpose(1, 2)
    pixels = seen[..., :2] / seen[..., 2:].clamp_min(1e-4)
    return (pixels / ((side - 1) / 2) - 1)[:, None]


def frustum_places(side: int) -> Float[Tensor, "V D h w 3"]:
    """Return the world points behind each pixel of each view, at evenly spaced depths through the cube."""
    depth = torch.linspace(SYNCDREAMER_DISTANCE - REACH, SYNCDREAMER_DISTANCE + REACH, DEPTHS)
    line = torch.arange(side).float()
    y, x = torch.meshgrid(line, line, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(_unit_intrinsics(side)).T
    local = depth[:, None, None, None] * rays
    matrices = opencv_world_to_camera(syncdreamer_cameras())
    rotation, shift = matrices[:, None, None, :, :3], matrices[:, None, None, None, :, 3]
    return (local - shift) @ rotation


class DepthAttention(nn.Module):
    """Attention of a pixel to the samples along its ray, in 4 heads; convolutions of one pixel, no biases."""

    HEADS = 4

    def __init__(self, context: int) -> None:
        super().__init__()
        inner = 2 * context
        self.to_q = nn.Conv2d(inner, inner, 1, bias=False)
        self.to_k = nn.Conv3d(context, inner, 1, bias=False)
        self.to_v = nn.Conv3d(context, inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, inner, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "B I h w"], context: Float[Tensor, "B C D h w"]
    ) -> Float[Tensor, "B I h w"]:
        """Return what each pixel reads from its ray."""
        q = self.to_q(x).unflatten(1, (self.HEADS, -1))
        k, v = (layer(context).unflatten(1, (self.HEADS, -1)) for layer in (self.to_k, self.to_v))
        likeness = torch.einsum("bhcyx,bhcdyx->bhdyx", q, k) / math.sqrt(q.shape[2])
        read = torch.einsum("bhdyx,bhcdyx->bhcyx", likeness.softmax(2), v)
        return self.to_out(read.flatten(1, 2))


class DepthTransformer(nn.Module):
    """The layers by which the UNet's features read from the frustum."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        inner = 2 * context
        self.proj_in = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.GroupNorm(8, inner), nn.SiLU())
        self.proj_context = nn.Sequential(
            nn.Conv3d(context, context, 1, bias=False), nn.GroupNorm(8, context), nn.ReLU()
        )
        self.depth_attn = DepthAttention(context)
        first = [nn.GroupNorm(8, inner), nn.ReLU(), nn.Conv2d(inner, inner, 3, padding=1, bias=False)]
        last = [nn.GroupNorm(8, inner), nn.ReLU(), nn.Conv2d(inner, channels, 3, padding=1, bias=False)]
        self.proj_out = nn.Sequential(*first, *last)

    def forward(
        self, x: Float[Tensor, "B K h w"], context: Float[Tensor, "B C D h w"]
    ) -> Float[Tensor, "B K h w"]:
        """Return x plus what it reads."""
        return x + self.proj_out(self.depth_attn(self.proj_in(x), self.proj_context(context)))


class DepthConditions(nn.Module):
    """The depth transformers of a UNet: one after its middle block, one after each output block from the fourth on."""

    FIRST = 3  # output blocks before it have none

    def __init__(self, shapes: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.middle_conditions = _depth_transformer(shapes, "middle_conditions.")
        count = sum(
            name.startswith("output_conditions.") and name.endswith("proj_in.0.weight") for name in shapes
        )
        self.output_conditions = nn.ModuleList(
            [_depth_transformer(shapes, f"output_conditions.{i}.") for i in range(count)]
        )


def _depth_transformer(shapes: Mapping[str, Tensor], prefix: str) -> DepthTransformer:
    channels = shapes[f"{prefix}proj_in.0.weight"].shape[1]
    return DepthTransformer(channels, shapes[f"{prefix}proj_context.0.weight"].shape[0])


class DepthConditionedUNet(nn.Module):
    """diffusers' UNet with the depth transformers hooked behind its blocks."""

    def __init__(self, unet: nn.Module, conditions: DepthConditions) -> None:
        super().__init__()
        self.unet, self.conditions = unet, conditions
        self._frustum: Pyramid = {}
        unet.get_submodule("mid_block").register_forward_hook(self._hook(conditions.middle_conditions))
        ends = output_block_ends(unet)[conditions.FIRST :]
        if len(ends) != len(conditions.output_conditions):
            raise UserError(
                f"the UNet has {len(ends)} output blocks for {len(conditions.output_conditions)} conditions"
            )
        for module, condition in zip(ends, conditions.output_conditions, strict=True):
            module.register_forward_hook(self._hook(condition))

    def _hook(self, condition: nn.Module) -> Callable[[nn.Module, object, object], object]:
        def attend(_module: nn.Module, _inputs: object, output: object) -> object:
            x = output[0] if isinstance(output, tuple) else output
            assert isinstance(x, Tensor)
            read = condition(x, self._frustum[x.shape[-1]])
            return (read, *output[1:]) if isinstance(output, tuple) else read

        return attend

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, frustum: Pyramid) -> Tensor:
        """Return the prediction in x, given the frustum features of each row's view."""
        self._frustum = frustum
        try:
            return self.unet(x, t, encoder_hidden_states=tokens).sample
        finally:
            self._frustum = {}


def output_block_ends(unet: nn.Module) -> list[nn.Module]:
    """Return the last module of each output block, as the training code counts them."""
    ends: list[nn.Module] = []
    for block in unet.get_submodule("up_blocks").children():
        parts = dict(block.named_children())
        last = list((parts.get("attentions") or parts["resnets"]).children())
        if parts.get("upsamplers") is not None:
            last[-1] = next(iter(parts["upsamplers"].children()))
        ends += last
    return ends
