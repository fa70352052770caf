"""Proposal networks: a small density field, trained beside the scene, that says where rays are worth sampling.

Mip-NeRF 360's online distillation (arXiv 2111.12077, section 3): the small field never sees a picture. It learns, by
its own optimizer, to enclose the weights with which the scene was rendered; the scene learns nothing from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import ranks
from usd.core.config import option
from usd.core.schedule import Schedule
from usd.kernels.ray_march import RaySamples, samples_between
from usd.math.safe import trunc_exp
from usd.math.volume import alpha_from_density, interlevel_loss
from usd.network.encoding import EncodingConfig, build_encoding
from usd.network.mlp import MLPConfig, mlp
from usd.renderer.importance import coarse_edges, dense_weights, fine_places
from usd.renderer.occupancy_marcher import MarchOptions


@dataclass(frozen=True)
class ProposalEncodingConfig(EncodingConfig):
    """``proposal_network_config.encoding_config``: five levels up to 128 cells."""

    n_levels: int = option(5, "number of grids of the proposal network", ge=1, le=32)
    log2_hashmap_size: int = option(17, "at most 2^this many rows per level", ge=1, le=24)
    per_level_scale: float = option(1.681792830507429, "ratio of successive resolutions", ge=1, le=16)


@dataclass(frozen=True)
class ProposalNetworkConfig:
    """``proposal_network_config``."""

    n_input_dims: Literal[3] = option(3, "number of coordinates of a point")
    n_output_dims: Literal[1] = option(1, "numbers that the network gives a point: its density")
    encoding_config: ProposalEncodingConfig = option(ProposalEncodingConfig(), "encoding of positions")
    network_config: MLPConfig = option(MLPConfig(), "layers behind the encoding")


@dataclass(frozen=True)
class ProposalOptimizerArgs:
    """``prop_optimizer_config.args``."""

    lr: Schedule = option(Schedule.constant(0.01), "learning rate of the proposal network, by step", ge=0)
    betas: tuple[float, float] = option((0.9, 0.999), "decay of Adam's moments", ge=0, lt=1)
    eps: float = option(1e-15, "least divisor of a step of Adam", ge=0)
    weight_decay: float = option(0.0, "pull of the proposal network's weights towards zero", ge=0)


@dataclass(frozen=True)
class ProposalOptimizerConfig:
    """``prop_optimizer_config``."""

    name: Literal["Adam"] = option("Adam", "optimizer of the proposal network")
    args: ProposalOptimizerArgs = option(
        ProposalOptimizerArgs(), "settings of the proposal network's optimizer"
    )


class ProposalField(torch.nn.Module):
    """A density of points in a cube, and Adam's state beside its weights, so that a resumed run goes on exactly.

    Its weights need no gradient as far as others can see: no optimizer but its own finds them.
    """

    def __init__(
        self, network: ProposalNetworkConfig, optimizer: ProposalOptimizerArgs, radius: float
    ) -> None:
        super().__init__()
        self.optimizer, self.radius = optimizer, radius
        self.encoding = build_encoding(network.encoding_config)
        self.network = mlp(self.encoding.n_output, network.n_output_dims, network.network_config)
        self.requires_grad_(False)
        numbers = sum(weight.numel() for weight in self.parameters())
        self.register_buffer("moments", torch.zeros(2, numbers))
        self.register_buffer("steps", torch.zeros(()))
        self.moments: Tensor
        self.steps: Tensor

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return densities of world points."""
        features = self.encoding((x / self.radius + 1) / 2)
        return trunc_exp(self.network(features)[:, 0] - 1)

    def learn(self, loss: Callable[["ProposalField"], Float[Tensor, ""]], step: int) -> float:
        """Take one step of Adam down a loss of this field; return the loss before it.

        Where the loss or its gradient is not finite nothing is learnt. All processes take the same step.
        """
        weights = list(self.parameters())
        with torch.enable_grad():
            self.requires_grad_(True)
            try:
                value = loss(self)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
            finally:
                self.requires_grad_(False)
        flat = ranks.averaged(
            torch.cat(
                [(w * 0 if g is None else g).flatten() for w, g in zip(weights, gradients, strict=True)]
            )
        )
        if bool(flat.isfinite().all()):
            self._descend(weights, flat, self.optimizer.lr(step))
        return float(value.detach())

    @torch.no_grad()
    def _descend(self, weights: list[torch.nn.Parameter], gradient: Float[Tensor, "P"], lr: float) -> None:
        """Take a step of Adam (arXiv 1412.6980, algorithm 1)."""
        flat = torch.nn.utils.parameters_to_vector(weights)
        gradient = gradient + self.optimizer.weight_decay * flat
        self.steps += 1
        for moment, beta, power in zip(self.moments, self.optimizer.betas, (1, 2), strict=True):
            moment.lerp_(gradient**power, 1 - beta)
        # Both moments start at zero; their means are too small by this factor.
        first, second = (
            moment / (1 - beta**self.steps)
            for moment, beta in zip(self.moments, self.optimizer.betas, strict=True)
        )
        flat = flat - lr * first / (second.sqrt() + self.optimizer.eps)
        for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.copy_(part.view_as(weight))


@dataclass(frozen=True)
class Proposal:
    """Rays with the proposal's intervals and the fine ones, as the proposal learns from them."""

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    edges: Float[Tensor, "R D"]
    fine_edges: Float[Tensor, "R E"]
    samples: RaySamples


class ProposalSampler:
    """Intervals along rays where a proposal field is opaque."""

    def __init__(self, options: MarchOptions, field: ProposalField, proposal_samples: int) -> None:
        self.options, self.field, self.proposal_samples = options, field, proposal_samples

    @torch.no_grad()
    def propose(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], generator: torch.Generator | None
    ) -> Proposal:
        """Return ``num_samples_per_ray`` intervals of each ray, distributed as the field's weights."""
        edges = coarse_edges(o, d, self.options, self.proposal_samples, generator)
        weights = self._weights(self.field, o, d, edges)
        inner = fine_places(edges, weights, self.options.num_samples_per_ray - 1, generator)
        fine = torch.cat([edges[:, :1], inner, edges[:, -1:]], -1)
        return Proposal(o, d, edges, fine, samples_between(fine))

    def learn(self, proposal: Proposal, weights: Float[Tensor, "S"], step: int) -> float:
        """Train the field to enclose the weights with which its proposal was rendered; return the loss."""
        samples, count = proposal.samples, self.options.num_samples_per_ray
        # Samples without length were left out; rays that have some are those that meet the cube.
        whole = samples.packed[:, 1] == count
        fine = weights.detach()[whole[samples.ray_index]].view(-1, count)
        o, d, edges = (part[whole] for part in (proposal.origins, proposal.directions, proposal.edges))

        def loss(field: ProposalField) -> Float[Tensor, ""]:
            # Without such a ray, too: processes average their gradients, so all must come here.
            if len(o) == 0:
                return field.moments.new_zeros(()) + sum(0 * weight.sum() for weight in field.parameters())
            return interlevel_loss(proposal.fine_edges[whole], fine, edges, self._weights(field, o, d, edges))

        return self.field.learn(loss, step)

    def _weights(
        self, field: ProposalField, o: Tensor, d: Tensor, edges: Float[Tensor, "R D"]
    ) -> Float[Tensor, "R J"]:
        samples = samples_between(edges)
        x = samples.positions(o, d)
        chunk = len(x) + 1 if torch.is_grad_enabled() else self.options.eval_chunk_size
        density = torch.cat([field(part) for part in x.split(chunk)])
        alpha = alpha_from_density(density, samples.lengths)
        return dense_weights(alpha, samples, self.proposal_samples)
