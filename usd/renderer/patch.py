"""A full picture at low resolution with one patch at full resolution: large pictures in little memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import Spec, component, option
from usd.core.registry import build, register
from usd.core.types import Render, Samples
from usd.math import rng
from usd.math.camera import Cameras, Window
from usd.renderer import Renderer, RenderRequest


@register("patch-renderer")
class PatchRenderer(Renderer["PatchRenderer.Config"]):
    """While training, pastes a patch of the base renderer's picture into its upsampled low-resolution picture.

    A picture that is not larger than the patch, and every picture when not training, is rendered in full.
    Samples of the low-resolution rays come before those of the patch.
    """

    @dataclass(frozen=True)
    class Config:
        base_renderer: Spec = component(
            "renderer", "nerf-volume-renderer", "renderer of the patch and of the low-resolution picture"
        )
        patch_size: int = option(128, "side of the patch, pixels", ge=1, le=16384)
        global_downsample: int = option(
            4, "factor by which the low-resolution picture is smaller", ge=1, le=1024
        )
        global_detach: bool = option(False, "whether only the patch is trained")

    def configure(self) -> None:
        """Make the renderer of both pictures."""
        scene = {name: getattr(self.scene, name) for name in ("geometry", "material", "background")}
        self.base = build(self.config.base_renderer, Renderer, **scene)
        self.outputs = self.base.outputs - {"behind"}

    def draw(self, request: RenderRequest) -> Render:
        """Render a coarse picture and a patch. Without a generator the patch is in the middle."""
        size, cameras, generator = self.config.patch_size, request.cameras, request.generator
        whole = request.window is not None or size >= min(cameras.height, cameras.width)
        if whole or not self.training:
            return self.base.draw(request)
        patch = _patch_window(cameras, size, generator)
        seed = None if generator is None else _draw(1 << 62, generator)
        small = cameras.resize(
            *(-(-n // self.config.global_downsample) for n in (cameras.height, cameras.width))
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.global_detach):
            coarse = self.base.render(small, request.needs, _restart(seed, generator))
        fine = self.base.render(cameras, request.needs, _restart(seed, generator), patch)
        return _paste(coarse, fine, patch, cameras)


def _draw(stop: int, generator: torch.Generator) -> int:
    source = rng.on_host(generator)
    return int(torch.randint(stop, (), generator=source, device=source.device))


def _restart(seed: int | None, like: torch.Generator | None) -> torch.Generator | None:
    """Return the same stream each time, so that both pictures stand before the same random background."""
    return None if seed is None or like is None else rng.fresh(like, seed)


def _patch_window(cameras: Cameras, size: int, generator: torch.Generator | None) -> Window:
    spare = (cameras.height - size, cameras.width - size)
    top, left = (n // 2 if generator is None else _draw(n + 1, generator) for n in spare)
    return Window(top, left, size, size)


def _paste(coarse: Render, fine: Render, at: Window, cameras: Cameras) -> Render:
    """Return ``coarse`` upsampled to the cameras' size, with ``fine`` in its window."""

    def pasted(small: Tensor, patch: Tensor) -> Tensor:
        picture = _enlarge(small, cameras.height, cameras.width)
        picture[..., at.top : at.top + at.height, at.left : at.left + at.width] = patch
        return picture

    def known(small: Tensor | None, patch: Tensor | None) -> Tensor | None:
        return None if small is None or patch is None else pasted(small, patch)

    return Render(
        rgb=pasted(coarse.rgb, fine.rgb),
        opacity=pasted(coarse.opacity, fine.opacity),
        foreground=known(coarse.foreground, fine.foreground),
        depth=known(coarse.depth, fine.depth),
        normal=known(coarse.normal, fine.normal),
        samples=_join_samples(coarse.samples, fine.samples, coarse.opacity.numel()),
        mesh=fine.mesh,
    )


def _enlarge(picture: Float[Tensor, "B C h w"], height: int, width: int) -> Float[Tensor, "B C H W"]:
    """Resize a view's picture bilinearly; exact also where the two shapes are not quite similar."""
    stretch = (width / height) / (picture.shape[3] / picture.shape[2])
    to_small = picture.new_tensor([[stretch, 0, 0], [0, 1, 0]]).expand(len(picture), 2, 3)
    grid = torch.nn.functional.affine_grid(to_small, [len(picture), 1, height, width], align_corners=False)
    return torch.nn.functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)


def _join_samples(first: Samples | None, second: Samples | None, first_rays: int) -> Samples | None:
    if first is None or second is None:
        return None
    return Samples(
        ray_index=torch.cat([first.ray_index, second.ray_index + first_rays]),
        t=torch.cat([first.t, second.t]),
        weight=torch.cat([first.weight, second.weight]),
        direction=torch.cat([first.direction, second.direction]),
        normal=_both(first.normal, second.normal),
        distance=_both(first.distance, second.distance),
        gradient=_both(first.gradient, second.gradient),
        laplacian=_both(first.laplacian, second.laplacian),
        normal_perturb=_both(first.normal_perturb, second.normal_perturb),
        length=_both(first.length, second.length),
    )


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])
