"""Prompt processors: from a sentence and the cameras to what a text denoiser is told."""

from abc import abstractmethod
from dataclasses import dataclass

from usd.core.module import Module
from usd.denoiser import Embedding
from usd.math.camera import Cameras


@dataclass(frozen=True)
class Prompts:
    """One row per camera: what the view should show, and what it is compared with."""

    cond: Embedding
    uncond: Embedding


class PromptProcessor(Module):
    """Turns a prompt into embeddings. Nothing is loaded before the first call."""

    @abstractmethod
    def forward(self, cameras: Cameras) -> Prompts:
        """The embeddings for these cameras."""
