"""A captured scene, edited by a sentence, whose pictures a generator makes (Control4D, arXiv 2305.20082).

Edited views disagree, so they are not fitted directly: a generator makes pictures of rendered features, and a
discriminator compares its pictures with edited ones. What is extracted of an edited picture guides the generator at
three levels, one of them a step. Views are rendered at the last one, so they are made of nothing but the scene.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from usd.core.config import ConfigError, Schedule, option
from usd.core.module import Module, NoOptions
from usd.core.random import generator as seeded_generator
from usd.core.registry import register
from usd.core.types import Render
from usd.data.multiview_camera import PictureBatch
from usd.losses.adversarial import discriminator_loss, generator_loss
from usd.losses.pictures import absolute_difference
from usd.math.diffusion import normal_like
from usd.network.picture_gan import CodeDistribution, PatchDiscriminator, PictureCodes
from usd.renderer import RenderRequest
from usd.renderer.gan_volume import GanVolumeRenderer
from usd.system.instructnerf2nerf import EditingSystem, InstructNerf2NerfConfig
from usd.system.optimizer import OptimizerConfig, make_optimizer

REBUILT, GUIDED, FREE = range(3)
"""Levels: the generator is given all codes of the picture, the global one, or none."""


@dataclass(frozen=True)
class DiscriminatorOptimizerConfig(OptimizerConfig):
    """``torch.optim`` by name, for the discriminator: the one module path of ``params``."""

    key: ClassVar[str] = "system.optimizer_dis"


@dataclass(frozen=True)
class Control4DConfig(InstructNerf2NerfConfig):
    """Components, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule.

    NAME is l1, p (LPIPS), kl (of local codes), G or D (generator and discriminator), or a regularizer.
    """

    optimizer_dis: DiscriminatorOptimizerConfig = option(
        {"name": "Adam", "args": {"lr": 1e-5, "betas": [0.9, 0.99]}},
        "how the discriminator's weights are updated",
    )
    discriminator_channels: int = option(64, "channels of the discriminator's first layer", ge=1, le=1024)


class Discriminator(Module[NoOptions]):
    """A discriminator and its optimizer: part of a training's state, of which no checkpoint needs the weights.

    To the system's own optimizer its weights are constants.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(NoOptions())
        self.network = PatchDiscriminator(channels).requires_grad_(False)
        self.optimizer: torch.optim.Optimizer | None = None

    def forward(self, picture: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 h w"]:
        """Judge pictures in [0, 1]."""
        return self.network(picture)

    def learn(
        self, real: Float[Tensor, "B 3 H W"], fake: Float[Tensor, "B 3 H W"], step: int, weight: float
    ) -> float:
        """Take a step towards telling fakes apart; return the loss. Nothing is learned where it is not finite."""
        assert self.optimizer is not None, "on_fit_start makes it"
        for group in self.optimizer.param_groups:
            if group.get("lr_schedule") is not None:
                group["lr"] = Schedule.parse(group["lr_schedule"])(step)
        self.network.requires_grad_(True)
        # Whole floats: its gradients pass no scaler that would keep half floats from vanishing.
        with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
            loss = discriminator_loss(self(real.float()), self(fake.detach().float()))
            (weight * loss).backward()
        self.network.requires_grad_(False)
        if bool(loss.isfinite()):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def training_state(self) -> dict[str, object]:
        """Return weights and optimizer."""
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"weights": dict(self.network.state_dict()), "optimizer": optimizer}

    def load_training_state(self, state: Mapping[str, object]) -> None:
        """Take them back; there are none in a new training."""
        if state:
            self.network.load_state_dict(cast(Mapping[str, Tensor], state["weights"]))
            if self.optimizer is not None and state["optimizer"] is not None:
                self.optimizer.load_state_dict(cast(dict[str, object], state["optimizer"]))


@register("control4d-multiview-system")
class Control4DSystem(EditingSystem[Control4DConfig]):
    """Control4D on a scene that does not move: edited as by Instruct-NeRF2NeRF, and learned by a generator."""

    transient: ClassVar[frozenset[str]] = EditingSystem.transient | {"discriminator"}
    picture_losses: ClassVar[Mapping[str, float]] = {"l1": 10.0, "p": 0.0, "kl": 1e-6, "G": 0.01, "D": 1.0}
    renderer: GanVolumeRenderer

    def build(self) -> None:
        """Build the scene and the discriminator."""
        super().build()
        self.discriminator = Discriminator(self.config.discriminator_channels)
        self.compared: tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 3 H W"], int] | None = None

    def check_channels(self) -> None:
        """Raise ``ConfigError`` for a renderer without generator."""
        if not isinstance(self.renderer, GanVolumeRenderer):
            raise ConfigError(
                f"system.renderer_type: {self.config.renderer.name} has no generator; expected gan-volume-renderer"
            )

    def on_fit_start(self) -> None:
        """Open the models, and make the discriminator's optimizer."""
        super().on_fit_start()
        self.discriminator.requires_grad_(True)
        self.discriminator.optimizer = make_optimizer(
            torch.nn.ModuleDict({"discriminator": self.discriminator}), self.config.optimizer_dis
        )
        self.discriminator.requires_grad_(False)

    def compute(self, batch: PictureBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the generator's weighted losses."""
        active, level = self.active(step), self.level(step)
        truth = self.edited.instead_of(batch.pictures, batch.indices)
        low = self.renderer.features(batch.cameras, self.needs_at(step), generator)
        codes, distribution = self.codes(level, truth, low, generator)
        made = self.renderer.picture(low, codes, RenderRequest(batch.cameras)).rgb
        losses = {**self.regularization(low, active), **self.level_losses(level, made, truth, active)}
        if "l1" in active:  # the scene's own colors are those of the pictures at every level
            colors = absolute_difference(low.rgb[:, :3], shrunk(truth, low))
            losses["l1"] = losses.get("l1", 0) + colors
        if "kl" in active and distribution is not None:
            losses["kl"] = distribution.divergence()
        self.compared = (truth, made.detach(), step)
        self.note_progress(made, truth)
        return {name: active[name] * loss for name, loss in losses.items()}

    @override
    def on_train_batch_end(self) -> None:
        """Let the discriminator learn from the pictures of a step, when the generator has learned from it."""
        if self.compared is not None:
            weight = self.weights["D"](self.compared[-1])
            if weight > 0:
                self.log("train/D", self.discriminator.learn(*self.compared, weight))
        self.compared = None

    def level(self, step: int) -> int:
        """Return how much of the pictures the generator is given in a step."""
        return int(torch.randint(3, (), generator=seeded_generator("cpu", self.seed, "level", 0, step)))

    def codes(
        self, level: int, truth: Float[Tensor, "B 3 H W"], low: Render, generator: torch.Generator
    ) -> tuple[PictureCodes, CodeDistribution | None]:
        """Return what the generator is given of pictures, and the distribution that local codes were drawn from."""
        codes = self.renderer.no_codes(low)
        if level == FREE:
            return codes, None
        codes = replace(codes, overall=self.renderer.global_encoder(truth))
        if level == GUIDED:
            return codes, None
        distribution = self.renderer.local_encoder(truth)
        noise = normal_like(distribution.mean, generator)
        return replace(codes, local=distribution.sample(noise)), distribution

    def level_losses(
        self,
        level: int,
        made: Float[Tensor, "B 3 H W"],
        truth: Float[Tensor, "B 3 H W"],
        active: Mapping[str, float],
    ) -> dict[str, Tensor]:
        """Return the active losses of generated pictures: of their pixels, of their look, or of their distribution."""
        compared = {REBUILT: ("l1", "p"), GUIDED: ("p",), FREE: ()}[level]
        losses = self.differences(made, truth, {name: active[name] for name in compared if name in active})
        if "G" in active:
            losses["G"] = generator_loss(self.discriminator(made))
        return losses


def shrunk(pictures: Float[Tensor, "B 3 H W"], low: Render) -> Float[Tensor, "B 3 h w"]:
    """Return pictures at the size of rendered features."""
    return interpolate(pictures, low.rgb.shape[2:], mode="bilinear", antialias=True)
