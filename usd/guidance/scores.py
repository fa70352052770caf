"""Where a formula's noise predictions come from, whatever model makes them.

``Scores`` are two noise predictors for one batch of views: under the views' condition, and without it. A
``ScoreSource`` owns the diffusion models and makes the scores; ``picture_scores.py`` and ``text_scores.py`` hold one
source each, ``with_scores`` gives a formula written for one of them another one.
"""

import contextlib
import types
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import changed_base
from usd.core.module import Component
from usd.core.types import Render
from usd.denoiser import Denoiser, Embedding, TextDenoiser
from usd.math.camera import Cameras
from usd.math.diffusion import EpsFn, guided_fn
from usd.prompt_processor import PromptProcessor

Pictures = Float[Tensor, "B 3 H W"]


class NotFiniteError(Exception):
    """A tensor of a guidance has values that are not finite. The message says which tensor, and how many values."""


_waiting: ContextVar[list[tuple[Tensor, str]] | None] = ContextVar("waiting checks", default=None)


def require_finite(tensor: Tensor, name: str) -> Tensor:
    """Return ``tensor``. Raises ``NotFiniteError`` where it has values that are not finite.

    Inside ``checks_at_once`` that is asked, and raised, at the end of the block.
    """
    if (waiting := _waiting.get()) is None:
        _raise_first([(tensor, name)])
    else:
        waiting.append((tensor.detach(), name))
    return tensor


@contextlib.contextmanager
def checks_at_once() -> Iterator[None]:
    """Ask all that ``require_finite`` is asked inside at the end, so that a GPU is waited for once.

    Raises ``NotFiniteError`` for the first tensor that is not finite.
    """
    checks: list[tuple[Tensor, str]] = []
    outer = _waiting.set(checks)
    try:
        yield
    finally:
        _waiting.reset(outer)
    _raise_first(checks)


def _raise_first(checks: Sequence[tuple[Tensor, str]]) -> None:
    if not checks:
        return
    finite = torch.stack([_largest(tensor) for tensor, _ in checks]).isfinite().tolist()
    for (tensor, name), good in zip(checks, finite, strict=True):
        if not good:
            bad = int((~torch.isfinite(tensor)).sum())
            raise NotFiniteError(f"{name} has {bad} of {tensor.numel()} values not finite")


def _largest(tensor: Tensor) -> Tensor:
    """Return the largest magnitude, which is not finite if any value is not: fewer operators than asking each."""
    return tensor.abs().amax() if tensor.numel() else tensor.new_zeros(())


@dataclass(frozen=True)
class Scores:
    """The noise predictors of one batch of views, each a function of (x_t, t).

    ``condition`` is what the model of ``cond`` is given for the views: a model that learns beside it is given the same.
    """

    cond: EpsFn
    uncond: EpsFn
    condition: Callable[[], Embedding]
    cameras: Cameras

    def guided(self, scale: float) -> EpsFn:
        """Return uncond + scale (cond - uncond) as a predictor; only what the scale needs is evaluated."""
        return guided_fn(self.cond, self.uncond, scale)


def predictor(model: Denoiser, embedding: Embedding | Callable[[], Embedding], name: str) -> EpsFn:
    """Return the noise prediction of ``model`` under an embedding, which may be made at the first call.

    The same (x_t, t) asked for twice in a row is computed once; of several x_t of the views, one after the other in a
    batch, each gets the views' embedding. The predictor raises ``NotFiniteError``, which says
    ``name``.
    """
    last: list[tuple[Tensor, Tensor, Tensor]] = []
    made: list[Embedding] = []

    def eps(xt: Float[Tensor, "B c h w"], t: Tensor) -> Float[Tensor, "B c h w"]:
        if not made:
            made.append(embedding if isinstance(embedding, Embedding) else embedding())
        if not last or last[0][0] is not xt or last[0][1] is not t:
            last[:] = [
                (
                    xt,
                    t,
                    require_finite(model.eps(xt, t, _for_rows(made[0], len(xt))), f"the {name} prediction"),
                )
            ]
        return last[0][2]

    return eps


def _for_rows(embedding: Embedding, count: int) -> Embedding:
    """Return an embedding as often, one after the other, as makes ``count`` rows."""
    rows = {len(x) for x in embedding.tensors().values()}
    if rows in (set(), {count}):
        return embedding
    return embedding.select(torch.arange(count) % max(rows))


class ScoreSource(torch.nn.Module):
    """The diffusion models behind a guidance. ``model`` encodes the views, and its space is where x_t lives."""

    needs: frozenset[str] = frozenset()  # outputs of the renderer beside colors
    model: Denoiser
    prior: TextDenoiser | None  # another model of the unconditional prediction

    def __init__(self) -> None:
        super().__init__()
        self.prior = None
        self.reference: tuple[Pictures, Cameras] | None = None
        self._reference_latents: Tensor | None = None

    @abstractmethod
    def at(self, cameras: Cameras, pictures: Pictures | None) -> Scores:
        """Return the scores of views from these cameras.

        ``pictures`` (B, 3, H, W) in [0, 1] are what a model that is conditioned on a picture of the view itself sees.
        """

    def default_pictures(self, render: Render) -> Pictures | None:  # noqa: ARG002 - for overrides
        """Return what ``at`` is given as pictures of the views where the caller has none."""
        return None

    def biased_at(self, cameras: Cameras, pictures: Pictures | None) -> Scores | None:  # noqa: ARG002 - for overrides
        """Return what ``at`` returns with the model's own unconditional prediction; None where it is that already."""
        return None

    def change_options(self, options: object) -> None:
        """Take other options of the same kind: numbers alone may differ."""

    @abstractmethod
    def at_reference(self, count: int) -> Scores:
        """Return the scores under which the reference picture itself is a likely view, ``count`` rows of them."""

    @abstractmethod
    def text_model(self) -> TextDenoiser:
        """Return the text model of this latent space, for predictions under further sentences. Raises ``UserError``."""

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        """Keep the prepared reference picture, in [0, 1] over white, and its camera."""
        self.reference, self._reference_latents = (rgb, cameras), None

    def given_reference(self) -> tuple[Float[Tensor, "1 3 H W"], Cameras]:
        """Return the reference picture and its camera."""
        if self.reference is None:
            raise RuntimeError(f"{type(self).__name__}: set_reference has not been called")
        return self.reference

    def reference_latents(self, like: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """Return the latents of the reference picture, once for each of the latents ``like``."""
        if self._reference_latents is None:
            self._reference_latents = self.model.encode(self.given_reference()[0]).detach()
        return self._reference_latents.to(like).expand_as(like)


def unconditional(model: TextDenoiser, prompts: PromptProcessor | None, batch: int) -> Embedding:
    """Return the embedding of no prompt, or of the negative prompt where there is one, for ``batch`` pictures."""
    return model.unconditional(batch) if prompts is None else prompts.unconditional(model, batch)


F = TypeVar("F", bound=Component[object])


def with_scores(options: type[object], formula: type[F]) -> type[F]:
    """Return ``formula`` with its scores from the source that ``options`` opens; register it with ``preset``.

    The formula's own options stay the same options, so that a configuration that changes between the two keeps them.
    """
    replaced = next(base for base in formula.Config.__mro__ if "open_source" in vars(base))
    body = {
        "Config": changed_base(formula.Config, replaced, options),
        "__doc__": formula.__doc__,
        "__module__": formula.__module__,
    }
    made = types.new_class(formula.__name__, (formula,), exec_body=lambda space: space.update(body))
    return cast(type[F], made)
