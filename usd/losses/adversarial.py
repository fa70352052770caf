"""Losses of a generator and a discriminator that learn against each other (arXiv 1406.2661, section 3)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


def generator_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the mean of -log D(fake), of logits; the form that does not saturate where the fakes are seen through."""
    return softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the mean of -log D(real) - log(1 - D(fake)), of logits; 2 log 2 where it cannot tell them apart."""
    return softplus(-real).mean() + softplus(fake).mean()
