"""Prompt processors: from a sentence and the cameras to the conditions of a text denoiser."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.module import C, Module
from usd.denoiser import Embedding, TextDenoiser
from usd.math.camera import Cameras


@dataclass(frozen=True)
class Prompts:
    """Conditions, one row per camera: of what the view should show, and of what it is compared with.

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
        """Return the conditions for these cameras."""

    @property
    def negative(self) -> str:
        """Return the negative prompt; empty where there is none."""
        return ""

    def check_prompt(self) -> None:
        """Raise ``UserError`` for a prompt that cannot be used, as far as can be told without weights or a download."""

    def unused_options(self) -> list[str]:
        """Return the keys of options that are given and unused where only ``unconditional`` is asked for."""
        return []

    def unconditional(self, model: TextDenoiser, batch: int) -> Embedding:
        """Return the unconditional embedding of ``batch`` pictures under ``model``: that of the negative prompt."""
        return model.unconditional(batch)
