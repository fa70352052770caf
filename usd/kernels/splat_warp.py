# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
"""Splat kernels: projection of a splat, lists of tiles, and compositing of a tile. Read ``splat`` first.

The bodies are the C++ of ``splat_project.h``, ``splat_lists.h`` and ``splat_composite.h``, for the reason given in
``hash_grid_warp``.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from usd.kernels import runtime
from usd.kernels.native import native_body
from usd.kernels.splat import NEAR, Projection, SplatPicture, SplatView
from usd.math.splats import Splats

wp = runtime.import_warp()
kernel = wp.kernel(module="usd_splat", enable_backward=False)
SIDE = 16  # pixels a side of a tile
ELLIPSE = 6
WIDTHS = (3, 4, 7)
"""Numbers that are blended in practice: colors; with depth, or latents; with depth and normal."""
PROJECTED, GATHERED = 4096, 16384
"""Splats that are projected, and splats whose gradients are added up, in a piece of work.

The start of a piece takes as long as some hundred splats, and holds the interpreter's lock, so pieces are large.
"""


def native(file: str, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that gives a declaration the body of its C++ function."""
    return wp.func_native(native_body(file, name))


@native("splat_project.h", "project_splat")
@no_type_check
def project_splat(
    n: wp.int32,
    means: wp.array(dtype=wp.float32),
    scales: wp.array(dtype=wp.float32),
    rotations: wp.array(dtype=wp.float32),
    opacities: wp.array(dtype=wp.float32),
    w2c: wp.array(dtype=wp.float32),
    intrinsics: wp.array2d(dtype=wp.float32),
    width: wp.int32,
    height: wp.int32,
    perspective: wp.bool,
    antialias: wp.bool,
    near: wp.float32,
    ellipses: wp.array(dtype=wp.float32),
    depths: wp.array(dtype=wp.float32),
    boxes: wp.array(dtype=wp.int32),
):
    """Project splat n, in C++."""


@kernel
@no_type_check
def project_splats(
    first: wp.int32,
    means: wp.array(dtype=wp.float32),
    scales: wp.array(dtype=wp.float32),
    rotations: wp.array(dtype=wp.float32),
    opacities: wp.array(dtype=wp.float32),
    w2c: wp.array(dtype=wp.float32),
    intrinsics: wp.array2d(dtype=wp.float32),
    width: wp.int32,
    height: wp.int32,
    perspective: wp.bool,
    antialias: wp.bool,
    near: wp.float32,
    ellipses: wp.array(dtype=wp.float32),
    depths: wp.array(dtype=wp.float32),
    boxes: wp.array(dtype=wp.int32),
):
    """Project one splat into all pictures."""
    project_splat(
        first + wp.tid(),
        means,
        scales,
        rotations,
        opacities,
        w2c,
        intrinsics,
        width,
        height,
        perspective,
        antialias,
        near,
        ellipses,
        depths,
        boxes,
    )


@native("splat_project.h", "project_splat_backward")
@no_type_check
def project_splat_backward(
    n: wp.int32,
    means: wp.array(dtype=wp.float32),
    scales: wp.array(dtype=wp.float32),
    rotations: wp.array(dtype=wp.float32),
    opacities: wp.array(dtype=wp.float32),
    w2c: wp.array(dtype=wp.float32),
    intrinsics: wp.array2d(dtype=wp.float32),
    width: wp.int32,
    height: wp.int32,
    perspective: wp.bool,
    antialias: wp.bool,
    near: wp.float32,
    g_ellipses: wp.array(dtype=wp.float32),
    g_depths: wp.array(dtype=wp.float32),
    g_means: wp.array(dtype=wp.float32),
    g_scales: wp.array(dtype=wp.float32),
    g_rotations: wp.array(dtype=wp.float32),
    g_opacities: wp.array(dtype=wp.float32),
    g_w2c: wp.array(dtype=wp.float32),
):
    """Write the gradients of splat n, in C++."""


@kernel
@no_type_check
def project_splats_backward(
    first: wp.int32,
    means: wp.array(dtype=wp.float32),
    scales: wp.array(dtype=wp.float32),
    rotations: wp.array(dtype=wp.float32),
    opacities: wp.array(dtype=wp.float32),
    w2c: wp.array(dtype=wp.float32),
    intrinsics: wp.array2d(dtype=wp.float32),
    width: wp.int32,
    height: wp.int32,
    perspective: wp.bool,
    antialias: wp.bool,
    near: wp.float32,
    g_ellipses: wp.array(dtype=wp.float32),
    g_depths: wp.array(dtype=wp.float32),
    g_means: wp.array(dtype=wp.float32),
    g_scales: wp.array(dtype=wp.float32),
    g_rotations: wp.array(dtype=wp.float32),
    g_opacities: wp.array(dtype=wp.float32),
    g_w2c: wp.array(dtype=wp.float32),
):
    """Write the gradients of one splat, those of all pictures added up."""
    project_splat_backward(
        first + wp.tid(),
        means,
        scales,
        rotations,
        opacities,
        w2c,
        intrinsics,
        width,
        height,
        perspective,
        antialias,
        near,
        g_ellipses,
        g_depths,
        g_means,
        g_scales,
        g_rotations,
        g_opacities,
        g_w2c,
    )


@native("splat_lists.h", "order_view")
@no_type_check
def order_view(
    view: wp.int32,
    n: wp.int32,
    boxes: wp.array(dtype=wp.int32),
    depths: wp.array(dtype=wp.float32),
    room: wp.array(dtype=wp.int32),
    splats: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
    slots: wp.array(dtype=wp.int32),
    covered: wp.array(dtype=wp.int64),
):
    """Order the splats of a view by depth, in C++."""


@kernel
@no_type_check
def order_views(
    first: wp.int32,
    n: wp.int32,
    boxes: wp.array(dtype=wp.int32),
    depths: wp.array(dtype=wp.float32),
    room: wp.array(dtype=wp.int32),
    splats: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
    slots: wp.array(dtype=wp.int32),
    covered: wp.array(dtype=wp.int64),
):
    """Order the splats of one view by depth, and count the tiles that they cover."""
    order_view(first + wp.tid(), n, boxes, depths, room, splats, counts, slots, covered)


@native("splat_lists.h", "list_view")
@no_type_check
def list_view(
    view: wp.int32,
    n: wp.int32,
    n_rows: wp.int32,
    n_columns: wp.int32,
    boxes: wp.array(dtype=wp.int32),
    splats: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
    places: wp.array(dtype=wp.int32),
    tiles: wp.array(dtype=wp.int32),
    counting: wp.bool,
):
    """List the splats in the tiles of a view, in C++."""


@kernel
@no_type_check
def list_views(
    first: wp.int32,
    n: wp.int32,
    n_rows: wp.int32,
    n_columns: wp.int32,
    boxes: wp.array(dtype=wp.int32),
    splats: wp.array(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
    places: wp.array(dtype=wp.int32),
    tiles: wp.array(dtype=wp.int32),
    counting: wp.bool,
):
    """List the splats in the tiles of one view."""
    list_view(first + wp.tid(), n, n_rows, n_columns, boxes, splats, counts, places, tiles, counting)


def blending(n_features: int, declaration: Callable[..., None]) -> Callable[..., None]:
    """Return a declaration with the body of its C++ function, which blends ``n_features`` numbers of each splat."""
    body = native_body("splat_composite.h", declaration.__name__, FEATURES=n_features)
    declaration.__name__ = declaration.__qualname__ = f"{declaration.__name__}_{n_features}"
    return wp.func_native(body)(declaration)


def native_composite(n_features: int) -> Callable[..., None]:
    """Return the C++ of a tile's pictures, for a number of features."""

    @no_type_check
    def composite_tile(
        thread: wp.int32,
        width: wp.int32,
        height: wp.int32,
        starts: wp.array(dtype=wp.int32),
        tiles: wp.array(dtype=wp.int32),
        boxes: wp.array(dtype=wp.int32),
        ellipses: wp.array(dtype=wp.float32),
        features: wp.array(dtype=wp.float32),
        sums: wp.array(dtype=wp.float32),
        opacity: wp.array(dtype=wp.float32),
    ): ...

    return blending(n_features, composite_tile)


def composite_function(n_features: int) -> Callable[..., None]:
    """Return the kernel's function that composites one tile, or on CUDA one pixel of it."""
    composite_tile = native_composite(n_features)

    @no_type_check
    def composite_tiles(
        first: wp.int32,
        width: wp.int32,
        height: wp.int32,
        starts: wp.array(dtype=wp.int32),
        tiles: wp.array(dtype=wp.int32),
        boxes: wp.array(dtype=wp.int32),
        ellipses: wp.array(dtype=wp.float32),
        features: wp.array(dtype=wp.float32),
        sums: wp.array(dtype=wp.float32),
        opacity: wp.array(dtype=wp.float32),
    ):
        composite_tile(
            first + wp.tid(), width, height, starts, tiles, boxes, ellipses, features, sums, opacity
        )

    return composite_tiles


def native_composite_backward(n_features: int) -> Callable[..., None]:
    """Return the C++ of a tile's gradients, for a number of features."""

    @no_type_check
    def composite_tile_backward(
        thread: wp.int32,
        width: wp.int32,
        height: wp.int32,
        starts: wp.array(dtype=wp.int32),
        tiles: wp.array(dtype=wp.int32),
        boxes: wp.array(dtype=wp.int32),
        slots: wp.array(dtype=wp.int32),
        ellipses: wp.array(dtype=wp.float32),
        features: wp.array(dtype=wp.float32),
        sums: wp.array(dtype=wp.float32),
        opacity: wp.array(dtype=wp.float32),
        g_sums: wp.array(dtype=wp.float32),
        g_opacity: wp.array(dtype=wp.float32),
        rows: wp.array(dtype=wp.float32),
    ): ...

    return blending(n_features, composite_tile_backward)


def composite_backward_function(n_features: int) -> Callable[..., None]:
    """Return the kernel's function that writes the gradients of the splats in one tile."""
    composite_tile_backward = native_composite_backward(n_features)

    @no_type_check
    def composite_tiles_backward(
        first: wp.int32,
        width: wp.int32,
        height: wp.int32,
        starts: wp.array(dtype=wp.int32),
        tiles: wp.array(dtype=wp.int32),
        boxes: wp.array(dtype=wp.int32),
        slots: wp.array(dtype=wp.int32),
        ellipses: wp.array(dtype=wp.float32),
        features: wp.array(dtype=wp.float32),
        sums: wp.array(dtype=wp.float32),
        opacity: wp.array(dtype=wp.float32),
        g_sums: wp.array(dtype=wp.float32),
        g_opacity: wp.array(dtype=wp.float32),
        rows: wp.array(dtype=wp.float32),
    ):
        composite_tile_backward(
            first + wp.tid(),
            width,
            height,
            starts,
            tiles,
            boxes,
            slots,
            ellipses,
            features,
            sums,
            opacity,
            g_sums,
            g_opacity,
            rows,
        )

    return composite_tiles_backward


def native_gather(n_features: int) -> Callable[..., None]:
    """Return the C++ that adds up a splat's gradients, for a number of features."""

    @no_type_check
    def gather_splat(
        splat: wp.int32,
        slots: wp.array(dtype=wp.int32),
        rows: wp.array(dtype=wp.float32),
        g_ellipses: wp.array(dtype=wp.float32),
        g_features: wp.array(dtype=wp.float32),
    ): ...

    return blending(n_features, gather_splat)


def gather_function(n_features: int) -> Callable[..., None]:
    """Return the kernel's function that adds up the gradients of one splat."""
    gather_splat = native_gather(n_features)

    @no_type_check
    def gather_splats(
        first: wp.int32,
        slots: wp.array(dtype=wp.int32),
        rows: wp.array(dtype=wp.float32),
        g_ellipses: wp.array(dtype=wp.float32),
        g_features: wp.array(dtype=wp.float32),
    ):
        gather_splat(first + wp.tid(), slots, rows, g_ellipses, g_features)

    return gather_splats


class CompositeKernels(NamedTuple):
    """The kernels of one number of blended values."""

    forward: runtime.WarpKernel
    backward: runtime.WarpKernel
    gather: runtime.WarpKernel


@functools.cache
def composite_kernels(n_features: int) -> CompositeKernels:
    """Return the kernels that blend ``n_features`` numbers of each splat, a module of their own."""
    make = wp.kernel(module=f"usd_splat_{n_features}", enable_backward=False)
    functions = (composite_function, composite_backward_function, gather_function)
    return CompositeKernels(*(make(function(n_features)) for function in functions))


def kernels() -> list[runtime.WarpKernel]:
    """Return all kernels, those of compositing for the numbers that are blended in practice."""
    by_width = [one for width in WIDTHS for one in composite_kernels(width)]
    return [project_splats, project_splats_backward, order_views, list_views, *by_width]


# --------------------------------------------------------------------------------------------------- projection

if TYPE_CHECKING:

    class ProjectContext(FunctionCtx):
        """Values that projecting keeps for its backward pass."""

        view: SplatView
        antialias: bool
        saved_tensors: tuple[Tensor, ...]
        needs_input_grad: tuple[bool, ...]

    class SplatCompositeContext(FunctionCtx):
        """Values that compositing keeps for its backward pass."""

        size: tuple[int, int]
        saved_tensors: tuple[Tensor, ...]

else:  # autograd makes classes of its own
    ProjectContext = SplatCompositeContext = FunctionCtx


def _arrays(*tensors: Tensor) -> list[object]:
    return [runtime.array(t) for t in tensors]


def _flat(*tensors: Tensor) -> list[object]:
    return [runtime.array(t.view(-1)) for t in tensors]


class _Project(torch.autograd.Function):
    """(means, scales, rotations, opacities, w2c) -> ellipses, depths and boxes."""

    @staticmethod
    def forward(
        ctx: ProjectContext, given: tuple[SplatView, bool], *inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.view, ctx.antialias = given
        inputs = tuple(one.contiguous() for one in inputs)
        ctx.save_for_backward(*inputs)
        means, n, b = inputs[0], len(inputs[0]), len(ctx.view)
        ellipses, depths = means.new_empty(b, n, ELLIPSE), means.new_empty(b, n)
        boxes = torch.empty(b, n, 4, dtype=torch.int32, device=means.device)
        arguments = (*_project_arguments(inputs, ctx.view, ctx.antialias), *_flat(ellipses, depths, boxes))
        runtime.launch(project_splats, runtime.Split((n,), grain=PROJECTED), arguments, means.device)
        # Which pixels a splat may touch has no gradient: beyond them it is not drawn anyway.
        ctx.mark_non_differentiable(boxes)
        return ellipses, depths, boxes

    @staticmethod
    @once_differentiable
    def backward(ctx: ProjectContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, device = ctx.saved_tensors, grads[0].device
        *out, g_w2c = (torch.empty_like(one) for one in inputs)
        n, moved = len(inputs[0]), ctx.needs_input_grad[-1]
        # A row for each splat: threads do not add to one place. Cameras mostly stand still, and need none.
        rows = g_w2c.new_empty((len(ctx.view), n, 12) if moved else (0,))
        arguments = (
            *_project_arguments(inputs, ctx.view, ctx.antialias),
            *_flat(*(g.contiguous() for g in grads[:2]), *out, rows),
        )
        runtime.launch(project_splats_backward, runtime.Split((n,), grain=PROJECTED), arguments, device)
        return None, *out, rows.sum(1).view_as(g_w2c) if moved else None


def _project_arguments(inputs: tuple[Tensor, ...], view: SplatView, antialias: bool) -> list[object]:
    """Return the arguments that both directions of the projection begin with."""
    # One array for both: fx, fy, cx, cy, and the four ends of the rim.
    lens = runtime.array(torch.cat([view.lens, view.rim], 1))
    return [*_flat(*inputs), lens, view.width, view.height, view.perspective, antialias, NEAR]


def project_warp(splats: Splats, view: SplatView, antialias: bool) -> Projection:
    """Project as ``project_torch`` does, by the kernels; no gradient for ``view.lens``."""
    inputs = (splats.means, splats.scales, splats.rotations, splats.opacities, view.w2c)
    ellipse, depth, box = _Project.apply((view, antialias), *inputs)
    return Projection(ellipse, depth, box, view.height, view.width)


# -------------------------------------------------------------------------------------------------- compositing


class TileLists(NamedTuple):
    """The splats that touch each tile, near to far: those of tile k stand at ``starts[k]`` to ``starts[k + 1]``.

    ``slots`` counts the tiles of the splats before each, so that every pair of splat and tile has a number.
    """

    starts: Tensor
    tiles: Tensor
    slots: Tensor


def tile_lists(boxes: Tensor, depths: Tensor, height: int, width: int) -> TileLists:
    """List the splats of each tile. Raises ``MemoryError`` where there are more pairs than can be counted."""
    # Both make the same lists: a CPU counts faster than it sorts, and a GPU the other way round.
    listed = _lists_by_sorting if boxes.is_cuda else _lists_by_counting
    return listed(boxes, depths, (-(-height // SIDE), -(-width // SIDE)))


def _require_countable(pairs: int, n_splats: int) -> int:
    """Return the number of pairs of a splat and a tile. Raises ``MemoryError`` for more than can be counted."""
    if pairs >= 2**31:
        raise MemoryError(f"{n_splats} splats cover {pairs} tiles; expected below 2^31")
    return pairs


def _lists_by_counting(boxes: Tensor, depths: Tensor, grid: tuple[int, int]) -> TileLists:
    """List by kernels, a thread for each view: splats in order of depth, their number in each tile, and the lists."""
    n_views, n = boxes.shape[:2]
    split, device = runtime.Split((n_views,), grain=1), boxes.device
    splats, counts = boxes.new_empty(n_views, n), boxes.new_empty(n_views)
    slots, covered = boxes.new_empty(n_views * n + 1), torch.empty(n_views, dtype=torch.int64)
    # The sort's two lists of keys and numbers.
    room = boxes.new_empty(n_views, n, 4)
    arrays = _flat(boxes, depths, room, splats, counts, slots, covered)
    runtime.launch(order_views, split, (n, *arrays), device)
    tiles = boxes.new_empty(_require_countable(int(covered.sum()), n))
    slots[-1] = len(tiles)
    if n_views > 1:
        slots[:-1].view(n_views, n).add_((covered.cumsum(0) - covered).int()[:, None])
    places, given = boxes.new_zeros(n_views * grid[0] * grid[1]), (n, *grid, *_flat(boxes, splats, counts))
    runtime.launch(list_views, split, (*given, *_arrays(places, tiles), True), device)
    # Where the splats of each tile begin follows from how many those before it have.
    starts = torch.nn.functional.pad(places.cumsum(0, dtype=torch.int32), (1, 0))
    runtime.launch(list_views, split, (*given, *_arrays(starts[:-1].clone(), tiles), False), device)
    return TileLists(starts, tiles, slots)


def _lists_by_sorting(boxes: Tensor, depths: Tensor, grid: tuple[int, int]) -> TileLists:
    """List by torch's sort, which a GPU does well: all pairs by depth, then by tile without changing that order."""
    rows, columns = grid
    # Each pair of splat and tile gets a place for its gradients.
    covered = _covered_tiles(boxes).prod(-1)
    slots = torch.nn.functional.pad(covered.flatten().cumsum(0), (1, 0))
    _require_countable(int(slots[-1]), boxes.shape[1])
    by_depth = _visible_by_depth(covered > 0, depths)
    box = boxes.view(-1, 4)[by_depth]
    wide, count = _covered_tiles(box)[:, 0], _covered_tiles(box).prod(-1)
    # A row for each tile of each splat; which of its tiles follows from the row's place among them.
    pair = torch.repeat_interleave(torch.arange(len(count), device=boxes.device), count)
    nth = torch.arange(len(pair), device=boxes.device) - (count.cumsum(0) - count)[pair]
    x, y = box[pair, 0] // SIDE + nth % wide[pair], box[pair, 2] // SIDE + nth // wide[pair]
    tile = (by_depth[pair] // boxes.shape[1] * rows + y) * columns + x
    # Pairs come by depth, and a stable sort leaves them so within each tile.
    by_tile = tile.argsort(stable=True)
    counts = torch.bincount(tile, minlength=len(boxes) * rows * columns)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    return TileLists(starts, by_depth[pair[by_tile]].int(), slots.int())


def _covered_tiles(boxes: Tensor) -> Tensor:
    """Return the numbers of columns and rows of tiles that boxes touch (... 2)."""
    low, high = boxes[..., 0::2], boxes[..., 1::2]
    return torch.where(high > low, (high - 1) // SIDE - low // SIDE + 1, 0)


def _visible_by_depth(visible: Tensor, depths: Tensor) -> Tensor:
    """Return the numbers of the ellipses that are seen, view after view, near to far."""
    # What is not seen is left out before sorting, which takes longest.
    found = visible.flatten().nonzero().squeeze(1)
    found = found[depths.flatten()[found].argsort(stable=True)]
    if len(visible) > 1:
        # By view last: a stable sort keeps the order of depths within each.
        found = found[found.div(visible.shape[1], rounding_mode="floor").argsort(stable=True)]
    return found


class _CompositeSplats(torch.autograd.Function):
    """(ellipses, features) -> sums, opacity."""

    @staticmethod
    def forward(
        ctx: SplatCompositeContext, given: tuple[Projection, TileLists], ellipses: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen, lists = given
        ctx.size, (b, _, c) = (seen.width, seen.height), features.shape
        sums = ellipses.new_empty(b, seen.height, seen.width, c)
        opacity = ellipses.new_empty(b, seen.height, seen.width)
        arrays = _flat(lists.starts, lists.tiles, seen.box, ellipses, features, sums, opacity)
        run, split = composite_kernels(c).forward, _split(lists.starts)
        runtime.launch(run, split, (*ctx.size, *arrays), ellipses.device)
        ctx.save_for_backward(*lists, seen.box, ellipses, features, sums, opacity)
        return sums, opacity

    @staticmethod
    @once_differentiable
    def backward(ctx: SplatCompositeContext, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        starts, tiles, slots, box, ellipses, features, sums, opacity = ctx.saved_tensors
        c, device = features.shape[-1], features.device
        # Zeros: of pixels that ended early the rest of the list is never visited.
        rows = runtime.zeros((len(tiles), ELLIPSE + c), device)
        arrays = _flat(starts, tiles, box, slots, ellipses, features, sums, opacity)
        incoming = _flat(*(g.contiguous() for g in grads), rows)
        kernels = composite_kernels(c)
        runtime.launch(kernels.backward, _split(starts), (*ctx.size, *arrays, *incoming), device)
        out = torch.empty_like(ellipses), torch.empty_like(features)
        split = runtime.Split((len(slots) - 1,), grain=GATHERED)
        runtime.launch(kernels.gather, split, _flat(slots, rows, *out), device)
        return None, *out


def _split(starts: Tensor) -> runtime.Split:
    """Return a launch over tiles; on CUDA over their pixels."""
    tiles = len(starts) - 1
    return runtime.Split((tiles * SIDE * SIDE if starts.is_cuda else tiles,), grain=1)


def composite_warp(seen: Projection, features: Tensor) -> SplatPicture:
    """Composite as ``composite_torch`` does, by the kernels."""
    lists = tile_lists(seen.box, seen.depth.detach(), seen.height, seen.width)
    sums, opacity = _CompositeSplats.apply((seen, lists), seen.ellipse.contiguous(), features.contiguous())
    return SplatPicture(sums, opacity)
