"""Prompt processors: from a sentence and the cameras to what a text denoiser is told."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.module import C, Module
from usd.denoiser import Embedding, TextDenoiser
from usd.math.camera import Cameras


@dataclass(frozen=True)
class Prompts:
    """One row per camera: what the view should show, and what it is compared with.

    ``negatives`` are what it should not show, each with a row of ``weights`` (not positive): see Perp-Neg in
    ``usd.math.distill``.
    """

    cond: Embedding
    uncond: Embedding
    negatives: tuple[Embedding, ...] = ()
    weights: Float[Tensor, "K B"] | None = None


class PromptProcessor(Module[C]):
    """Turns a prompt into embeddings. Nothing is loaded before the first call."""

    @abstractmethod
    def forward(self, cameras: Cameras) -> Prompts:
        """The embeddings for these cameras."""

    @property
    def negative(self) -> str:
        """The negative prompt; empty where there is none."""
        return ""

    def unheard(self) -> list[str]:
        """Keys of the options given that say nothing where only ``unconditional`` is asked for."""
        return []

    def unconditional(self, model: TextDenoiser, batch: int) -> Embedding:
        """What ``model`` is told where a formula tells it nothing, for ``batch`` pictures: the negative prompt."""
        return model.unconditional(batch)
