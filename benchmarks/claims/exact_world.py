#!/usr/bin/env python3
"""A world so small that exact scores are computed: where SDS, CSD, USD and sampling end, and how far off.

    python -m benchmarks.claims.exact_world                  the picture docs/pictures/exact_world.png; seconds

Eighteen boxes with a roof (three walls, three roofs, with or without a window at the back) are seen from four sides, as
pictures of 8 x 8 pixels. The posterior mean of the clean picture in x_t is a weighted mean over all of them, with a
condition (the front, and the side to draw) or without, so that noise predictions are exact. Each of three networks is
then given an error of its own: its clean picture is off by a constant tint. With the tints d_c, d_u, d_b of the
conditional, the own and the base's unconditional prediction, and d_r = d_u (plain) or d_b (rectified)

    sampling ends at                      truth + s d_c - (s - 1) d_r
    distillation with lambda ends at      truth + d_r + s / lambda (d_c - d_r), for lambda = 1 (SDS) the same
    and with lambda = 0 (CSD, USD)        moves on by s (d_c - d_r) a step, and stays where it is if d_c = d_r

as long as noise is low enough for the networks to know which picture they see. So the own prediction wins where it
shares the error of the condition, however large that is.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks import ROOT, chart
from usd.math.diffusion import (
    EpsFn,
    add_noise,
    alpha_sigma,
    ddim_sample,
    ddim_timesteps,
    eps_from_x0,
    guided_fn,
    scaled_linear_alphas_cumprod,
)
from usd.math.distill import distillation_gradient, time_weight

SIZE = 8
SIDES = ("front", "left", "back", "right")
WALLS = ((0.8, 0.2, 0.2), (0.2, 0.6, 0.3), (0.25, 0.35, 0.8))
ROOFS = ((0.35, 0.25, 0.2), (0.9, 0.7, 0.2), (0.5, 0.5, 0.55))
DARK = (0.1, 0.1, 0.15)
BARS = scaled_linear_alphas_cumprod().double()
SCALES = (1.0, 3.0, 5.0)
WAYS = {"plain": False, "rectified": True}
Pictures = Float[Tensor, "N 3 S S"]


def box_picture(wall: Sequence[float], roof: Sequence[float], back_window: bool, side: str) -> Pictures:
    """Return a box from one side, over white, in [-1, 1]: a door at the front, windows left and perhaps at the back."""
    picture = torch.ones(3, SIZE, SIZE, dtype=torch.float64)
    picture[:, 3:7, 1:7] = torch.tensor(wall, dtype=torch.float64)[:, None, None]
    for row in range(1, 3):  # the roof narrows upwards
        picture[:, row, 3 - row : 5 + row] = torch.tensor(roof, dtype=torch.float64)[:, None]
    mark = {"front": (slice(4, 7), slice(3, 5)), "left": (slice(4, 6), slice(4, 6))}
    if back_window:
        mark["back"] = (slice(4, 6), slice(2, 4))
    if side in mark:
        rows, columns = mark[side]
        picture[:, rows, columns] = torch.tensor(DARK, dtype=torch.float64)[:, None, None]
    return (picture * 2 - 1)[None]


@dataclass(frozen=True)
class World:
    """All pictures of the world: objects x sides."""

    pictures: Float[Tensor, "O V 3 S S"]

    @classmethod
    def make(cls) -> "World":
        """Return the eighteen boxes from four sides."""
        boxes = itertools.product(WALLS, ROOFS, (False, True))
        rows = [torch.cat([box_picture(*box, side) for side in SIDES]) for box in boxes]
        return cls(torch.stack(rows))

    def possible(self, box: int, side: int) -> Pictures:
        """Return what the view from ``side`` may be, for all one knows from the front of ``box``."""
        front = self.pictures[:, 0]
        same = (front == front[box]).flatten(1).all(1)
        return self.pictures[same, side]

    def all(self) -> Pictures:
        """Return every picture of the world."""
        return self.pictures.flatten(0, 1)


def posterior_mean(xt: Pictures, t: Tensor, pictures: Pictures) -> Pictures:
    """Return the mean clean picture in x_t, where each of these pictures is as likely as the others."""
    alpha, sigma = alpha_sigma(BARS, t)
    gaps = (xt[:, None] - alpha[:, None] * pictures[None]).flatten(2).square().sum(2)
    shares = torch.softmax(-gaps / (2 * sigma.view(-1, 1) ** 2), 1)
    return torch.einsum("bn,nchw->bchw", shares, pictures)


def predictor(pictures: Pictures, tint: Float[Tensor, "3"]) -> EpsFn:
    """Return the noise predictor of a network whose clean picture is the posterior mean plus a tint."""

    def eps(xt: Tensor, t: Tensor) -> Tensor:
        return eps_from_x0(xt, posterior_mean(xt, t, pictures) + tint.view(1, 3, 1, 1), BARS, t)

    return eps


@dataclass(frozen=True)
class Networks:
    """A view of the world, and three networks that predict it with their tints."""

    world: World
    box: int
    side: int
    cond_tint: Float[Tensor, "3"]
    own_tint: Float[Tensor, "3"]
    base_tint: Float[Tensor, "3"]

    @property
    def truth(self) -> Pictures:
        """The true picture of the view."""
        return self.world.pictures[self.box, self.side][None]

    def cond(self) -> EpsFn:
        """Return the prediction given the front."""
        return predictor(self.world.possible(self.box, self.side), self.cond_tint)

    def uncond(self, rectified: bool) -> EpsFn:
        """Return the prediction given nothing: the own one, or the base's."""
        return predictor(self.world.all(), self.base_tint if rectified else self.own_tint)

    def limit(self, scale: float, lambda_: float, rectified: bool) -> Pictures:
        """Return where theory says that distillation with this lambda ends; with 1, sampling, too."""
        tint = self.base_tint if rectified else self.own_tint
        off = tint + scale / lambda_ * (self.cond_tint - tint)
        return self.truth + off.view(1, 3, 1, 1)


def sampled(networks: Networks, scale: float, rectified: bool, steps: int = 20, seed: int = 0) -> Pictures:
    """Return the view that DDIM makes."""
    noise = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    eps = guided_fn(networks.cond(), networks.uncond(rectified), scale)
    return ddim_sample(eps, noise, ddim_timesteps(steps), BARS)


@dataclass(frozen=True)
class Formula:
    """The distillation gradient that is followed, and the noise levels that it is taken at."""

    scale: float
    lambda_: float
    rectified: bool
    times: tuple[int, ...] = (10, 25, 40)


def mean_gradient(z: Pictures, networks: Networks, formula: Formula, pairs: int = 4) -> Pictures:
    """Return the gradient at z in clean pictures, averaged over noise levels and pairs of opposite noises."""
    half = torch.randn(pairs, *z.shape[1:], generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    noise = torch.cat([half, -half]).repeat(len(formula.times), 1, 1, 1)
    t = torch.tensor(formula.times).repeat_interleave(2 * pairs)
    xt = add_noise(z.expand_as(noise), noise, BARS, t)
    cond, uncond = networks.cond()(xt, t), networks.uncond(formula.rectified)(xt, t)
    weight = time_weight("x0", BARS, t)
    grad = distillation_gradient(weight, noise, cond, uncond, formula.scale, formula.lambda_)
    return grad.mean(0, keepdim=True)


def distilled(
    networks: Networks, formula: Formula, start: Pictures, steps: int = 30, rate: float = 0.5
) -> Pictures:
    """Return where gradient descent on the picture itself is after ``steps``, from ``start``."""
    z = start
    for _ in range(steps):
        z = z - rate * mean_gradient(z, networks, formula)
    return z


# -------------------------------------------------------------------------------------------------------- picture

RED = (0.16, -0.08, -0.08)
NONE = (0.0, 0.0, 0.0)
STORIES = (
    ("own prediction shares\nthe condition's error,\nbase is exact", RED, RED, NONE),
    ("condition is exact,\nown prediction errs,\nbase is exact", NONE, (-0.12, 0.06, 0.06), NONE),
    ("all three are exact", NONE, NONE, NONE),
)
LEFT = 150  # pixels of the row's heading


def stories(world: World, box: int = 8, side: int = 1) -> list[tuple[str, Networks]]:
    """Return the networks of each row of the picture, with what they are to show."""
    tints = [(name, *(torch.tensor(tint, dtype=torch.float64) for tint in row)) for name, *row in STORIES]
    return [(name, Networks(world, box, side, c, u, b)) for name, c, u, b in tints]


def shown(picture: Float[Tensor, "3 S S"]) -> Float[Tensor, "3 h w"]:
    """Return the picture in [0, 1], its pixels as squares."""
    return ((picture + 1) / 2).clamp(0, 1).float().repeat_interleave(10, 1).repeat_interleave(10, 2)


def sheet(world: World) -> Image.Image:
    """Return a row for each story: the front, the truth, then samples plain and rectified at each scale."""
    rows, heads = [], ["given:\nfront", "truth:\nleft"]
    heads += [f"{way}\ns = {s:g}" for way in WAYS for s in SCALES]
    for _, networks in stories(world):
        made = [sampled(networks, scale, WAYS[way])[0] for way in WAYS for scale in SCALES]
        rows.append(
            [shown(picture) for picture in (world.pictures[networks.box, 0], networks.truth[0], *made)]
        )
    grid = chart.titled_sheet(rows, heads, 80)
    canvas = Image.new("RGB", (grid.width + LEFT, grid.height), "white")
    canvas.paste(grid, (LEFT, 0))
    draw = ImageDraw.Draw(canvas)
    for i, (name, _) in enumerate(stories(world)):
        draw.multiline_text((8, 34 + 84 * i + 40), name, "black", chart.font(12), "lm")
    return canvas


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture, and print how far off each of its samples is."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "exact_world.png")
    args = flags.parse_args(argv)
    world = World.make()
    print(f"wrote {chart.write_image(args.out, sheet(world))}; root mean square errors, and theory's:")
    for name, networks in stories(world):
        for way, scale in itertools.product(WAYS, SCALES):
            off = sampled(networks, scale, WAYS[way]) - networks.truth
            theory = networks.limit(scale, 1.0, WAYS[way]) - networks.truth
            sizes = [float(x.square().mean().sqrt()) for x in (off, theory)]
            print(f"{' '.join(name.split())}: {way}, s = {scale:g}: {sizes[0]:.3f} ({sizes[1]:.3f})")


if __name__ == "__main__":
    main()
