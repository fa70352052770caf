"""Line charts with bands of spread, and sheets with headings, drawn with Pillow alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from usd.data.pictures import over, read_rgba, to_bytes, write_whole

COLORS = ("#1f6fb4", "#d9591f", "#2b8a3e", "#8e44ad", "#c0392b", "#7f8c8d", "#b8860b")
OVERSAMPLING = 2


@dataclass(frozen=True)
class Line:
    """One curve: its name, a value per x, and a spread around it (drawn as a band)."""

    name: str
    values: Sequence[float]
    spread: Sequence[float]

    @property
    def bounds(self) -> tuple[float, float]:
        low = min(v - s for v, s in zip(self.values, self.spread, strict=True))
        return low, max(v + s for v, s in zip(self.values, self.spread, strict=True))


def curve(name: str, series: Sequence[Sequence[float]]) -> Line:
    """Mean and standard deviation over objects, of one list of numbers an object."""
    columns = list(zip(*series, strict=True))
    spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
    return Line(name, [statistics.fmean(column) for column in columns], spread)


@dataclass(frozen=True)
class Axes:
    """What a chart says besides its curves. ``width`` and ``height`` in pixels."""

    title: str
    x_label: str
    y_label: str
    width: int = 520
    height: int = 320


@dataclass(frozen=True)
class _Frame:
    """Where numbers fall on the canvas."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def line_chart(axes: Axes, x: Sequence[float], lines: Sequence[Line]) -> Image.Image:
    """The curves over x, with bands, ticks and a legend."""
    k = OVERSAMPLING
    canvas = Image.new("RGB", (axes.width * k, axes.height * k), "white")
    draw = ImageDraw.Draw(canvas, "RGBA")
    ticks_y = ticks(min(line.bounds[0] for line in lines), max(line.bounds[1] for line in lines))
    ticks_x = [tick for tick in ticks(min(x), max(x)) if min(x) <= tick <= max(x)]
    edge = (64 * k, 34 * k, (axes.width - 16) * k, (axes.height - 46) * k)
    frame = _Frame(*edge, (min(x), max(x)), (ticks_y[0], ticks_y[-1]))
    _grid(draw, frame, ticks_x, ticks_y)
    for line, color in zip(lines, COLORS, strict=False):
        _curve(draw, frame, x, line, color)
    _words(draw, frame, axes)
    _legend(draw, frame, x, lines)
    return canvas.resize((axes.width, axes.height), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart: where it is, half the height of its bar, and its name."""

    x: float
    y: float
    spread: float
    name: str = ""


def scatter_chart(axes: Axes, groups: Mapping[str, Sequence[Point]]) -> Image.Image:
    """Points with bars, a color for each group, with lines through zero where zero is within."""
    k, every = OVERSAMPLING, [point for points in groups.values() for point in points]
    canvas = Image.new("RGB", (axes.width * k, axes.height * k), "white")
    draw = ImageDraw.Draw(canvas, "RGBA")
    xs = ticks(min(p.x for p in every), max(p.x for p in every))
    ys = ticks(min(p.y - p.spread for p in every), max(p.y + p.spread for p in every))
    edge = (64 * k, 34 * k, (axes.width - 24) * k, (axes.height - 46) * k)
    frame = _Frame(*edge, (xs[0], xs[-1]), (ys[0], ys[-1]))
    _grid(draw, frame, xs, ys)
    _zero(draw, frame)
    for number, (name, points) in enumerate(groups.items()):
        color = COLORS[number % len(COLORS)]
        for point in points:
            _point(draw, frame, point, color, left=number % 2 == 0)
        top = frame.top + (10 + 16 * number) * k
        draw.ellipse((frame.left + 10 * k, top - 4 * k, frame.left + 18 * k, top + 4 * k), color)
        draw.text((frame.left + 24 * k, top), name, "black", font(11 * k), "lm")
    _words(draw, frame, axes)
    return canvas.resize((axes.width, axes.height), Image.Resampling.LANCZOS)


def _zero(draw: ImageDraw.ImageDraw, frame: _Frame) -> None:
    across, level = frame.at(0, 0)
    if frame.left <= across <= frame.right:
        draw.line([(across, frame.top), (across, frame.bottom)], "#888888", OVERSAMPLING)
    if frame.top <= level <= frame.bottom:
        draw.line([(frame.left, level), (frame.right, level)], "#888888", OVERSAMPLING)


def _point(draw: ImageDraw.ImageDraw, frame: _Frame, point: Point, color: str, left: bool) -> None:
    k = OVERSAMPLING
    across, level = frame.at(point.x, point.y)
    ends = [frame.at(point.x, point.y + sign * point.spread) for sign in (-1, 1)]
    draw.line(ends, color, k)
    draw.ellipse((across - 4 * k, level - 4 * k, across + 4 * k, level + 4 * k), color)
    beside, anchor = (
        (-7 * k, "rb") if left else (7 * k, "lt")
    )  # names of neighbors keep out of each other's way
    draw.text((across + beside, level), point.name, color, font(10 * k), anchor)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers around [low, high], about as many as asked."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _grid(draw: ImageDraw.ImageDraw, frame: _Frame, xs: Sequence[float], ys: Sequence[float]) -> None:
    k = OVERSAMPLING
    for y in ys:
        left, level = frame.at(frame.x[0], y)
        draw.line([(left, level), (frame.right, level)], "#dddddd", k)
        draw.text((left - 6 * k, level), f"{y:g}" if abs(y) > 1e-9 else "0", "#444444", font(11 * k), "rm")
    for x in xs:
        across, bottom = frame.at(x, frame.y[0])
        draw.line([(across, bottom), (across, bottom + 4 * k)], "#888888", k)
        draw.text((across, bottom + 7 * k), f"{x:g}", "#444444", font(11 * k), "mt")


def _curve(draw: ImageDraw.ImageDraw, frame: _Frame, x: Sequence[float], line: Line, color: str) -> None:
    points = zip(x, line.values, line.spread, strict=True)
    rows = [(frame.at(a, v + s), frame.at(a, v - s), frame.at(a, v)) for a, v, s in points]
    upper, lower, middle = (list(row) for row in zip(*rows, strict=True))
    draw.polygon([*upper, *reversed(lower)], f"{color}33")
    draw.line(middle, color, 2 * OVERSAMPLING, joint="curve")


def _words(draw: ImageDraw.ImageDraw, frame: _Frame, axes: Axes) -> None:
    k = OVERSAMPLING
    draw.text((8 * k, 8 * k), axes.title, "black", font(13 * k))
    draw.text(
        ((frame.left + frame.right) / 2, axes.height * k - 6 * k), axes.x_label, "black", font(12 * k), "mb"
    )
    draw.text((axes.width * k - 16 * k, 24 * k), axes.y_label, "#444444", font(11 * k), "rm")


def _legend(draw: ImageDraw.ImageDraw, frame: _Frame, x: Sequence[float], lines: Sequence[Line]) -> None:
    """Name the curves at the right, at the top or at the bottom, wherever fewer of their points are in the way."""
    k = OVERSAMPLING
    points = [frame.at(a, value) for line in lines for a, value in zip(x, line.values, strict=True)]
    levels = [level for across, level in points if across > frame.right - 150 * k]
    height = (4 + 16 * len(lines)) * k
    above = sum(level < frame.top + height for level in levels)
    below = sum(level > frame.bottom - height for level in levels)
    start = frame.top if above <= below else frame.bottom - height
    for i, (line, color) in enumerate(zip(lines, COLORS, strict=False)):
        top = start + (10 + 16 * i) * k
        draw.line([(frame.right - 150 * k, top), (frame.right - 130 * k, top)], color, 3 * k)
        draw.text((frame.right - 124 * k, top), line.name, "black", font(11 * k), "lm")


def titled_sheet(
    pictures: Sequence[Sequence[Float[Tensor, "3 h w"]]], columns: Sequence[str], cell: int = 96
) -> Image.Image:
    """Rows of pictures under headings (two lines each at most), every picture ``cell`` pixels wide."""
    return grouped_sheet(pictures, [(name, 1) for name in columns], cell)


def grouped_sheet(
    pictures: Sequence[Sequence[Float[Tensor, "3 h w"]]], groups: Sequence[tuple[str, int]], cell: int = 96
) -> Image.Image:
    """``titled_sheet`` with headings over as many columns as each group has."""
    gap, head, between = 4, 34, 10 if any(count > 1 for _, count in groups) else 0
    of_group = [index for index, (_, count) in enumerate(groups) for _ in range(count)]
    lefts = [i * (cell + gap) + of_group[i] * between for i in range(len(of_group))]
    canvas = Image.new("RGB", (lefts[-1] + cell + gap, head + len(pictures) * (cell + gap)), "white")
    draw, first = ImageDraw.Draw(canvas), 0
    for name, count in groups:
        middle = (lefts[first] + lefts[first + count - 1] + cell) / 2
        draw.multiline_text((middle, head / 2), name, "black", font(11), "mm", align="center")
        first += count
    for row, shown in enumerate(pictures):
        for left, picture in zip(lefts, shown, strict=True):
            small = Image.fromarray(to_bytes(picture)).resize((cell, cell), Image.Resampling.BICUBIC)
            canvas.paste(small, (left, head + row * (cell + gap)))
    return canvas


def picture_of(file: Path | None) -> Float[Tensor, "3 h w"]:
    """A picture file over white; an empty cell where there is none."""
    return torch.ones(3, 8, 8) if file is None or not file.is_file() else over(read_rgba(file))


def write_animation(path: Path, frames: Sequence[Image.Image], milliseconds: int = 180) -> Path:
    """A looping GIF of one palette; the last frame stays for a second."""
    small = [frame.quantize(96, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * (len(small) - 1) + [1000 + milliseconds]
    with write_whole(path) as file:
        small[0].save(file, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)
    return path


def write_image(path: Path, image: Image.Image) -> Path:
    with write_whole(path) as file:
        image.save(file, optimize=True)
    return path
