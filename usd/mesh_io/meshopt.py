"""Buffer views compressed by EXT_meshopt_compression, in numpy (formats: the extension's appendices A and B).

ATTRIBUTES are elements of ``stride`` bytes in blocks; each byte of a block's elements is a row of zigzag differences,
packed in groups of 16. TRIANGLES are three indices a code byte, by short memories of edges and vertices. INDICES are
differences.
"""

import numpy as np
from jaxtyping import UInt8

GROUP = 16
Bytes = UInt8[np.ndarray, "size"]


def decode_view(data: bytes, count: int, stride: int, mode: str, filter_name: str) -> bytes:
    """Return ``count`` elements of ``stride`` bytes. Raises ValueError for data that is not of the format."""
    source = np.frombuffer(data, np.uint8)
    if mode == "ATTRIBUTES":
        return apply_filter(_decode_vertices(source, count, stride), filter_name).tobytes()
    reader = {"TRIANGLES": _decode_triangles, "INDICES": _decode_indices}.get(mode)
    if reader is None or stride not in (2, 4):
        raise ValueError(f"meshopt mode {mode} with {stride} bytes")
    return reader(source, count).astype(np.uint16 if stride == 2 else np.uint32).tobytes()


# ------------------------------------------------------------------------------------------------------- attributes


def _decode_vertices(source: Bytes, count: int, stride: int) -> UInt8[np.ndarray, "count stride"]:
    if len(source) == 0 or source[0] != 0xA0 or stride % 4:
        raise ValueError("meshopt: not an attribute stream of version 0")
    last = source[len(source) - stride :].astype(np.int64)
    block = min((8192 // stride) & ~15, 256)
    place, rows = 1, np.zeros((count, stride), np.uint8)
    for first in range(0, count, block):
        size = min(block, count - first)
        deltas = np.zeros((size, stride), np.int64)
        for byte in range(stride):
            row, place = _byte_row(source, place, size)
            deltas[:, byte] = (row >> 1) ^ -(row & 1)
        values = (last + np.cumsum(deltas, 0)) & 255
        rows[first : first + size], last = values, values[-1]
    return rows


def _byte_row(source: Bytes, place: int, size: int) -> tuple[np.ndarray, int]:
    """Return the differences of one byte of a block's elements, and where the next row starts."""
    groups = -(-size // GROUP)
    header = source[place : place + -(-groups // 4)]
    place += len(header)
    row = np.zeros((groups, GROUP), np.int64)
    for group in range(groups):
        mode = (int(header[group // 4]) >> (2 * (group % 4))) & 3
        row[group], place = _group(source, place, mode)
    return row.reshape(-1)[:size], place


def _group(source: Bytes, place: int, mode: int) -> tuple[np.ndarray, int]:
    """Read 16 differences: none, of 2 or 4 bits, or whole bytes. All bits set: the byte follows behind the group."""
    if mode == 0:
        return np.zeros(GROUP, np.int64), place
    if mode == 3:
        return source[place : place + GROUP].astype(np.int64), place + GROUP
    bits = 2 * mode
    packed = source[place : place + 2 * bits].astype(np.int64)
    shifts = np.arange(8 - bits, -1, -bits)
    values = ((packed[:, None] >> shifts) & (2**bits - 1)).reshape(-1)
    place += 2 * bits
    long = np.flatnonzero(values == 2**bits - 1)
    values[long] = source[place : place + len(long)]
    return values, place + len(long)


def apply_filter(rows: UInt8[np.ndarray, "count stride"], name: str) -> np.ndarray:
    """Return elements as they were before the named filter prepared them for compression."""
    if name == "EXPONENTIAL":
        words = rows.view(np.int32)
        return np.ldexp((words << 8 >> 8).astype(np.float32), words >> 24).astype(np.float32)
    if name == "QUATERNION":
        return _quaternions(rows.view(np.int16))
    return rows  # octahedral normals are not used here


def _quaternions(rows: np.ndarray) -> np.ndarray:
    """Restore four 16-bit components: the file keeps the three smallest, and in the last which one is missing."""
    tag = rows[:, 3].astype(np.int64)
    three = rows[:, :3] / (np.sqrt(2.0) * (tag | 3))[:, None]
    four = np.sqrt(np.maximum(0.0, 1 - np.square(three).sum(1, keepdims=True)))
    out = np.zeros((len(rows), 4))
    order = ((tag[:, None] + np.array([1, 2, 3, 0])) % 4).astype(np.int64)
    np.put_along_axis(out, order, np.concatenate([three, four], 1), 1)
    return np.round(out * 32767).astype(np.int16)


# ---------------------------------------------------------------------------------------------------------- indices


class _Varints:
    """Numbers of 7 bits a byte, lowest first."""

    def __init__(self, source: Bytes, place: int) -> None:
        self.data, self.place, self.last = source.tolist(), place, 0

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def index(self) -> int:
        """Return an index as a zigzag difference from the one before."""
        value = self.number()
        self.last += (value >> 1) ^ -(value & 1)
        return self.last


class _Memory:
    """The last 16 edges and vertices, newest first, and the next vertex that was not used yet."""

    def __init__(self) -> None:
        self.edges: list[tuple[int, int]] = [(0, 0)] * 16
        self.vertices: list[int] = [0] * 16
        self.next = 0

    def new(self) -> int:
        self.next += 1
        return self.next - 1

    def keep(self, *vertices: int) -> None:
        for vertex in vertices:
            self.vertices = [vertex, *self.vertices[:15]]

    def keep_edges(self, *edges: tuple[int, int]) -> None:
        for edge in edges:
            self.edges = [edge, *self.edges[:15]]


def _decode_triangles(source: Bytes, count: int) -> np.ndarray:
    if len(source) < 17 or source[0] != 0xE1 or count % 3:
        raise ValueError("meshopt: not a triangle stream of version 1")
    codes, table = source[1 : 1 + count // 3].tolist(), source[-16:].tolist()
    data, memory, out = _Varints(source, 1 + count // 3), _Memory(), []
    for code in codes:
        high, low = code >> 4, code & 15
        if high < 15:
            a, b = memory.edges[high]
            c = _third(low, data, memory)
            memory.keep_edges((c, b), (a, c))
        else:
            a, b, c = _fresh(low, table, data, memory)
            memory.keep_edges((b, a), (c, b), (a, c))
        out += [a, b, c]
    return np.array(out, np.int64)


def _third(low: int, data: _Varints, memory: _Memory) -> int:
    """Return the vertex across a remembered edge."""
    if 0 < low < 13:
        return memory.vertices[low]
    if low == 0:
        c = memory.new()
    elif low == 15:
        c = data.index()
    else:
        data.last += 1 if low == 14 else -1
        c = data.last
    memory.keep(c)
    return c


def _fresh(low: int, table: list[int], data: _Varints, memory: _Memory) -> tuple[int, int, int]:
    """Return a triangle that shares no remembered edge; its vertices may be remembered, new, or written out."""
    pair = table[low] if low < 14 else data.byte()
    if low >= 14 and pair == 0:
        memory.next = 0
    a = data.index() if low == 15 else memory.new()
    known = [a]
    fresh = [a]
    for nibble in (pair >> 4, pair & 15):
        written = low >= 14 and nibble == 15
        value = memory.new() if nibble == 0 else data.index() if written else memory.vertices[nibble - 1]
        known.append(value)
        fresh += [value] if nibble == 0 or written else []
    memory.keep(*fresh)
    return known[0], known[1], known[2]


def _decode_indices(source: Bytes, count: int) -> np.ndarray:
    if len(source) == 0 or source[0] != 0xD1:
        raise ValueError("meshopt: not an index sequence of version 1")
    data, last, out = _Varints(source, 1), [0, 0], []
    for _ in range(count):
        value = data.number()
        which, delta = value & 1, value >> 1
        last[which] += (delta >> 1) ^ -(delta & 1)
        out.append(last[which])
    return np.array(out, np.int64)
