"""A density field: hash grid, two small networks, and a bias that starts the object as a blob."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Field
from usd.geometry.distance_lattice import enclosed_distance, interpolate_lattice, lattice_points
from usd.geometry.volume_start import Distance, ShapedVolume, VolumeConfig, raw_density
from usd.math.differences import CORNERS
from usd.network.activation import activation
from usd.network.encoding import EncodingConfig, build_encoding
from usd.network.mlp import MLPConfig, mlp

Bias = float | Literal["blob_magic3d", "blob_dreamfusion"]


def density_bias(x: Float[Tensor, "N 3"], kind: Bias, scale: float, std: float) -> Float[Tensor, "N"]:
    """Return what is added to the density before its activation.

    A number is added everywhere; ``blob_magic3d`` is scale * (1 - r / std), ``blob_dreamfusion`` is
    scale * exp(-r^2 / (2 std^2)).
    """
    if isinstance(kind, float):
        return torch.full_like(x[:, 0], kind)
    a, b, c = x.unbind(-1)
    square = a * a + b * b + c * c  # much faster than a norm over an axis of three
    if kind == "blob_magic3d":
        return scale * (1 - square.clamp_min(1e-20).sqrt() / std)
    return scale * torch.exp(-0.5 * square / std**2)


@register("implicit-volume")
class ImplicitVolume(ShapedVolume["ImplicitVolume.Config"]):
    """density = activation(network(encoding(x)) + bias(x)); features = another network of the same encoding.

    Where the volume starts as a surface, ``start`` holds its distance, and what becomes that density is the bias.
    """

    @dataclass(frozen=True)
    class Config(VolumeConfig):
        density_bias: Bias = option(
            "blob_magic3d", "number added before the activation, or the blob that the object starts as"
        )
        pos_encoding_config: EncodingConfig = option(EncodingConfig(), "encoding of positions")
        mlp_network_config: MLPConfig = option(MLPConfig(), "networks behind the encoding")
        normal_type: Literal["analytic", "finite_difference", "pred"] | None = option(
            "finite_difference", "way in which normals are computed; null: no component can ask for them"
        )

    texture_modules = ("feature_network",)
    start: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_features = config.n_feature_dims
        self.encoding = build_encoding(config.pos_encoding_config)
        width = self.encoding.n_output
        self.density_network = mlp(width, 1, config.mlp_network_config)
        self.feature_network = mlp(width, config.n_feature_dims, config.mlp_network_config)
        predicted = config.normal_type == "pred"
        self.normal_network = mlp(width, 3, config.mlp_network_config) if predicted else None
        self.register_buffer("start", None)
        self.register_load_state_dict_pre_hook(_make_room)
        self._activate = activation(config.density_activation)

    def start_from(self, distance: Distance) -> None:
        """Make the density that of a signed distance; the network then says nothing until it is trained."""
        x = lattice_points(self.radius, next(self.parameters()))
        self.start = enclosed_distance(distance, x)[:, None]
        for name, weight in self.density_network[-1].named_parameters():
            if name in ("weight", "parametrizations.weight.original0"):  # the lengths, where these are apart
                torch.nn.init.zeros_(weight)

    @override
    def update(self, step: int, generator: torch.Generator) -> None:
        """Switch levels of a progressive hash grid on."""
        self.encoding.update(step)

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the optical depth per unit length."""
        return self._density(x, self._encode(x))

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        """Return density, and what ``needs`` names of ``features`` and ``normal``."""
        if "normal" not in needs or self.config.normal_type != "analytic" or torch.is_grad_enabled():
            return self._query(x, needs, keep_graph=True)
        with torch.enable_grad():
            field = self._query(x, needs, keep_graph=False)
        features, normal = (
            None if part is None else part.detach() for part in (field.features, field.normal)
        )
        return Field(field.density.detach(), features, normal)

    def _query(self, x: Float[Tensor, "N 3"], needs: frozenset[str], keep_graph: bool) -> Field:
        """Return what ``needs`` names; analytic normals need a graph, kept where it is to be trained."""
        analytic = "normal" in needs and self.config.normal_type == "analytic"
        at = x.detach().requires_grad_() if analytic and not x.requires_grad else x
        encoded = self._encode(at)
        density = self._density(at, encoded)
        normal = self._normal(at, encoded, density, keep_graph) if "normal" in needs else None
        return Field(density, self.feature_network(encoded) if "features" in needs else None, normal)

    def _encode(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N E"]:
        """Return the encoding at world coordinates."""
        return self.encoding((x / self.radius + 1) * 0.5)

    def _density(self, x: Float[Tensor, "N 3"], encoded: Float[Tensor, "N E"]) -> Float[Tensor, "N"]:
        """Return densities of points whose encoding is known."""
        return self._activate(self.density_network(encoded)[:, 0] + self._bias(x))

    def _bias(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return what is added before the activation: a blob, or what makes a surface."""
        config = self.config
        if self.start is None:
            return density_bias(x, config.density_bias, config.density_blob_scale, config.density_blob_std)
        distance = interpolate_lattice(x, self.start, self.radius)
        return raw_density(distance, self.radius, config.density_activation)

    def _normal(self, x: Tensor, encoded: Tensor, density: Tensor, keep_graph: bool) -> Float[Tensor, "N 3"]:
        """Return unit vectors that point where the density falls fastest."""
        if self.normal_network is not None:
            return torch.nn.functional.normalize(self.normal_network(encoded), dim=-1)
        if self.config.normal_type == "finite_difference":
            return -torch.nn.functional.normalize(self._tetrahedral_gradient(x), dim=-1)
        if self.config.normal_type == "analytic":
            (slope,) = torch.autograd.grad(density.sum(), x, create_graph=keep_graph, retain_graph=True)
            return -torch.nn.functional.normalize(slope, dim=-1)
        raise UserError(
            "system.geometry.normal_type: is null, but something needs the normals of this implicit-volume; "
            "expected analytic, finite_difference or pred"
        )

    def _tetrahedral_gradient(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the density's gradient, of second order from four points around each."""
        corners = x.new_tensor(CORNERS)
        around = x[:, None, :] + self.config.finite_difference_normal_eps / 3**0.5 * corners
        values = self.density(around.clamp(-self.radius, self.radius).reshape(-1, 3)).view(-1, 4)
        return values @ corners


def _make_room(volume: torch.nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Give a volume the start that a state has, or none, before the state is loaded."""
    assert isinstance(volume, ImplicitVolume)
    saved = state.get(f"{prefix}start")
    volume.start = (
        None if saved is None else saved.new_zeros(saved.shape).to(next(volume.parameters()).device)
    )
