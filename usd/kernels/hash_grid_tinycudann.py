"""The hash encoding by tinycudann (arXiv 2201.05989's own code), on the table of ``usd.kernels.hash_grid``.

One of its encodings of a single level for each of ours: its vertices lie half a cell off, and its levels grow by
another rule, so a level of N cells is one of ``base_resolution`` N + 1 at positions moved by 1 / 2N. Rows, hashes and
order of features are the same; a level is padded to a multiple of 8 rows. A table trained with one implementation is
read by any other. Where ``vertices`` are its own, one encoding has all levels. Exactly at the far faces of the cube
(x = 1) its derivative by x is not defined.
"""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from usd.kernels.accelerators import load_accelerator
from usd.kernels.hash_grid import HashGridSpec


def encode_tinycudann(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], spec: HashGridSpec
) -> Float[Tensor, "N LF"]:
    """See ``hash_grid``."""
    # What lies outside is moved to the nearest face, as our kernels do.
    inside = x.clamp(0, 1)
    shape = (spec.n_features_per_level, spec.log2_hashmap_size)
    if spec.vertices == "tinycudann":
        module = grid(shape, spec.n_levels, spec.base_resolution, spec.per_level_scale, x.device)
        return torch.func.functional_call(module, {"params": table.flatten().float()}, (inside,)).to(x.dtype)
    parts = []
    # Level by level: its own growth of resolutions is not ours.
    for cells, rows in zip(spec.resolutions, table.split(list(spec.level_rows)), strict=True):
        module = grid(shape, 1, cells + 1, 1.0, x.device)
        parameters = pad_rows(rows, module.get_parameter("params").numel())
        parts.append(torch.func.functional_call(module, {"params": parameters}, (inside - 0.5 / cells,)))
    return torch.cat(parts, -1).to(x.dtype)


def pad_rows(rows: Float[Tensor, "E F"], numbers: int) -> Float[Tensor, "P"]:
    """Return a level's rows as tinycudann keeps them: filled up to a multiple of 8, in one line."""
    # tinycudann aligns each level to 8 rows.
    flat = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % 8)).flatten()
    if flat.numel() != numbers:
        raise ValueError(
            f"hash grid: this version of tinycudann keeps {numbers} numbers where {flat.numel()} were expected; "
            "use kernels: auto"
        )
    return flat.float()


@functools.lru_cache(maxsize=64)
def grid(
    shape: tuple[int, int], levels: int, base: int, growth: float, device: torch.device
) -> torch.nn.Module:
    """Return tinycudann's encoding of so many levels; ``shape`` is features a level and the logarithm of its rows."""
    config = {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": levels,
        "n_features_per_level": shape[0],
        "log2_hashmap_size": shape[1],
        "base_resolution": base,
        "per_level_scale": growth,
        "interpolation": "Linear",
    }
    return load_accelerator("tinycudann").Encoding(3, config, dtype=torch.float32).to(device)
