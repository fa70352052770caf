"""Losses: pure functions of a render, each of which declares the outputs it needs (``usd.core.needs``).

``usd.losses.table`` maps the YAML names ``lambda_*`` to them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.needs import check_needs
from usd.core.types import Render

Scalar = Float[Tensor, ""]
Picture = Float[Tensor, "B 4 H W"]


@dataclass(frozen=True)
class Loss:
    """A function of a render, and the outputs it needs (``usd.core.needs``)."""

    function: Callable[[Render], Tensor]
    needs: frozenset[str]

    def __call__(self, render: Render) -> Scalar:
        """Return the loss of a render."""
        return self.function(render)


@dataclass(frozen=True)
class ReferenceLoss:
    """A function of a render and the RGBA picture (straight alpha, [0, 1]) it should look like."""

    function: Callable[[Render, Tensor], Tensor]
    needs: frozenset[str]

    def __call__(self, render: Render, picture: Picture) -> Scalar:
        """Return the loss of a render at the reference camera."""
        return self.function(render, picture)


def loss(*needs: str) -> Callable[[Callable[[Render], Tensor]], Loss]:
    """Decorate a loss that needs these fields of ``Render``."""
    return lambda function: Loss(function, check_needs(needs, f"the loss {function.__name__}"))


def reference_loss(*needs: str) -> Callable[[Callable[[Render, Tensor], Tensor]], ReferenceLoss]:
    """Decorate a loss against a picture that needs these fields of ``Render``."""
    return lambda function: ReferenceLoss(function, check_needs(needs, f"the loss {function.__name__}"))


def needs_of(losses: Iterable[Loss | ReferenceLoss]) -> frozenset[str]:
    """Return all outputs that these losses need from the renderer."""
    return frozenset().union(*(one.needs for one in losses))
