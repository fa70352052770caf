"""Pictures for people: videos, contact sheets, and validation grids."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from usd.core.types import Render
from usd.data.pictures import (
    contact_sheet,
    over,
    resize_rgba,
    to_bytes,
    unpremultiply,
    write_picture,
    write_whole,
)
from usd.math.normal_map import normal_colors

Rgba = Float[Tensor, "4 H W"]


def rendered_rgba(render: Render) -> Float[Tensor, "B 4 H W"]:
    """Return a render as straight-alpha pictures. Raises ``ValueError`` for one without its foreground."""
    if render.foreground is None:
        raise ValueError("the render has no foreground; ask the renderer for it")
    return unpremultiply(render.foreground, render.opacity)


def write_video(path: str | Path, pictures: Sequence[Rgba], fps: int = 24) -> Path:
    """Write an H.264 video over white. Odd sizes are padded by one pixel; all pictures take the first one's size."""
    import imageio.v2 as imageio

    # One picture of another size would end the stream; quality 8 keeps thin lines of wireframes.
    height, width = pictures[0].shape[-2:]
    frames: list[ArrayLike] = [
        to_bytes(_even(over(resize_rgba(picture, height, width)))) for picture in pictures
    ]
    with write_whole(path) as file:
        imageio.mimwrite(file, frames, fps=fps, codec="libx264", quality=8, macro_block_size=2)
    return Path(path)


def write_transparent_video(path: str | Path, pictures: Sequence[Rgba], fps: int = 24) -> Path:
    """Write a VP9 video in WebM with an alpha channel, which browsers show over their page. Sizes as in a video."""
    import imageio_ffmpeg

    height, width = pictures[0].shape[-2:]
    frames = [to_bytes(_even_rgba(resize_rgba(picture, height, width))) for picture in pictures]
    size = (frames[0].shape[1], frames[0].shape[0])
    options = ["-crf", "24", "-b:v", "0", "-auto-alt-ref", "0", "-row-mt", "1"]
    with write_whole(path) as file:
        writer = imageio_ffmpeg.write_frames(
            str(file), size, pix_fmt_in="rgba", pix_fmt_out="yuva420p", fps=fps, quality=None,
            codec="libvpx-vp9", macro_block_size=2, output_params=options,
        )  # fmt: skip
        writer.send(None)
        for frame in frames:
            writer.send(frame.tobytes())
        writer.close()
    return Path(path)


def _even_rgba(rgba: Rgba) -> Float[Tensor, "4 h w"]:
    height, width = rgba.shape[-2:]
    return torch.nn.functional.pad(rgba, (0, width % 2, 0, height % 2))


def _even(rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 h w"]:
    # H.264 stores colors at half size, so both sides must be even.
    height, width = rgb.shape[-2:]
    return torch.nn.functional.pad(rgb, (0, width % 2, 0, height % 2), value=1.0)


def write_contact_sheet(
    path: str | Path, pictures: Sequence[Rgba], at_most: int = 16, columns: int = 8
) -> Path:
    """Write up to ``at_most`` of the pictures, evenly chosen, over white, in one picture."""
    count = min(at_most, len(pictures))
    chosen = [pictures[i * len(pictures) // count] for i in range(count)]
    height, width = chosen[0].shape[-2:]
    rows = torch.stack([over(resize_rgba(picture, height, width)) for picture in chosen])
    return write_picture(path, contact_sheet(rows, columns))


def validation_grid(
    render: Render, reference: Float[Tensor, "3 H W"] | None = None
) -> Float[Tensor, "3 h w"]:
    """Return a picture with a column a view: colors over white, opacity.

    And depth (near is bright) and normals if there are any.

    The reference picture, if there is one, stands in front of the first row.
    """
    rows = [over(rendered_rgba(render)), render.opacity.expand(-1, 3, -1, -1)]
    if render.depth is not None:
        rows.append(depth_shade(render.depth, render.opacity).expand(-1, 3, -1, -1))
    if render.normal is not None:
        rows.append(normal_colors(render.normal, render.opacity, 1.0))
    if reference is not None:
        blank = torch.ones_like(rows[0][:1])
        rows = [torch.cat([reference[None] if i == 0 else blank, row]) for i, row in enumerate(rows)]
    return contact_sheet(torch.cat(rows), columns=len(rows[0]))


def depth_shade(
    depth: Float[Tensor, "B 1 H W"], opacity: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 1 H W"]:
    """Return gray levels from near (1) to far (0.2) among the visible pixels; 0 where nothing is."""
    # Half-covered pixels mix the depths of object and background; they would stretch the range.
    visible = opacity > 0.5
    if not visible.any():
        return torch.zeros_like(depth)
    near, far = depth[visible].min(), depth[visible].max()
    return torch.where(
        visible, 1 - 0.8 * (depth - near) / (far - near).clamp_min(1e-6), torch.zeros_like(depth)
    )
