"""Surfaces whose features are a small network of a hash grid, as the volumes' are."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar, override

from usd.core.config import option, plain
from usd.geometry import CubeConfig, ExplicitSurface, Geometry
from usd.network.encoding import Encoding, EncodingConfig, build_encoding
from usd.network.mlp import MLPConfig, mlp

NETWORKS = ("encoding", "feature_network")  # what makes features, by the names optimizer settings address


@dataclass(frozen=True)
class FeatureConfig(CubeConfig):
    """Options of a point's features."""

    n_input_dims: int = option(3, "numbers of a position", choices=(3,))
    n_feature_dims: int = option(3, "numbers a material gets for each point; 0: none", ge=0, le=4096)
    pos_encoding_config: EncodingConfig = option(EncodingConfig(), "encoding of positions")
    mlp_network_config: MLPConfig = option(MLPConfig(), "networks behind the encoding")


F = TypeVar("F", bound=FeatureConfig, default=FeatureConfig, covariant=True)


class FeatureSurface(ExplicitSurface[F]):
    """features(x) = network(encoding(x)); without networks (``colored`` false) they are zeros that nothing trains."""

    encoding: Encoding | None
    feature_network: torch.nn.Module | None

    def __init__(self, config: F, colored: bool = True) -> None:
        super().__init__(config)
        self.radius, self.n_features = config.radius, config.n_feature_dims
        self.encoding = build_encoding(config.pos_encoding_config) if colored else None
        self.feature_network = (
            mlp(self.encoding.n_output, config.n_feature_dims, config.mlp_network_config)
            if self.encoding is not None and config.n_feature_dims > 0
            else None
        )

    @override
    def update(self, step: int, generator: torch.Generator) -> None:
        """Switch levels of a progressive hash grid on."""
        if self.encoding is not None:
            self.encoding.update(step)

    def features(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Return what a material colors points with."""
        if self.feature_network is None:
            return x.new_zeros(len(x), self.n_features)
        return self.feature_network(self.encode(x))

    def encode(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N E"]:
        """Return the encoding at world coordinates."""
        assert self.encoding is not None
        return self.encoding((x / self.radius + 1) * 0.5)


def copy_features(target: Geometry, source: Geometry) -> bool:
    """Copy the networks of features from a geometry that has the same ones; return whether it had.

    They are functions of the position: what they gave at a point they give there again.
    """
    mine, theirs = (dict(g.named_children()) for g in (target, source))
    parts = [(mine.get(name), theirs.get(name)) for name in NETWORKS]
    if target.radius != source.radius or any(a is None or b is None for a, b in parts):
        return False
    if not all(_same_networks(a, b) for a, b in parts):
        return False
    for a, b in parts:
        assert a is not None and b is not None
        a.load_state_dict(b.state_dict())
    return True


def _same_networks(a: torch.nn.Module | None, b: torch.nn.Module | None) -> bool:
    """Return whether networks are alike: of one shape, and encodings of the same settings."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Encoding) and isinstance(b, Encoding) and plain(a.config) != plain(b.config):
        return False
    shapes = [{key: value.shape for key, value in part.state_dict().items()} for part in (a, b) if part]
    return len(shapes) == 2 and shapes[0] == shapes[1]
