"""How many Gaussians, and where: adaptive density control (arXiv 2308.04079) and Markov chain Monte Carlo (2404.09591).

Both change the number of rows of every parameter, and of what the optimizer remembers of it: new rows remember nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter

from usd.core import ranks
from usd.core.config import option
from usd.core.errors import UserError
from usd.math.quaternions import rotation_of_quaternion
from usd.math.safe import logit

Strategy = Literal["none", "adaptive", "mcmc"]
StateChange = Callable[[Tensor], Tensor]
SPLIT_SHRINK = 1.6
RESET_OPACITY = 0.01
DEAD = 0.005
BINOMIALS = 51


@dataclass(frozen=True)
class DensityConfig:
    """Options of how the number of Gaussians changes."""

    strategy: Strategy = option(
        "adaptive",
        "how Gaussians come and go; none: never; adaptive: cloned and split where pictures pull at them, dropped where"
        " faint; mcmc: moved from where they are faint to where they are opaque, and jittered",
    )
    start: int = option(500, "first step after which the number of Gaussians may change", ge=0)
    end: int = option(15000, "step after which the number of Gaussians stays", ge=0)
    every: int = option(100, "steps between changes of the number of Gaussians", ge=1)
    most: int = option(200_000, "largest number of Gaussians that training makes", ge=1, le=50_000_000)
    slope_threshold: float = option(
        2e-4,
        "adaptive: gradient of a center, in halves of the picture, above which a Gaussian becomes two",
        gt=0,
    )
    split_scale: float = option(
        0.01, "adaptive: scale, in radii, above which a Gaussian is split and not cloned", gt=0
    )
    prune_opacity: float = option(0.005, "adaptive: opacity below which a Gaussian is dropped", ge=0, lt=1)
    prune_scale: float = option(0.5, "adaptive: scale, in radii, above which a Gaussian is dropped", gt=0)
    reset_every: int | None = option(
        3000, "adaptive: steps between resets of all opacities to 0.01; null: never", ge=1
    )
    growth: float = option(0.05, "mcmc: share of Gaussians that is added at each change", ge=0, le=1)
    noise: float = option(5e5, "mcmc: jitter of faint Gaussians, in learning rates of their means", ge=0)


@dataclass
class SplatRows:
    """The parameters with a row for each Gaussian, the optimizer that trains them, and records of the same rows."""

    parameters: Mapping[str, Parameter]
    optimizer: torch.optim.Optimizer
    records: dict[str, Tensor]

    def take(self, index: Int[Tensor, "M"], fresh: Bool[Tensor, "M"]) -> None:
        """Have the rows ``index`` instead, in that order; the optimizer remembers nothing of ``fresh`` ones."""
        for parameter in self.parameters.values():
            old = parameter.shape
            parameter.data, parameter.grad = parameter.data[index], None
            self._change_state(parameter, old, lambda state: _without(state[index], fresh))
        self.records = {name: record.new_zeros(len(index)) for name, record in self.records.items()}

    def forget(self, name: str, rows: Bool[Tensor, "N"] | None = None) -> None:
        """Have the optimizer remember nothing of a parameter, or of some of its rows."""
        parameter = self.parameters[name]
        chosen = (
            torch.ones(len(parameter), dtype=torch.bool, device=parameter.device) if rows is None else rows
        )
        self._change_state(parameter, parameter.shape, lambda state: _without(state, chosen))

    def _change_state(self, parameter: Parameter, shape: torch.Size, change: StateChange) -> None:
        """Change what the optimizer keeps for each number of a parameter."""
        state = self.optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape:
                state[key] = change(value)

    def learning_rate(self, name: str) -> float:
        """Return the learning rate of a parameter."""
        wanted = self.parameters[name]
        groups = self.optimizer.param_groups
        return next(float(group["lr"]) for group in groups if any(p is wanted for p in group["params"]))


def _without(state: Tensor, rows: Bool[Tensor, "N"]) -> Tensor:
    """Return state with zeros in some rows."""
    return torch.where(rows.view(-1, *(1,) * (state.dim() - 1)), torch.zeros_like(state), state)


@dataclass(frozen=True)
class DensityControl:
    """A strategy at work. ``radius`` is that of the object's cube."""

    config: DensityConfig
    radius: float

    def wants_slopes(self, step: int) -> bool:
        """Return whether the gradients of centers are still needed."""
        return self.config.strategy == "adaptive" and step <= self.config.end

    def __call__(self, rows: SplatRows, step: int, generator: torch.Generator) -> None:
        """Change the Gaussians after a step, where it is time. Raises ``UserError`` for several processes."""
        config = self.config
        if config.strategy == "none":
            return
        if ranks.processes() > 1:
            raise UserError(
                f"system.geometry.density.strategy: is {config.strategy}, and several processes cannot change the "
                "number of Gaussians; expected none, or one process"
            )
        due = config.start <= step <= config.end and step % config.every == 0 and step > 0
        if config.strategy == "mcmc":
            if due:
                self._relocate(rows, generator)
            self._jitter(rows, generator)
            return
        if due:
            self._adapt(rows, generator)
        if config.reset_every is not None and 0 < step <= config.end and step % config.reset_every == 0:
            least = float(logit(torch.tensor(RESET_OPACITY)))
            rows.parameters["opacities"].data.clamp_(max=least)
            rows.forget("opacities")

    # ------------------------------------------------------------------------------------------------- adaptive

    def _adapt(self, rows: SplatRows, generator: torch.Generator) -> None:
        """Clone small Gaussians and split large ones that are pulled far; drop faint and huge ones."""
        config, scales = self.config, rows.parameters["scales"].data.exp().amax(1)
        n = len(scales)
        wanted = self._pulled(rows)
        large = scales > config.split_scale * self.radius
        clone, split = (wanted & ~large).nonzero()[:, 0], (wanted & large).nonzero()[:, 0]
        stay = (~(wanted & large)).nonzero()[:, 0]
        index = torch.cat([stay, clone, split, split])
        fresh = torch.arange(len(index), device=index.device) >= len(stay)
        rows.take(index, fresh)
        if len(split):
            self._scatter_halves(rows, 2 * len(split), generator)
        opaque = rows.parameters["opacities"].data.sigmoid() >= config.prune_opacity
        small = rows.parameters["scales"].data.exp().amax(1) <= config.prune_scale * self.radius
        keep = (opaque & small).nonzero()[:, 0]
        if len(keep) < len(index) or len(index) != n:
            rows.take(keep, torch.zeros_like(keep, dtype=torch.bool))

    def _pulled(self, rows: SplatRows) -> Bool[Tensor, "N"]:
        """Return which Gaussians are to become two: those pulled farthest, as far as there is room for more."""
        slope = rows.records["slope"] / rows.records["count"].clamp_min(1)
        wanted = slope >= self.config.slope_threshold
        room = self.config.most - len(slope)
        if int(wanted.sum()) > room:
            first = slope.argsort(descending=True, stable=True)[: max(room, 0)]
            wanted = wanted & torch.zeros_like(wanted).index_fill_(0, first, True)
        return wanted

    def _scatter_halves(self, rows: SplatRows, count: int, generator: torch.Generator) -> None:
        """Draw the places of the last ``count`` Gaussians, the halves of split ones, from what they were."""
        means, scales = rows.parameters["means"].data, rows.parameters["scales"].data
        noise = torch.randn(count, 3, generator=generator, device=means.device)
        turn = rotation_of_quaternion(rows.parameters["rotations"].data[-count:])
        means[-count:] += (turn @ (noise * scales[-count:].exp())[..., None])[..., 0]
        scales[-count:] -= math.log(SPLIT_SHRINK)

    # ----------------------------------------------------------------------------------------------------- mcmc

    def _relocate(self, rows: SplatRows, generator: torch.Generator) -> None:
        """Put dead Gaussians, and new ones, where opaque ones are; together they look as the one did."""
        opacity = rows.parameters["opacities"].data.sigmoid()
        dead = opacity <= DEAD
        if bool(dead.all()):
            return
        n = len(opacity)
        added = min(int(self.config.growth * n), max(self.config.most - n, 0))
        chance = torch.where(dead, torch.zeros_like(opacity), opacity)
        homes = torch.multinomial(chance, int(dead.sum()) + added, replacement=True, generator=generator)
        index = torch.cat([torch.arange(n, device=homes.device), homes[int(dead.sum()) :]])
        index[dead.nonzero()[:, 0]] = homes[: int(dead.sum())]
        copies = torch.bincount(homes, minlength=n)[index] + 1
        shared = copies > 1
        rows.take(index, shared)
        self._share(rows, copies.clamp_max(BINOMIALS), shared)

    def _share(self, rows: SplatRows, copies: Int[Tensor, "N"], shared: Bool[Tensor, "N"]) -> None:
        """Give Gaussians of which there are several at one place the opacity and scale that look as one did (eq. 9)."""
        opacities, scales = rows.parameters["opacities"].data, rows.parameters["scales"].data
        old = opacities.sigmoid()
        new = 1 - (1 - old) ** (1 / copies)
        factor = old / _overlap(new, copies)
        opacities.copy_(torch.where(shared, logit(new.clamp(DEAD, 1 - 1e-6), 1e-6), opacities))
        scales.copy_(torch.where(shared[:, None], scales + factor.log()[:, None], scales))

    def _jitter(self, rows: SplatRows, generator: torch.Generator) -> None:
        """Move faint Gaussians at random, as far as they are large: this is what explores."""
        means, scales = rows.parameters["means"].data, rows.parameters["scales"].data
        opacity = rows.parameters["opacities"].data.sigmoid()
        noise = torch.randn(means.shape, generator=generator, device=means.device)
        # Opaque ones stay where they are: a steep step at an opacity of 0.005.
        amount = torch.sigmoid(-100 * (opacity - DEAD)) * self.config.noise * rows.learning_rate("means")
        turn = rotation_of_quaternion(rows.parameters["rotations"].data)
        spread = turn @ (scales.exp().square()[..., None] * (turn.transpose(1, 2) @ noise[..., None]))
        means += spread[..., 0] * amount[:, None]


def _overlap(opacity: Float[Tensor, "N"], copies: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return the opacity along a line of N equal Gaussians in one place, in units of one that is opaque.

    sum over i to N and k below i of binomial(i - 1, k) (-1)^k o^(k + 1) / sqrt(k + 1).
    """
    total = torch.zeros_like(opacity, dtype=torch.float64)
    o = opacity.double()
    for i in range(1, int(copies.max()) + 1 if len(copies) else 1):
        terms = [math.comb(i - 1, k) * (-1) ** k * o ** (k + 1) / math.sqrt(k + 1) for k in range(i)]
        total += torch.where(copies >= i, torch.stack(terms).sum(0), torch.zeros_like(o))
    return total.to(opacity)
