"""Networks that turn rendered features into pictures, and that judge them (Control4D, arXiv 2305.20082).

The paper says what there is: a generator of pictures from features rendered at low resolution, guided by what encoders
extract from edited pictures at several levels, and a discriminator. Sizes and layers are this project's.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Conv2d, Linear, SiLU
from torch.nn.functional import interpolate, leaky_relu, silu

SLOPE = 0.2  # of the discriminator's leaky ReLU
EDGE = 1e-3  # distance that colors keep from 0 and 1, whose logits are infinite


@dataclass(frozen=True)
class PictureCodes:
    """The codes of a picture that a generator is given beside rendered features; zeros say nothing."""

    local: Float[Tensor, "B L h w"]
    overall: Float[Tensor, "B G"]


@dataclass(frozen=True)
class CodeDistribution:
    """Normal distributions of local codes, one for each of their numbers."""

    mean: Float[Tensor, "B L h w"]
    log_variance: Float[Tensor, "B L h w"]

    def sample(self, noise: Float[Tensor, "B L h w"]) -> Float[Tensor, "B L h w"]:
        """Return codes drawn with standard normal noise, differentiable by mean and variance (arXiv 1312.6114)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def divergence(self) -> Float[Tensor, ""]:
        """Return KL(codes | standard normal), summed over a picture's numbers, averaged over pictures."""
        each = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * each.sum() / len(self.mean)


def downsampling(channels: int, upscale: int) -> torch.nn.Sequential:
    """Return convolutions from a picture to ``channels`` features of a side smaller by ``upscale``, a power of two."""
    layers: list[torch.nn.Module] = [Conv2d(3, channels, 3, padding=1), SiLU()]
    for _ in range(int(math.log2(upscale))):
        layers += [Conv2d(channels, channels, 3, stride=2, padding=1), SiLU()]
    return torch.nn.Sequential(*layers)


class LocalEncoder(torch.nn.Module):
    """A picture to the distribution of a code at every pixel of the rendered features."""

    def __init__(self, n_codes: int, channels: int, upscale: int) -> None:
        super().__init__()
        self.features = downsampling(channels, upscale)
        self.head = Conv2d(channels, 2 * n_codes, 1)

    def forward(self, picture: Float[Tensor, "B 3 H W"]) -> CodeDistribution:
        """Encode pictures in [0, 1]."""
        mean, log_variance = self.head(self.features(2 * picture - 1)).chunk(2, 1)
        # Bounds as wide as half floats can hold the exponential of.
        return CodeDistribution(mean, log_variance.clamp(-10, 10))


class GlobalEncoder(torch.nn.Module):
    """A picture to one code for all of it."""

    def __init__(self, n_codes: int, channels: int, upscale: int) -> None:
        super().__init__()
        self.features = downsampling(channels, upscale)
        self.head = Linear(channels, n_codes)

    def forward(self, picture: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B G"]:
        """Encode pictures in [0, 1]."""
        return self.head(self.features(2 * picture - 1).mean((2, 3)))


class ModulatedBlock(torch.nn.Module):
    """A residual block whose features are scaled and shifted as a code says."""

    def __init__(self, channels: int, n_codes: int) -> None:
        super().__init__()
        self.first, self.second = (Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.modulation = Linear(n_codes, 2 * channels)

    def forward(self, x: Float[Tensor, "B c h w"], code: Float[Tensor, "B G"]) -> Float[Tensor, "B c h w"]:
        """Apply the block."""
        scale, shift = self.modulation(code)[:, :, None, None].chunk(2, 1)
        return x + self.second(silu((1 + scale) * self.first(silu(x)) + shift))


class Generator(torch.nn.Module):
    """Rendered features, whose first three channels are colors, to a picture ``upscale`` times as large.

    What it makes is added to the enlarged colors' logits. Its last layer begins with zeros: a new generator enlarges.
    """

    def __init__(self, n_features: int, n_local: int, n_overall: int, channels: int, upscale: int) -> None:
        super().__init__()
        self.enter = Conv2d(n_features + n_local, channels, 3, padding=1)
        sizes = int(math.log2(upscale)) + 1
        self.blocks = torch.nn.ModuleList(ModulatedBlock(channels, n_overall) for _ in range(sizes))
        self.leave = Conv2d(channels, 3, 3, padding=1)
        for weight in self.leave.parameters():
            torch.nn.init.zeros_(weight)

    def forward(self, features: Float[Tensor, "B C h w"], codes: PictureCodes) -> Float[Tensor, "B 3 H W"]:
        """Generate pictures in [0, 1]."""
        x = self.enter(torch.cat([features, codes.local], 1))
        for size, block in enumerate(self.blocks):
            x = block(interpolate(x, scale_factor=2.0) if size else x, codes.overall)
        enlarged = interpolate(features[:, :3].clamp(0, 1), x.shape[2:], mode="bilinear").clamp(
            EDGE, 1 - EDGE
        )
        return torch.sigmoid(torch.logit(enlarged) + self.leave(silu(x)))


class PatchDiscriminator(torch.nn.Module):
    """A picture to a logit for each of its patches, above 0 where it looks real (PatchGAN, arXiv 1611.07004)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels]
        self.layers = torch.nn.ModuleList(
            Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.head = Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, picture: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 h w"]:
        """Judge pictures in [0, 1]."""
        x = 2 * picture - 1
        for layer in self.layers:
            x = leaky_relu(layer(x), SLOPE)
        return self.head(x)
