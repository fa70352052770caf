"""ICC profiles made from published primaries and curves, as files of cameras and editors carry them."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
D65_XY = (0.3127, 0.3290)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Parameters of the parametric curve: g, a, b, c, d."""


def _xyz(xy):
    return np.array([xy[0] / xy[1], 1.0, (1 - xy[0] - xy[1]) / xy[1]])


def linear_to_xyz(primaries) -> np.ndarray:
    """The matrix from linear RGB with a D65 white to XYZ."""
    columns = np.stack([_xyz(xy) for xy in primaries], -1)
    return columns * np.linalg.solve(columns, _xyz(D65_XY))


def encoded(rgb, primaries, gamma=None) -> np.ndarray:
    """The bytes by which a file with these primaries (and a power curve, or sRGB's) means an sRGB color of bytes."""
    v = np.array(rgb) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    there = np.linalg.solve(linear_to_xyz(primaries), linear_to_xyz(SRGB) @ linear).clip(0, 1)
    if gamma is not None:
        return (255 * there ** (1 / gamma)).round().astype(np.uint8)
    curved = np.where(there <= 0.0031308, 12.92 * there, 1.055 * there ** (1 / 2.4) - 0.055)
    return (255 * curved).round().astype(np.uint8)


def _fixed(*values) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def _curve(gamma) -> bytes:
    if gamma is None:
        return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(*SRGB_CURVE)
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _text(text: str) -> bytes:
    return (
        b"mluc\0\0\0\0"
        + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(text), 28)
        + text.encode("utf-16-be")
    )


def _profile(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"\0\0\0\0", 0x04200000, kind, space, pcs)
    head += struct.pack(">6H4s4sIIIQI", 2024, 1, 1, 0, 0, 0, b"acsp", b"\0" * 4, 0, 0, 0, 0, 0) + _fixed(*D50)
    return head.ljust(128, b"\0") + body


def rgb_profile(name: str, primaries, gamma=None) -> bytes:
    """A display's profile: primaries and one curve."""
    white = BRADFORD @ _xyz(D65_XY)
    adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ np.array(D50) / white) @ BRADFORD
    matrix = adapt @ linear_to_xyz(primaries)
    tags = {b"desc": _text(name), b"cprt": _text("none"), b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)}
    tags |= {c + b"XYZ": b"XYZ \0\0\0\0" + _fixed(*matrix[:, i]) for i, c in enumerate((b"r", b"g", b"b"))}
    tags |= {c + b"TRC": _curve(gamma) for c in (b"r", b"g", b"b")}
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def gray_profile(name: str, gamma: float) -> bytes:
    """A gray axis with a power curve."""
    tags = {b"desc": _text(name), b"cprt": _text("none"), b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)}
    return _profile(b"GRAY", b"XYZ ", b"mntr", {**tags, b"kTRC": _curve(gamma)})


def cmyk_profile(name: str, ink_lab: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """A press, by the color (CIE Lab) of each of the 16 overprints of full inks; (0, 0, 0, 0) is paper."""
    ramp = bytes(range(256))
    grid = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    clut = bytes(
        v
        for inks in grid
        for v in (round(2.55 * ink_lab[inks][0]), *(round(x) + 128 for x in ink_lab[inks][1:]))
    )
    table = b"mft1\0\0\0\0" + struct.pack(">BBBx", 4, 3, 2) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    tags = {b"desc": _text(name), b"cprt": _text("none"), b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)}
    return _profile(b"CMYK", b"Lab ", b"prtr", {**tags, b"A2B0": table + 4 * ramp + clut + 3 * ramp})
