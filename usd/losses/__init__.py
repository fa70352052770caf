"""Losses: pure functions of a render, each of which declares the outputs it needs (``usd.core.needs``).

``usd.losses.table`` maps the YAML names ``lambda_*`` to them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from usd.core.needs import check_needs
from usd.core.types import Render

Scalar = Float[Tensor, ""]
Picture = Float[Tensor, "B 4 H W"]


@dataclass(frozen=True)
class Loss:
    """A function of a render, the outputs it needs, and its own keys of ``system.loss`` with their defaults."""

    function: Callable[..., Tensor]
    needs: frozenset[str]
    options: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, render: Render, **options: float) -> Scalar:
        """Return the loss of a render; of ``options`` those that it knows count."""
        known = {name: options.get(name, default) for name, default in self.options.items()}
        return self.function(render, **known)


@dataclass(frozen=True)
class ReferenceLoss:
    """A function of a render and the RGBA picture (straight alpha, [0, 1]) it should look like."""

    function: Callable[[Render, Tensor], Tensor]
    needs: frozenset[str]

    def __call__(self, render: Render, picture: Picture) -> Scalar:
        """Return the loss of a render at the reference camera."""
        return self.function(render, picture)


@dataclass(frozen=True)
class EstimateLoss:
    """A function of a render, a monocular estimate of what it shows, and the mask (B 1 H W) where that holds.

    ``estimate`` names it: a depth (B 1 H W) of any unit and origin, or world normals (B 3 H W) of unit length.
    """

    function: Callable[[Render, Tensor, Tensor], Tensor]
    needs: frozenset[str]
    estimate: Literal["depth", "normal"]

    def __call__(
        self, render: Render, estimate: Float[Tensor, "B C H W"], mask: Float[Tensor, "B 1 H W"]
    ) -> Scalar:
        """Return the loss of a render at the reference camera; 0 where the mask is empty."""
        return self.function(render, estimate, mask)


def loss(*needs: str, **options: float) -> Callable[[Callable[..., Tensor]], Loss]:
    """Decorate a loss that needs these fields of ``Render``, and has further arguments with these defaults."""
    return lambda function: Loss(function, check_needs(needs, f"the loss {function.__name__}"), options)


def reference_loss(*needs: str) -> Callable[[Callable[[Render, Tensor], Tensor]], ReferenceLoss]:
    """Decorate a loss against a picture that needs these fields of ``Render``."""
    return lambda function: ReferenceLoss(function, check_needs(needs, f"the loss {function.__name__}"))


def estimate_loss(
    estimate: Literal["depth", "normal"], *needs: str
) -> Callable[[Callable[[Render, Tensor, Tensor], Tensor]], EstimateLoss]:
    """Decorate a loss against an estimated depth or normal that needs these fields of ``Render``."""
    return lambda function: EstimateLoss(
        function, check_needs(needs, f"the loss {function.__name__}"), estimate
    )


def needs_of(losses: Iterable[Loss | ReferenceLoss | EstimateLoss]) -> frozenset[str]:
    """Return all outputs that these losses need from the renderer."""
    return frozenset().union(*(one.needs for one in losses))
