"""Metashape's cameras (Agisoft), as its menu exports them: one XML file, with the pictures in a folder beside it.

    document/chunk/sensors/sensor     id, type (frame, fisheye), resolution, calibration: f cx cy b1 b2 k1 ... k4 p1 p2
    document/chunk/cameras//camera    label (the picture's name, mostly without ending), sensor_id, transform (4 x 4)

A transform is camera-to-world with OpenCV's axes, in units of its component: of several, the one with the most cameras
is taken. cx and cy count from the middle of the picture, and p1 and p2 are OpenCV's p2 and p1 (Agisoft's manual,
appendix C).
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView, lost_note
from usd.data.file_names import pictures_by_names
from usd.data.lens import Intrinsics

HEAD = re.compile(r"<document\b[^>]*>\s*<chunk\b")
"""What the beginning of an export has, and no other file."""
NUMBERS = ("f", "b1", "b2", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2", "p3", "p4")
MOST_SKEW = 1e-3
"""Pixels may be off a rectangle by so much of the focal length (b2)."""
FLIP = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)


def find_metashape(path: Path) -> Path | None:
    """Return the export: a file itself, or the first of a folder; None where there is none."""
    files = [path] if path.is_file() else sorted(path.glob("*.xml")) + sorted(path.glob("*.XML"))
    return next((file for file in files if file.suffix.lower() == ".xml" and _is_export(file)), None)


def _is_export(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return HEAD.search(opened.read(4000).decode("utf-8", "replace")) is not None
    except OSError:
        return False


def read_metashape(file: Path, where: str) -> Capture:
    """Read the aligned cameras that have a picture. Raises ``UserError`` with file and reason."""
    name = f"{where}: {file}"
    chunk = _fullest_chunk(file, name)
    enabled = [camera for camera in chunk.iterfind("cameras//camera") if camera.get("enabled") != "false"]
    kept = _in_one_world(enabled, name)
    labels = [camera.get("label", "") for camera in kept]
    pictures = pictures_by_names(file.parent, labels, name)
    if not any(pictures):
        raise UserError(
            f"{name}: none of its {len(kept)} pictures exist ({labels[0]}); expected them in images/ beside it"
        )
    views = _views_of(chunk, kept, pictures, name)
    lost = [camera.get("label", "") for camera in enabled if camera not in kept]
    notes = [f"Metashape's cameras: {len(views)} of {len(enabled)} pictures", *lost_note(lost, len(enabled))]
    return Capture(views, (*notes, *_view_notes(views, len(kept))), arbitrary=True)


def _view_notes(views: Sequence[CapturedView], count: int) -> list[str]:
    """Return what became of ``count`` cameras: how many have no picture, how many pictures were bent."""
    notes = [f"{count - len(views)} of {count} cameras have no picture"] * (len(views) < count)
    bent = sum(view.lens.distorted for view in views)
    return [*notes, *[f"{bent} of {len(views)} pictures undistorted"] * (bent > 0)]


def _in_one_world(cameras: list[ET.Element], name: str) -> list[ET.Element]:
    """Return the aligned cameras of the component with the most of them."""
    aligned = [camera for camera in cameras if camera.find("transform") is not None]
    if not aligned:
        raise UserError(
            f"{name}: none of its {len(cameras)} cameras is aligned; expected some with a transform"
        )
    component, _ = Counter(camera.get("component_id") for camera in aligned).most_common(1)[0]
    return [camera for camera in aligned if camera.get("component_id") == component]


def _views_of(
    chunk: ET.Element, cameras: list[ET.Element], pictures: list[Path | None], name: str
) -> tuple[CapturedView, ...]:
    """Return the views of cameras that have a picture, in the order of their names."""
    sensors = {sensor.get("id"): sensor for sensor in chunk.findall("sensors/sensor")}
    numbers = {camera.get("sensor_id") for camera in cameras}
    lenses = {number: _lens_of(sensors.get(number), f"{name}: sensor {number}") for number in numbers}
    views = [
        CapturedView(picture.name, picture, lenses[camera.get("sensor_id")], _transform_of(camera, name))
        for camera, picture in zip(cameras, pictures)
        if picture is not None
    ]
    return tuple(sorted(views, key=lambda view: view.name))


def _fullest_chunk(file: Path, name: str) -> ET.Element:
    """Return the chunk of a document that has the most cameras."""
    try:
        chunks = ET.parse(file).getroot().findall("chunk")
    except (OSError, ET.ParseError) as error:
        raise UserError(f"{name}: is not readable XML ({error})") from error
    return max(chunks, key=lambda chunk: len(chunk.findall("cameras//camera/transform")))


def _lens_of(sensor: ET.Element | None, where: str) -> Intrinsics:
    """Return the lens of a sensor, the adjusted calibration if there is one. Raises ``UserError``."""
    found = [] if sensor is None else sensor.findall("calibration")
    found.sort(key=lambda each: each.get("class") != "adjusted")
    if sensor is None or not found:
        raise UserError(f"{where} has no calibration; expected one of every sensor with aligned cameras")
    resolution = found[0].find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    size = {} if resolution is None else resolution.attrib
    width, height = (_numbers_of(size.get(side), 1, f"{where}: {side}")[0] for side in ("width", "height"))
    given = {each.tag: each.text for each in found[0] if each.tag in NUMBERS}
    numbers = dict.fromkeys(NUMBERS, 0.0)
    numbers |= {key: _numbers_of(text, 1, f"{where}: {key}")[0] for key, text in given.items()}
    kind = sensor.get("type", "frame")
    _refuse_foreign(kind, width, height, numbers, where)
    return _lens_like(kind, round(width), round(height), numbers)


def _refuse_foreign(kind: str, width: float, height: float, numbers: dict[str, float], where: str) -> None:
    """Raise UserError for what the lenses here cannot express."""
    f = numbers["f"]
    if kind not in ("frame", "fisheye"):
        raise UserError(f"{where} is a {kind} camera; expected a frame or a fisheye camera")
    if min(f, f + numbers["b1"], width, height) <= 0:
        raise UserError(f"{where}: f {f:g} at {width:g} x {height:g} pixels; expected positive ones")
    never = ("p3", "p4", *["k4"] * (kind == "frame"))
    unknown = [key for key in never if numbers[key]] + ["b2"] * (abs(numbers["b2"]) > MOST_SKEW * f)
    if unknown:
        raise UserError(
            f"{where}: {', '.join(unknown)} cannot be expressed; expected cameras optimized without, or the export "
            "of undistorted photos with their cameras"
        )


def _lens_like(kind: str, width: int, height: int, numbers: dict[str, float]) -> Intrinsics:
    f, b1, _, cx, cy, k1, k2, k3, k4, p1, p2, *_ = (numbers[key] for key in NUMBERS)
    pinhole = (width, height, f + b1, f, width / 2 + cx, height / 2 + cy)
    if kind == "fisheye":
        return Intrinsics(*pinhole, (k1, k2, p2, p1, k3, k4), "thin-prism")
    return Intrinsics(*pinhole, (k1, k2, p2, p1, k3))


def _transform_of(camera: ET.Element, name: str) -> Float[Tensor, "4 4"]:
    where = f"{name}: {camera.get('label')}: transform"
    numbers = _numbers_of(camera.findtext("transform"), 16, where)
    return torch.tensor(numbers, dtype=torch.float64).view(4, 4) * FLIP


def _numbers_of(text: str | None, count: int, where: str) -> list[float]:
    """Return the numbers in a text. Raises ``UserError`` where there are not ``count``."""
    try:
        numbers = [float(word) for word in (text or "").split()]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise UserError(f"{where} is {(text or '')[:40]!r}; expected {count} number{'s' * (count > 1)}")
    return numbers
