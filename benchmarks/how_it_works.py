"""Figures of docs/how-it-works.md, from the analytic denoiser: no weights, half a minute of one core.

python -m benchmarks.how_it_works --out docs/pictures

One number stands for a picture. The model that sees the reference expects it to be mu = 1 with a spread of 0.2, the
model that sees nothing expects anything from N(0, 1); a biased one expects N(0.6, 1). Gradient descent on each
formula of `usd.math.distill` shows where a rendered view would settle.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.chart import Axes, Line, line_chart, write_image
from usd.math.diffusion import (
    add_noise,
    gaussian_eps,
    normal_like,
    sample_timesteps,
    scaled_linear_alphas_cumprod,
)
from usd.math.distill import distillation_gradient, time_weight

BARS = scaled_linear_alphas_cumprod()
MEAN, SPREAD = 1.0, 0.2


@dataclass(frozen=True)
class Setting:
    """Scale and lambda of the formula, and the mean of what the unconditional prediction expects, N(prior, 1)."""

    scale: float
    lambda_: float
    prior: float = 0.0


def descent(setting: Setting, steps: int = 200, draws: int = 512) -> list[float]:
    """Return the value of a view at each step of gradient descent, from 0, over the mean of the condition."""
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(draws, 1, 1, 1)
    path = [0.0]
    for _ in range(steps):
        z = z - 0.5 / setting.scale * mean_gradient(z, setting, generator)
        path.append(float(z.mean()) / MEAN)
    return path


def mean_gradient(z: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
    """Return the gradient of the distillation formula, averaged over draws of t and noise."""
    t = sample_timesteps(len(z), 20, 980, generator, "cpu")
    noise = normal_like(z, generator)
    x_t = add_noise(z, noise, BARS, t)
    cond = gaussian_eps(x_t, torch.full_like(z, MEAN), torch.full((len(z),), SPREAD), BARS, t)
    ref = gaussian_eps(x_t, torch.full_like(z, setting.prior), torch.ones(len(z)), BARS, t)
    weight = time_weight("sds", BARS, t)
    grad = distillation_gradient(weight, noise, cond, ref, setting.scale, setting.lambda_)
    return grad.mean(0, keepdim=True)


def line(name: str, values: list[float]) -> Line:
    return Line(name, values, [0.0] * len(values))


def noising_figure() -> tuple[Axes, list[float], list[Line]]:
    """Return the mean noise that each model predicts in a picture, by the picture's value, at t = 500."""
    values = torch.linspace(-1, 3, 81).view(-1, 1, 1, 1)
    t, alpha = torch.full((81,), 500), BARS[500].sqrt()
    cond = gaussian_eps(alpha * values, torch.full_like(values, MEAN), torch.full((81,), SPREAD), BARS, t)
    ref = gaussian_eps(alpha * values, torch.zeros_like(values), torch.ones(81), BARS, t)
    lines = [
        line("sees the reference", cond.flatten().tolist()),
        line("sees nothing", ref.flatten().tolist()),
    ]
    axes = Axes("Predicted noise at t = 500: where it is 0 nothing pulls", "value of the view", "prediction")
    return axes, values.flatten().tolist(), lines


def descent_figure() -> tuple[Axes, list[float], list[Line]]:
    """Return the way of a view under three settings of s and lambda, and under a biased unconditional prediction."""
    lines = [
        line("lambda 1, scale 1", descent(Setting(1.0, 1.0))),
        line("lambda 0", descent(Setting(5.0, 0.0))),
        line("lambda 0, biased", descent(Setting(5.0, 0.0, prior=0.6))),
    ]
    axes = Axes("Where a view settles; the model expects 1", "step", "value of the view", 560, 400)
    return axes, [float(i) for i in range(len(lines[0].values))], lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.how_it_works", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the two pictures")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in (("pull", noising_figure()), ("descent", descent_figure())):
        print(write_image(out / f"how_it_works_{name}.png", line_chart(*figure)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
