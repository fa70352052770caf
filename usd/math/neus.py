"""Opacity along rays from a signed distance: NeuS (arXiv 2106.10689) and VolSDF (arXiv 2106.12052).

Letters: f signed distance (positive outside), s sharpness (per world unit: the surface is a layer of about 4 / s),
Phi(x) = 1 / (1 + exp(-s x)), h length of a step along the ray, f' how fast f changes along the ray, in [-1, 0].

What is left of the light at distance f is Phi(f), whatever the angle at which the ray comes: so the weight of a sample
peaks at the surface, and only there.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def ray_slope(cosine: Float[Tensor, "S"], anneal: Float[Tensor, ""]) -> Float[Tensor, "S"]:
    """Return f' from the cosine between ray and outward normal.

    With ``anneal`` 1 it is min(cosine, 0): surfaces that face away are not seen. With 0 it is (cosine - 1) / 2, so that
    at the beginning of a training, when normals mean little, every sample learns something.
    """
    toward, soft = (-cosine).relu(), (0.5 - 0.5 * cosine).relu()
    return -(soft + anneal * (toward - soft))


def neus_alpha(
    distance: Float[Tensor, "S"],
    slope: Float[Tensor, "S"],
    length: Float[Tensor, "S"],
    sharpness: Float[Tensor, ""],
) -> Float[Tensor, "S"]:
    """Return opacity of steps whose middle is at ``distance``: 1 - Phi(f + f' h / 2) / Phi(f - f' h / 2) (equation 13).

    In [0, 1), exact also where both Phi vanish, deep inside.
    """
    half = 0.5 * slope * length
    passed = logsigmoid(sharpness * (distance + half)) - logsigmoid(sharpness * (distance - half))
    return -torch.expm1(passed)


def crossing(distance: Float[Tensor, "N"], length: float, sharpness: Float[Tensor, ""]) -> Float[Tensor, "N"]:
    """Return share of the surface's layer within a step straight through it: Phi(f + h / 2) - Phi(f - h / 2).

    Small on both sides of the surface, so that an occupancy grid made of it is a shell.
    """
    half = 0.5 * length
    return torch.sigmoid(sharpness * (distance + half)) - torch.sigmoid(sharpness * (distance - half))


def unseen_opacity(
    distance: Float[Tensor, "S"], ray_index: Tensor, sharpness: Float[Tensor, ""]
) -> Float[Tensor, "S"]:
    """Return the opacity between each sample and the one before it from distances alone.

    It is max(0, 1 - Phi(f) / Phi(f_before)).

    It needs no gradient of f, and is right for rays that graze. Packed samples; 0 for the first of a ray. What a ray
    crosses hides only what comes after the sample behind the crossing: where f falls faster than a distance may, no
    step reaches the surface but that sample's.
    """
    before = torch.cat([distance[:1], distance[:-1]])
    same = torch.cat([ray_index.new_zeros(len(ray_index[:1])).bool(), ray_index[1:] == ray_index[:-1]])
    passed = logsigmoid(sharpness * distance) - logsigmoid(sharpness * before)
    return torch.where(same, -torch.expm1(passed.clamp(max=0)), torch.zeros_like(distance))


def laplace_density(distance: Float[Tensor, "S"], sharpness: Float[Tensor, ""]) -> Float[Tensor, "S"]:
    """Return VolSDF's density: s times the distribution function of a Laplace variable of scale 1 / s, at -f."""
    tail = 0.5 * torch.exp(-sharpness * distance.abs())
    return sharpness * torch.where(distance > 0, tail, 1 - tail)
