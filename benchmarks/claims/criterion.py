#!/usr/bin/env python3
"""When does rectification help? What the criterion predicts, against what sampling gains, for many networks.

    python benchmarks/claims/criterion.py                     the shipped models, and damaged ones; 48 toys
    python benchmarks/claims/criterion.py --only shipped own-0.1 --objects 4
    python benchmarks/claims/criterion.py --models outputs/claims/fine_tunings/models     fine-tunings, too

For every toy a novel view is known. At each noise level the errors of the conditional, the own unconditional and the
base's unconditional prediction are measured against the noise that was added; their inner products (*moments*) predict
whose guidance errs less. Then the view is sampled by DDIM, plain and rectified, from the same noise, and compared with
the truth. *Damaged* networks have noise added to the weights of the UNet: to the base, to the network of the own
unconditional prediction alone, or to the picture model as a whole, whose two predictions then share their errors.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from usd.core.errors import UserError
from usd.core.schedule import Schedule
from usd.denoiser import Embedding, ViewDenoiser, open_text_denoiser, open_view_denoiser
from usd.denoiser.execution import Execution
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import UNetDenoiser
from usd.denoiser.sample import conditional_eps
from usd.evaluation.metrics import psnr, sharpness, ssim
from usd.evaluation.rectification import ModelPair, Probe, looking_back, view_moments
from usd.math.diffusion import EpsFn, ddim_sample, ddim_timesteps, guided_fn
from usd.math.rectification import best_own_share, guided_error, mixed_fn
from usd.toybox.cameras import held_out_cameras, reference_camera
from usd.toybox.objects import make_toy
from usd.toybox.render import render

OBJECTS, GROUP, VIEWS = 48, 16, 8
TIMES = (50, 150, 300, 450, 600, 750, 850, 950)
SCALES = (3.0, 5.0)
WAYS = {"plain": "own", "rectified": "base"}  # the network of the unconditional prediction
BACK = (0.0, 90.0, 270.0)  # azimuths of ``looking_back``
D = TypeVar("D", bound=UNetDenoiser)


@dataclass(frozen=True)
class Setting:
    """One trio of networks: a picture model (by default that of the flags), and the noise that each one's weights got.

    ``view`` damages the picture model as a whole, ``own`` only the one of its unconditional prediction.
    """

    name: str
    model: str = ""
    view: float = 0.0
    own: float = 0.0
    base: float = 0.0


def damaged_settings() -> list[Setting]:
    """Return the shipped models, and those with damage to the own prediction, to the picture model, or to the base."""
    return [
        Setting("shipped"),
        *(Setting(f"own-{amount:g}", own=amount) for amount in (0.1, 0.2, 0.3)),
        *(Setting(f"view-{amount:g}", view=amount) for amount in (0.1, 0.2)),
        *(Setting(f"base-{amount:g}", base=amount) for amount in (0.1, 0.2)),
    ]


def trained_settings(folder: Path | None) -> list[Setting]:
    """Return the finished models below a folder."""
    indices = sorted(folder.glob("*/model_index.json")) if folder else []
    return [Setting(file.parent.name, str(file.parent)) for file in indices]


def damaged(model: D, amount: float, seed: int = 0) -> D:
    """Return the model with noise on its UNet: ``amount`` of each weight tensor's own spread; as it is for 0."""
    if amount == 0:
        return model
    copy = type(model)(model.config, model.name)
    files, execution = copy.files, copy.execution

    def read() -> nn.Module:
        network, source = files.network("unet"), torch.Generator().manual_seed(seed)
        for weight in network.parameters():
            if weight.dim() > 1:
                noise = torch.randn(weight.shape, generator=source)
                weight.data += (amount * weight.std() * noise).to(weight)
        return network

    copy.unet = Frozen(read, execution.weights, execution)
    return copy


def open_models(setting: Setting, args: argparse.Namespace) -> ModelPair:
    """Open the networks of a setting, in bfloat16. Raises ``UserError``."""
    execution = Execution(weights="bf16")
    view = open_view_denoiser(setting.model or args.zero123, "--zero123, --models", execution)
    text = open_text_denoiser(args.stable_diffusion, "--stable-diffusion", execution)
    own = None
    if setting.view or setting.own or setting.base:
        if not isinstance(view, UNetDenoiser) or not isinstance(text, UNetDenoiser):
            raise UserError(f"--only: {setting.name}: is damaged; expected models with a UNet")
        own = damaged(view, setting.own).to(args.device) if setting.own else None
        view, text = damaged(view, setting.view), damaged(text, setting.base)
    return ModelPair(view.to(args.device), text.to(args.device), own)


# ------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True, eq=False)
class Task:
    """Toys of a group: a reference picture and one novel view each, with alpha."""

    seeds: tuple[int, ...]
    references: Float[Tensor, "B 3 S S"]
    views: Float[Tensor, "B 4 S S"]

    @classmethod
    @cache
    def of(cls, seeds: tuple[int, ...], size: int) -> "Task":
        """Render the toys; the views go around from one toy to the next."""
        references, views = [], []
        for seed in seeds:
            toy, camera = make_toy(seed), held_out_cameras(VIEWS, size)[[seed % VIEWS]]
            seen = render([toy], camera)
            references.append(render([toy], reference_camera(size)).over_white())
            views.append(torch.cat([seen.over_white(), seen.alpha[:, None]], 1))
        return cls(seeds, torch.cat(references), torch.cat(views))


def joined(embeddings: Sequence[Embedding]) -> Embedding:
    """Return the rows of embeddings of one kind, one after another."""
    rows = [each.tensors() for each in embeddings]
    return embeddings[0].map(lambda name, _: torch.cat([row[name] for row in rows]))


@lru_cache(maxsize=8)
def condition_of(view: ViewDenoiser, task: Task) -> Embedding:
    """Return the condition of each toy's view."""
    size, found = task.references.shape[-1], []
    for seed, picture in zip(task.seeds, task.references, strict=True):
        encoded = view.encode_reference(picture[None], reference_camera(size))
        found.append(view.embed_view(encoded, held_out_cameras(VIEWS, size)[[seed % VIEWS]]))
    return joined(found)


@dataclass(frozen=True)
class Probing:
    """How everything is measured: draws of noise a level, DDIM steps, the folder of figures."""

    draws: int
    steps: int
    ledger: runs.Ledger

    @property
    def probe(self) -> Probe:
        """The noise levels and draws of moments."""
        return Probe(TIMES, self.draws)


def moments_of(models: ModelPair, task: Task, probing: Probing) -> list[tables.Figures]:
    """Return each view's moments."""
    z = models.view.encode(task.views[:, :3])
    found = view_moments(models, z, condition_of(models.view, task), probing.probe)
    return [{"moments": each.flatten().tolist()} for each in found]


def estimates_of(models: ModelPair, task: Task, probing: Probing) -> list[tables.Figures]:
    """Return what ``usd evaluate rectification`` finds from each toy's one picture: moments by azimuth."""
    camera = reference_camera(task.references.shape[-1])
    rows = [looking_back(models, (picture[None], camera), BACK, probing.probe) for picture in task.references]
    return [{f"{azimuth:g}": row[i].flatten().tolist() for i, azimuth in enumerate(BACK)} for row in rows]


@torch.no_grad()
def scores_of(
    models: ModelPair, task: Task, probing: Probing, uncond: EpsFn, scale: float
) -> list[tables.Figures]:
    """Return PSNR, SSIM and sharpness of the views sampled with this unconditional prediction."""
    space, truth = models.view.latent, task.views[:, :3]
    cond = conditional_eps(models.view, condition_of(models.view, task))
    shape = (1, space.channels, space.height, space.width)
    noise = torch.cat(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in task.seeds]
    )
    z = ddim_sample(
        guided_fn(cond, uncond, scale), noise, ddim_timesteps(probing.steps), models.view.alphas_cumprod
    )
    made = models.view.decode(z)
    sharp = sharpness(torch.cat([made, task.views[:, 3:]], 1))
    scores = {"psnr": psnr(made, truth), "ssim": ssim(made, truth), "sharpness": sharp}
    return [{name: float(score[i]) for name, score in scores.items()} for i in range(len(truth))]


Measure = Callable[[Task], list[tables.Figures]]


def kept(
    probing: Probing, seeds: Sequence[int], size: int, settings: runs.Settings, measure: Measure
) -> dict[str, tables.Figures]:
    """Return the figures of each toy: from before, or measured in groups."""
    missing = [seed for seed in seeds if probing.ledger.known(str(seed), settings) is None]
    for group in [missing[i : i + GROUP] for i in range(0, len(missing), GROUP)]:
        for seed, row in zip(group, measure(Task.of(tuple(group), size)), strict=True):
            probing.ledger.figures(str(seed), settings, partial(dict, row))
    return {str(seed): probing.ledger.known(str(seed), settings) or {} for seed in seeds}


@dataclass(frozen=True)
class Networks:
    """The networks of a setting, and what tells each from all others."""

    models: ModelPair
    marks: dict[str, str]

    @classmethod
    def open(cls, setting: Setting, args: argparse.Namespace) -> "Networks":
        """Open the networks of a setting. Raises ``UserError``."""
        models = open_models(setting, args)
        view, text = shared.model_mark(models.view), shared.model_mark(models.base)
        marks = {"view": f"{view} {setting.view:g}", "base": f"{text} {setting.base:g}"}
        marks["own"] = f"{view} {setting.own:g}" if setting.own else marks["view"]
        return cls(models, marks)

    def settings(self, kind: str, probing: Probing, *networks: str, **more: object) -> runs.Settings:
        """Return what figures of a kind depend on, where these networks are asked."""
        marks = {name: self.marks[name] for name in networks}
        return {"kind": kind, "draws": probing.draws, "steps": probing.steps, **marks, **more}

    def uncond(self, way: str, count: int) -> EpsFn:
        """Return the unconditional prediction of a way for that many views."""
        model = self.models.base if way == "rectified" else self.models.own
        return conditional_eps(model, model.unconditional(count))


def sampled(
    networks: Networks, seeds: Sequence[int], probing: Probing, way: str, scale: float
) -> dict[str, tables.Figures]:
    """Return the scores of each toy's view, sampled plain, rectified, or with the condition alone."""
    settings = networks.settings("sampled", probing, "view", WAYS[way], scale=scale)
    models = networks.models

    def measure(task: Task) -> list[tables.Figures]:
        return scores_of(models, task, probing, networks.uncond(way, len(task.seeds)), scale)

    return kept(probing, seeds, models.view.latent.image_size, settings, measure)


def moments_by_toy(
    networks: Networks, seeds: Sequence[int], probing: Probing, kind: str = "moments"
) -> dict[str, tables.Figures]:
    """Return each toy's moments, of its novel view (``moments``) or as estimated from its picture (``estimates``)."""
    measure = {"moments": moments_of, "estimates": estimates_of}[kind]
    settings = networks.settings(kind, probing, "view", "own", "base", times=TIMES)
    size = networks.models.view.latent.image_size
    return kept(probing, seeds, size, settings, lambda task: measure(networks.models, task, probing))


def other_half_share(found: tables.Found, scale: float, odd: bool) -> Callable[[Tensor], Tensor]:
    """Return the best share of the own prediction over t, from the toys that are not of this half."""
    rows = [moments for i, moments in enumerate(series(found, "moments")) if (i % 2 == 1) != odd]
    shares = best_own_share(torch.stack(rows).mean(0), scale)
    curve = Schedule(TIMES, tuple(shares.tolist()))
    return lambda t: torch.tensor([curve(time) for time in t.tolist()])


def mixed(
    networks: Networks, seeds: Sequence[int], probing: Probing, scale: float, moments: tables.Found
) -> dict[str, tables.Figures]:
    """Return the scores of views sampled with the mixture that was best on the other half of the toys."""
    models = networks.models
    found: dict[str, tables.Figures] = {}
    for odd in (False, True):
        share, half = other_half_share(moments, scale, odd), seeds[1 if odd else 0 :: 2]
        curve = [round(float(a), 4) for a in share(torch.tensor(TIMES))]
        settings = networks.settings("mixed", probing, "view", "own", "base", scale=scale, curve=curve)

        def measure(task: Task, share: Callable[[Tensor], Tensor] = share) -> list[tables.Figures]:
            own, base = (networks.uncond(way, len(task.seeds)) for way in ("plain", "rectified"))
            return scores_of(models, task, probing, mixed_fn(own, base, share), scale)

        found |= kept(probing, half, models.view.latent.image_size, settings, measure)
    return {str(seed): found[str(seed)] for seed in seeds}


def series(found: tables.Found, key: str) -> list[Float[Tensor, "T 3 3"]]:
    """Return each toy's moments."""
    return [torch.tensor(row, dtype=torch.float64).view(-1, 3, 3) for row in tables.series(found, key)]


@dataclass(frozen=True)
class Outcome:
    """What was measured of one setting, each by toy; ``mixed`` and ``estimates`` are empty where not asked for."""

    name: str
    moments: tables.Found
    sampled: Mapping[tuple[str, float], tables.Found]  # by way and scale
    estimates: tables.Found

    def gains(self, scale: float, key: str = "psnr", way: str = "rectified") -> list[float]:
        """Return by how much a figure is larger than with plain guidance, toy by toy."""
        ours, plain = self.sampled[way, scale], self.sampled["plain", scale]
        return [tables.number(ours[seed][key]) - tables.number(plain[seed][key]) for seed in plain]

    def predicted(self, scale: float) -> list[float]:
        """Return the gain of rectification, in dB, that each toy's moments predict."""
        return [predicted_gain(each, scale) for each in series(self.moments, "moments")]

    def estimated(self, scale: float, azimuths: Sequence[float]) -> list[float]:
        """Return the gain that each toy's one picture predicts, asked for from these azimuths."""
        each = [
            torch.stack(some).mean(0) for some in zip(*(series(self.estimates, f"{a:g}") for a in azimuths))
        ]
        return [predicted_gain(moments, scale) for moments in each]


def predicted_gain(moments: Float[Tensor, "T 3 3"], scale: float) -> float:
    """Return the gain of rectified over plain guidance in dB: the ratio of their mean square errors."""
    plain, rectified = (float(guided_error(moments, scale, share).mean()) for share in (1.0, 0.0))
    return 10 * math.log10(plain / rectified)


def outcome_of(setting: Setting, args: argparse.Namespace) -> Outcome:
    """Measure a setting, or take what is there. Raises ``UserError``."""
    networks, seeds = Networks.open(setting, args), runs.chosen_seeds(args)
    probing = Probing(args.draws, args.steps, runs.Ledger(args.out / "figures"))
    moments, found = moments_by_toy(networks, seeds, probing), {}
    for way, scale in itertools.product(WAYS, SCALES):
        found[way, scale] = sampled(networks, seeds, probing, way, scale)
    for scale in SCALES if setting.name in args.mixed else ():
        found["mixed", scale] = mixed(networks, seeds, probing, scale, moments)
    wanted = setting.name in args.estimate
    estimates = moments_by_toy(networks, seeds, probing, "estimates") if wanted else {}
    print(f"{setting.name}: measured", flush=True)
    return Outcome(setting.name, moments, found, estimates)


# --------------------------------------------------------------------------------------------------------- report


def difference(values: Sequence[float]) -> tables.Difference:
    """Return mean and standard error of differences."""
    return tables.paired(values, [0.0] * len(values))


def gain_table(outcomes: Sequence[Outcome]) -> str:
    """Return a row for each setting and scale: the gain of rectification, predicted and measured."""
    heads = ["networks", "s", "predicted, dB", "PSNR, dB", "SSIM", "sharpness"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for outcome, scale in itertools.product(outcomes, SCALES):
        cells = [outcome.name, f"{scale:g}", difference(outcome.predicted(scale)).words()]
        cells += [
            difference(outcome.gains(scale, key)).words(digits)
            for key, digits in (("psnr", 2), ("ssim", 3), ("sharpness", 3))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mixed_table(outcomes: Sequence[Outcome]) -> str:
    """Return rows of what the mixture gains over plain and over rectified guidance; empty where none was sampled."""
    lines = ["| networks | s | mixed minus plain, PSNR | mixed minus rectified, PSNR |", "|---|---|---|---|"]
    for outcome, scale in itertools.product(outcomes, SCALES):
        if ("mixed", scale) in outcome.sampled:
            over_plain = outcome.gains(scale, way="mixed")
            over_rectified = [a - b for a, b in zip(over_plain, outcome.gains(scale), strict=True)]
            cells = [
                outcome.name,
                f"{scale:g}",
                difference(over_plain).words(),
                difference(over_rectified).words(),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> str:
    """Return the share of objects on which two gains have the same sign."""
    same = sum((a > 0) == (b > 0) for a, b in zip(predicted, measured, strict=True))
    return f"{same} of {len(measured)}"


def agreement_table(outcomes: Sequence[Outcome]) -> str:
    """Return on how many toys the criterion has the sign of the measured gain: from the truth, and from one picture."""
    sides = {"itself": BACK[:1], "the sides": BACK[1:], "all three": BACK}
    heads = ["networks", "s", "gain above zero", "from the true view", *(f"from {name}" for name in sides)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for outcome, scale in itertools.product(outcomes, SCALES):
        gains = outcome.gains(scale)
        cells = [outcome.name, f"{scale:g}", f"{sum(gain > 0 for gain in gains)} of {len(gains)}"]
        cells.append(agreement(outcome.predicted(scale), gains))
        for azimuths in sides.values():
            cells.append(agreement(outcome.estimated(scale, azimuths), gains) if outcome.estimates else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(outcomes: Sequence[Outcome]) -> Image.Image:
    """Return the chart of predicted against measured gain: a point for each setting, a color for each scale."""
    groups = {}
    for scale in SCALES:
        rows = [(o, difference(o.predicted(scale)), difference(o.gains(scale))) for o in outcomes]
        groups[f"s = {scale:g}"] = [chart.Point(x.mean, y.mean, 1.96 * y.error, o.name) for o, x, y in rows]
    axes = chart.Axes(
        "Gain of rectification: predicted and measured", "predicted from errors at true views, dB",
        "measured in sampled views, PSNR, dB; bars: 95 %", 640, 420,
    )  # fmt: skip
    return chart.scatter_chart(axes, groups)


def report(args: argparse.Namespace, outcomes: Sequence[Outcome]) -> str:
    """Return the text that goes into the page."""
    text = f"{args.objects} toys that no training saw, one novel view each, {args.steps} DDIM steps; predicted from "
    text += (
        f"{len(TIMES)} noise levels, {args.draws} draws; rectified minus plain, paired, ± standard error.\n\n"
    )
    parts = [gain_table(outcomes), mixed_table(outcomes), agreement_table(outcomes)]
    return text + "\n\n".join(part for part in parts if part)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line. Raises ``UserError``."""
    flags = shared.parser(__doc__, "criterion")
    flags.set_defaults(objects=OBJECTS, kind="all")
    flags.add_argument("--only", nargs="+", metavar="NAME", help="these settings alone")
    flags.add_argument("--models", type=Path, help="folder of finished fine-tunings, further settings")
    for name, what in (
        ("mixed", "sampled with the best mixture, too"),
        ("estimate", "told by one picture, too"),
    ):
        flags.add_argument(
            f"--{name}", nargs="*", default=[], metavar="NAME", help=f"settings that are {what}"
        )
    flags.add_argument("--draws", type=int, default=1, help="noises per view and noise level")
    flags.add_argument("--steps", type=int, default=10, help="DDIM steps")
    args = shared.checked(flags.parse_args(argv))
    settings = [*damaged_settings(), *trained_settings(args.models)]
    names = [setting.name for setting in settings]
    for name in [*(args.only or ()), *args.estimate, *args.mixed]:
        if name not in names:
            raise UserError(
                f"--only, --mixed, --estimate: no setting '{name}'; expected some of {', '.join(names)}"
            )
    args.settings = [each for each in settings if args.only is None or each.name in args.only]
    return args


def run(args: argparse.Namespace) -> str:
    """Measure, and report."""
    outcomes = [outcome_of(setting, args) for setting in args.settings]
    text = report(args, outcomes)
    shared.finish(args, "criterion", text, [chart.write_image(args.out / "chart.png", draw(outcomes))])
    return text


if __name__ == "__main__":
    sys.exit(runs.command(lambda: print(run(arguments()))))
