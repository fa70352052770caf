"""Gaussian splats as SPZ (Niantic), versions 2 and 3: about a tenth of a PLY. Written as version 2.

A gzip stream: 16 bytes of header, then positions (24-bit fixed point), opacities, colors, scales (16 steps a unit of
the logarithm), rotations and harmonics, array after array. +y up.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.math.splats import ColoredSplats

MAGIC, VERSION = 0x5053474E, 2
HEADER = struct.Struct("<IIIBBBB")
FRACTION_BITS = 12
COLOR_SCALE = 0.15
HARMONIC_STEPS = (16, 8)  # bits kept: 4 of the 8; 5 of the first degree
Bytes = NDArray[np.uint8]


def spz_of_splats(splats: ColoredSplats) -> bytes:
    """Return an SPZ file of splats in its axes (+y up)."""
    degree = int(splats.harmonics.shape[1] ** 0.5) - 1
    reach = float(splats.means.abs().max()) if len(splats) else 0.0
    # As many bits behind the point as leave room for the farthest splat in 24.
    bits = min(FRACTION_BITS, max(0, 22 - int(np.ceil(np.log2(max(reach, 1e-9))))))
    fixed = (splats.means.double() * 2**bits).round().long()
    q = torch.nn.functional.normalize(splats.rotations, dim=-1)
    q = torch.where(q[:, :1] < 0, -q, q)
    parts = [
        torch.stack([fixed >> 8 * i & 255 for i in range(3)], -1),
        _rounded(splats.opacities * 255),
        _rounded(splats.harmonics[:, 0] * (COLOR_SCALE * 255) + 127.5),
        _rounded((splats.scales.clamp_min(1e-12).log() + 10) * 16),
        _rounded(q[:, 1:] * 127.5 + 127.5),
        _quantized(splats.harmonics[:, 1:]),
    ]
    header = HEADER.pack(MAGIC, VERSION, len(splats), degree, bits, 0, 0)
    arrays = [part.detach().cpu().numpy().astype(np.uint8).tobytes() for part in parts]
    return gzip.compress(header + b"".join(arrays), mtime=0)


def _rounded(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255)


def _quantized(harmonics: Tensor) -> Tensor:
    """Return harmonics beyond the first as bytes, in coarse steps that compress well."""
    steps = torch.full((harmonics.shape[1], 1), HARMONIC_STEPS[0])
    steps[:3] = HARMONIC_STEPS[1]
    whole = (harmonics.cpu() * 128).round() + 128
    return (((whole + steps / 2) / steps).floor() * steps).clamp(0, 255)


def read_spz(path: Path, content: bytes) -> ColoredSplats:
    """Return the splats of a file, in its axes. Raises ``UserError`` for what cannot be read."""
    if content.startswith(b"NGSP"):
        raise UserError(f"{path}: is SPZ of version 4 or later; expected version 2 or 3, or a PLY")
    try:
        data = gzip.decompress(content)
        magic, version, count, degree, bits, _, _ = HEADER.unpack_from(data)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path}: cannot be read as SPZ: is the file cut off? ({error})") from error
    if magic != MAGIC or version not in (2, 3) or degree > 3:
        raise UserError(f"{path}: is SPZ of version {version}, degree {degree}; expected version 2 or 3")
    turn = 3 if version == 2 else 4
    rest = (degree + 1) ** 2 - 1
    widths = (9, 1, 3, 3, turn, 3 * rest)
    if len(data) < HEADER.size + count * sum(widths):
        raise UserError(f"{path}: is cut off: {len(data)} bytes for {count} splats")
    tables, place = list[Bytes](), HEADER.size
    for width in widths:
        table = np.frombuffer(data, np.uint8, count * width, place)
        tables.append(table.reshape(count, width))
        place += count * width
    return _splats_of(tables, bits, version)


def _splats_of(tables: list[Bytes], bits: int, version: int) -> ColoredSplats:
    """Return the splats of a file's six tables."""
    position, opacity, color, scale, turn, rest = (
        torch.from_numpy(table.astype(np.int32)) for table in tables
    )
    parts = position.view(-1, 3, 3)
    fixed = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    fixed = torch.where(fixed >= 1 << 23, fixed - (1 << 24), fixed)
    constant = (color / 255 - 0.5) / COLOR_SCALE
    harmonics = torch.cat([constant[:, None], (rest.view(len(rest), rest.shape[1] // 3, 3) - 128) / 128], 1)
    return ColoredSplats(
        fixed / 2.0**bits,
        (scale / 16 - 10).exp(),
        _first_three(turn) if version == 2 else _smallest_three(turn),
        opacity[:, 0] / 255,
        harmonics,
    )


def _first_three(turn: Tensor) -> Tensor:
    """Return quaternions (real part first) of version 2: three numbers, the fourth follows."""
    xyz = turn / 127.5 - 1
    w = (1 - xyz.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([w, xyz], 1)


def _smallest_three(turn: Tensor) -> Tensor:
    """Return quaternions (real part first) of version 3: the three smallest numbers, and which the largest is."""
    word = turn[:, 0].long() | turn[:, 1].long() << 8 | turn[:, 2].long() << 16 | turn[:, 3].long() << 24
    largest = word >> 30 & 3
    out = torch.zeros(len(turn), 4)
    for i in (3, 2, 1, 0):
        here = largest != i
        value = (word & 511) / 511 * 0.5**0.5 * torch.where((word >> 9 & 1) > 0, -1.0, 1.0)
        out[:, i] = torch.where(here, value, out[:, i])
        word = torch.where(here, word >> 10, word)
    last = (1 - out.square().sum(1)).clamp_min(0).sqrt()
    out[torch.arange(len(out)), largest] = last
    return out[:, [3, 0, 1, 2]]
