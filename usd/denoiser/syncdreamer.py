"""SyncDreamer (arXiv 2309.03453): 16 fixed views of a picture at once, held together by a feature volume."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import EncodedReference, ViewGroupDenoiser
from usd.denoiser.components import VIEW_GROUP_VOLUME, ModelComponents
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import NetworkInput
from usd.denoiser.syncdreamer_volume import DepthConditionedUNet, DepthConditions, VolumeNetworks
from usd.denoiser.weights import one_dtype, readable
from usd.denoiser.zero123 import Zero123Denoiser, Zero123Reference
from usd.denoiser.zero123_condition import relative_pose
from usd.math.camera import Cameras
from usd.math.view_groups import SYNCDREAMER_VIEWS

CONDITIONS = ("middle_conditions.", "output_conditions.")


@dataclass(frozen=True)
class SyncDreamerInput(NetworkInput):
    """Zero-1-to-3's condition, the pose of each view, and the share of the frustum's features that the UNet sees."""

    pose: Float[Tensor, "B 4"] | None = None
    share: Float[Tensor, "B"] | None = None


@register("syncdreamer")
class SyncDreamerDenoiser(Zero123Denoiser, ViewGroupDenoiser["Zero123Denoiser.Config"]):
    """The published single file. Rows are (object, view)."""

    group, group_size = "syncdreamer", SYNCDREAMER_VIEWS
    assumes_elevation = False

    def __init__(self, config: Zero123Denoiser.Config, name: str = "") -> None:
        super().__init__(config, name)
        files = self.files
        if not files.has(VIEW_GROUP_VOLUME):
            raise UserError(f"{files.place}: holds no volume; expected a single file of SyncDreamer")
        self.networks: Frozen[VolumeNetworks] = Frozen(lambda: load_volume_networks(files))
        self.conditioned: Frozen[DepthConditionedUNet] = Frozen(
            lambda: load_conditioned_unet(files), config.execution.weights, config.execution
        )

    @torch.no_grad()
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> SyncDreamerInput:
        """Return the condition of whole groups of the published cameras. Raises ``UserError`` for other cameras."""
        assert isinstance(reference, Zero123Reference)
        device = reference.latent.device
        target, source = cameras.to(device), reference.cameras.to(device)
        self.refuse_other_cameras(target, source)
        pose = relative_pose(target, source)
        pose[:, 3] = 0  # all views were trained at one distance
        tokens, _ = self._project(reference.embedding, reference.patches, pose)
        latent = reference.latent.expand(len(cameras), -1, -1, -1)
        return SyncDreamerInput(tokens, latent, None, pose, torch.ones_like(pose[:, 0]))

    @torch.no_grad()
    def unconditional(self, batch: int) -> SyncDreamerInput:
        """Return zeros for token, channels beside x_t and frustum features, which still pass their layers."""
        base = super().unconditional(batch)
        nothing = base.tokens.new_zeros(batch, 4)
        tokens = base.tokens.expand(batch, -1, -1)
        return SyncDreamerInput(tokens, base.latent, None, nothing, nothing[:, 0])

    @override
    def _predict(self, xt: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the prediction for whole groups, one after the other."""
        assert isinstance(condition, SyncDreamerInput)
        size = self.group_size
        if len(xt) % size:
            raise ValueError(f"rows are whole groups of {size} views, got {len(xt)}")
        groups = range(0, len(xt), size)
        with torch.autocast(xt.device.type, enabled=False):
            return torch.cat([self._group(xt, t, condition, first) for first in groups])

    def _group(self, xt: Tensor, t: Tensor, condition: SyncDreamerInput, first: int) -> Tensor:
        """Return the prediction for one group: the cube once, then its views in chunks."""
        rows = torch.arange(first, first + self.group_size, device=xt.device)
        ours = condition.select(rows).map(lambda _, x: x.to(xt.device))
        x, time = xt[rows], t[rows]
        if bool((time != time[0]).any()):
            raise ValueError("the views of a group have one t")
        networks = self.networks.on(xt.device)
        assert ours.pose is not None and ours.share is not None
        seen = bool(ours.share.any())
        cube = networks.lift(x.float(), time[:1], ours.pose) if seen else self._empty_cube(networks, x)
        chunks = [self._views(networks, cube, x, time, ours, a, b) for a, b in self._ranges(len(x))]
        return torch.cat(chunks)

    def _empty_cube(self, networks: VolumeNetworks, x: Tensor) -> Tensor:
        width = networks.spatial_volume.frustum_volume_feats.conv0.weight.shape[1]
        return x.new_zeros(1, width, 2, 2, 2)  # its frustums are not looked at

    def _views(
        self,
        networks: VolumeNetworks,
        cube: Tensor,
        x: Tensor,
        t: Int[Tensor, "V"],
        ours: SyncDreamerInput,
        a: int,
        b: int,
    ) -> Tensor:
        """Return the prediction for some views of a group."""
        views = torch.arange(len(x), device=x.device)[a:b]
        assert ours.pose is not None and ours.share is not None and ours.latent is not None
        pyramid = networks.frustum(cube, views, t[:1], ours.pose[a:b], x.shape[-1])
        dtype = self.conditioned.dtype(x.device)
        share = ours.share[a:b, None, None, None, None]
        # zeros, not nothing: the norms behind them have biases
        frustum = {width: torch.where(share > 0, level, 0.0).to(dtype) for width, level in pyramid.items()}
        given = torch.cat([x, ours.latent.to(x)], 1)[a:b].to(dtype)
        with self.conditioned.use(x.device) as unet:
            return unet(given, t[a:b], ours.tokens[a:b].to(dtype), frustum)


def load_volume_networks(files: ModelComponents) -> VolumeNetworks:
    """Return the networks of the volume, float32. Raises ``UserError``."""
    stored = files.tensors(VIEW_GROUP_VOLUME)
    weights = {name: stored[name].float() for name in stored if not name.startswith(CONDITIONS)}
    with readable(files.place, "SyncDreamer's volume"):
        networks = VolumeNetworks(weights)
        networks.load_state_dict(weights)
    return networks


def load_conditioned_unet(files: ModelComponents) -> DepthConditionedUNet:
    """Return the UNet with its depth transformers, in the precision of the file. Raises ``UserError``."""
    stored = files.tensors(VIEW_GROUP_VOLUME)
    weights = {name: stored[name] for name in stored if name.startswith(CONDITIONS)}
    with readable(files.place, "SyncDreamer's depth attention"):
        conditions = DepthConditions(weights)
        conditions.load_state_dict(one_dtype(weights))
    return DepthConditionedUNet(files.network("unet"), conditions)
