"""``usd evaluate rectification PICTURE --config RECIPE``: whether another model's unconditional prediction helps here.

The models are those of the recipe's guidance. Of the user's object only the picture is known, so it is asked for as a
novel view: a view from the side is sampled, and the picture is the view to predict from that one. Errors of the three
predictions there say whose guidance errs less, and which mixture of both unconditional predictions errs least
(usd/math/rectification.py; docs/claims.md says how well that holds on objects whose other sides are known).
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.app.devices import usable_device
from usd.app.experiment import load_experiment
from usd.core import files, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.loading import find_config
from usd.core.progress import each
from usd.core.schedule import Schedule
from usd.data.reference import load_reference
from usd.data.usd_random_camera import UsdRandomCameraConfig, reference_camera
from usd.denoiser import open_text_denoiser, open_view_denoiser
from usd.evaluation.rectification import ModelPair, Probe, looking_back
from usd.guidance.picture_scores import WHERE, WHERE_VIEWS, PictureOptions
from usd.guidance.usd import UsdGuidance
from usd.math.diffusion import timestep_range
from usd.math.rectification import best_own_share, crossing_scale, guided_error, rectification_gain
from usd.system.usd import UsdConfig

SURE = 2.0
"""Standard errors from which on a difference is told from zero."""


@dataclass(frozen=True)
class RectificationAnswer:
    """Moments of N sights of the picture at T noise levels, and scale and lambda of the formula to judge."""

    moments: Float[Tensor, "N T 3 3"]
    times: tuple[int, ...]
    scale: float
    lambda_: float = 1.0

    @property
    def mean(self) -> Float[Tensor, "T 3 3"]:
        """Moments averaged over sights."""
        return self.moments.mean(0)

    def gain(self, scale: float) -> tuple[float, float]:
        """Return by how much of plain guidance's error rectified guidance errs less, and the standard error of that."""
        plain = guided_error(self.mean, scale, 1.0, self.lambda_).mean()
        each = rectification_gain(self.moments, scale, self.lambda_).mean(1) / plain
        error = each.std() / len(each) ** 0.5 if len(each) > 1 else torch.zeros(())
        return float(each.mean()), float(error)

    @property
    def shares(self) -> tuple[float, ...]:
        """Best share of the own prediction at each noise level, to two digits."""
        return tuple(round(float(share), 2) for share in best_own_share(self.mean, self.scale, self.lambda_))

    def mixed_gain(self) -> float:
        """Return by how much of plain guidance's error the best mixture errs less."""
        plain, mixture = (
            guided_error(self.mean, self.scale, torch.tensor(shares).to(self.mean), self.lambda_).mean()
            for shares in (1.0, self.shares)
        )
        return float(1 - mixture / plain)

    def schedule(self, count: int) -> Schedule:
        """Return the shares as ``own_share``: over the noise level in thousandths of ``count`` times."""
        return Schedule(tuple(round(1000 * time / count) for time in self.times), self.shares)


def rectification_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line of ``usd evaluate rectification``. Raises ``UserError``."""
    parser = argparse.ArgumentParser(
        prog="usd evaluate rectification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("picture", metavar="PICTURE", help="any file that image-to-3D takes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument(
        "--config", default="usd-patch", metavar="RECIPE", help="recipe whose models are asked"
    )
    parser.add_argument(
        "--azimuths", type=float, nargs="+", default=[90.0, 270.0], metavar="DEG",
        help="sides from which the picture is asked for; 0: as a view of itself",
    )  # fmt: skip
    parser.add_argument("--levels", type=int, default=8, help="noise levels, over the range of the guidance")
    parser.add_argument("--draws", type=int, default=4, help="times that all is repeated with other noise")
    parser.add_argument(
        "--device", type=usable_device, default="cpu", help="where the models run: cpu, cuda, cuda:1 ..."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the mixture as a YAML file, to be given after the recipe",
    )
    args = parser.parse_intermixed_args(argv)
    if args.levels < 2 or args.draws < 1:
        raise UserError(f"--levels, --draws: are {args.levels}, {args.draws}; expected at least 2 and 1")
    return args


def answer_for(args: argparse.Namespace) -> tuple[RectificationAnswer, ModelPair]:
    """Measure what the command line asks for. Raises ``UserError``."""
    experiment, _ = load_experiment([find_config(args.config)], args.overrides)
    system, data = experiment.system.config, experiment.data.config
    found = system.view_guidance() if isinstance(system, UsdConfig) else None
    if not isinstance(system, UsdConfig) or not isinstance(data, UsdRandomCameraConfig) or found is None:
        raise UserError("--config: expected a recipe from a picture with a Zero-1-to-3, such as usd-patch")
    options = found[1]
    models = models_of(options, args.device)
    size, count = models.view.latent.image_size, len(models.view.alphas_cumprod)
    picture = load_reference(Path(args.picture), system.reference, "PICTURE").over(size).to(args.device)
    camera = reference_camera(data, size).to(args.device)
    low, high = timestep_range(options.min_step_percent(0), options.max_step_percent(0), count)
    times = tuple(round(low + (high - low) * i / (args.levels - 1)) for i in range(args.levels))
    rows = [
        looking_back(models, (picture, camera), args.azimuths, Probe(times, 1, seed))
        for seed in each(range(args.draws), "measuring predictions, draws")
    ]
    lambda_ = options.lambda_ if isinstance(options, UsdGuidance.Config) else 1.0
    return RectificationAnswer(torch.cat(rows).cpu(), times, options.guidance_scale, lambda_), models


def models_of(options: PictureOptions, device: str) -> ModelPair:
    """Open the picture model and the text model of a guidance. Raises ``UserError``."""
    view = open_view_denoiser(options.zero123_model_name_or_path, WHERE_VIEWS, options.execution)
    base = open_text_denoiser(options.pretrained_model_name_or_path, WHERE, options.execution)
    return ModelPair(view.to(device), base.to(device))


# ------------------------------------------------------------------------------------------------------- output


def curve_table(answer: RectificationAnswer) -> str:
    """Return root mean square errors at each noise level, and the best share of the own prediction."""
    moments, formula = answer.mean, f"s = {answer.scale:g}, lambda = {answer.lambda_:g}"
    shares = [torch.tensor(some).to(moments) for some in (1.0, 0.0, answer.shares)]
    columns = [guided_error(moments, answer.scale, share, answer.lambda_).sqrt() for share in shares]
    singles = moments.diagonal(dim1=-2, dim2=-1).sqrt()
    head = f"errors of single predictions, and of the formula with {formula}:\n"
    head += f"{'t':>5}{'condition':>11}{'own':>8}{'base':>8} |{'plain':>8}{'rectified':>11}{'mixed':>8} | own share"
    rows = [
        f"{time:>5}{singles[i, 0]:>11.3f}{singles[i, 1]:>8.3f}{singles[i, 2]:>8.3f} |"
        f"{columns[0][i]:>8.3f}{columns[1][i]:>11.3f}{columns[2][i]:>8.3f} |{answer.shares[i]:>10.2f}"
        for i, time in enumerate(answer.times)
    ]
    return "\n".join([head, *rows])


def advice(answer: RectificationAnswer, schedule: Schedule) -> str:
    """Return what the figures say to do, in sentences."""
    gain, error = answer.gain(answer.scale)
    size = f"{abs(gain):.0%} (± {error:.0%})"
    if abs(gain) <= SURE * error:
        said = f"rectified and plain guidance are not told apart here ({gain:+.0%} ± {error:.0%}); keep the one model: "
        choice = "own"
    else:
        less = "less" if gain > 0 else "more"
        choice = "prior" if gain > 0 else "own"
        said = f"at s = {answer.scale:g} rectified guidance errs {size} {less} than plain guidance: "
    lines = [f"{said}system.guidance.unconditional={choice}"]
    crossing = crossing_scale(answer.mean.mean(0), answer.lambda_)
    if crossing is not None:
        now = "above" if answer.gain(crossing + 1)[0] > 0 else "below"
        lines.append(f"rectification pays {now} s = {crossing:.1f}, by these errors")
    plain = schedule.plain()
    lines.append(f"the best mixture errs {answer.mixed_gain():.0%} less than plain guidance:")
    lines.append(f"  system.guidance.unconditional=mixed 'system.guidance.own_share={plain}'")
    return "\n".join(lines)


def mixture_yaml(schedule: Schedule) -> str:
    """Return the mixture as a configuration file."""
    return f"system:\n  guidance:\n    unconditional: mixed\n    own_share: {schedule.plain()}\n"


def say_answer(args: argparse.Namespace) -> None:
    """Print the curve and what to do; write files. Raises ``UserError``."""
    answer, models = answer_for(args)
    schedule = answer.schedule(len(models.view.alphas_cumprod))
    seen = ", ".join(f"{azimuth:g}" for azimuth in args.azimuths)
    say(f"{models.view.name} against {models.base.name}; {args.picture} asked for from {seen} degrees")
    say(curve_table(answer))
    say(advice(answer, schedule))
    if args.json is not None:
        plain = {"times": answer.times, "scale": answer.scale, "moments": answer.mean.tolist()}
        gain, error = answer.gain(answer.scale)
        plain |= {"gain": gain, "standard_error": error, "own_share": schedule.plain()}
        files.write_atomically(args.json, json.dumps(plain, indent=1) + "\n")
    if args.write is not None:
        files.write_atomically(args.write, mixture_yaml(schedule))


def main(argv: list[str] | None = None) -> int:
    """Run ``usd evaluate rectification``; return the exit code."""
    return process.run_command(lambda: say_answer(rectification_arguments(argv)))


if __name__ == "__main__":
    process.start(main)
