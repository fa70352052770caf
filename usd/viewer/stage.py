"""The page's 3D part: the object's picture behind everything, cameras to jump to, an exported mesh, a crop box."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import viser
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.data.camera_path import KeyView
from usd.math.camera import Cameras, Spherical, orbit_cameras
from usd.viewer.pictures import PictureKind
from usd.viewer.poses import Pose
from usd.viewer.session import Bytes, Watcher

UPRIGHT = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
"""The turn that brings a file whose up is +y upright in a world whose up is +z."""
COLORS = {"reference": (255, 120, 60), "training": (90, 170, 255), "evaluation": (150, 220, 120)}
MOST_FRUSTA = 120


@dataclass(frozen=True)
class CropBox:
    """An axis-aligned box (world units) outside of which an export leaves everything out."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]

    @property
    def corners(self) -> tuple[float, ...]:
        """Least and largest corner, six numbers."""
        low = [c - s / 2 for c, s in zip(self.center, self.size)]
        return (*low, *(c + s / 2 for c, s in zip(self.center, self.size)))


class Stage:
    """The 3D part of a page. ``kind`` is what its pictures show; None shows the exported mesh instead."""

    def __init__(self, server: viser.ViserServer) -> None:
        self.server = server
        self.kind: PictureKind | None = "colors"
        self.insight, self.live, self.noise_level = False, False, 0.5
        self._watchers: dict[int, Watcher] = {}
        self._lock = threading.Lock()
        self._frusta: dict[str, list[viser.CameraFrustumHandle]] = {}
        self._mesh: viser.SceneNodeHandle | None = None
        self._box: viser.SceneNodeHandle | None = None
        self.insight_image: viser.GuiImageHandle | None = None
        server.on_client_connect(self._welcome)
        server.on_client_disconnect(self._part)

    # ------------------------------------------------------------------------------------------------- watching

    def forget(self) -> None:
        """Begin anew, with nothing on the stage."""
        self._frusta, self._mesh, self._box = {}, None, None
        self.insight, self.live, self.insight_image = False, False, None
        self.server.scene.set_up_direction("+z")

    def place(self, cameras: Cameras) -> None:
        """Let pages open with the view of a camera, turned a little so that the camera itself is seen."""
        pose = Pose.of(cameras.turned(torch.full((len(cameras),), -0.6).to(cameras.c2w)))
        first = self.server.initial_camera
        first.position, first.look_at, first.fov = pose.position, (0.0, 0.0, 0.0), pose.fov_y

    def place_before(self, vertices: "Float[Tensor, 'V 3']") -> None:
        """Let pages open with a view of everything (z up) that lies at these points."""
        low, high = vertices.amin(0), vertices.amax(0)
        radius = max(1e-6, 0.5 * float((high - low).norm()))
        camera = usual_view(radius / math.sin(math.radians(20)))
        first, (mx, my, mz) = self.server.initial_camera, ((low + high) / 2).tolist()
        x, y, z = Pose.of(camera).position
        first.position, first.look_at = (x + mx, y + my, z + mz), (mx, my, mz)
        first.fov = math.radians(45)
        first.near, first.far = radius / 100, radius * 100

    def watchers(self) -> Mapping[int, Watcher]:
        """Return the open pages by number."""
        with self._lock:
            return dict(self._watchers)

    def _welcome(self, client: viser.ClientHandle) -> None:
        self._see(client)

        async def moved(camera: viser.CameraHandle) -> None:  # awaited there, without a pool of threads
            self._see(camera.client)

        client.camera.on_update(moved)

    def _part(self, client: viser.ClientHandle) -> None:
        with self._lock:
            self._watchers.pop(client.client_id, None)

    def _see(self, client: viser.ClientHandle) -> None:
        """Note where a page's camera is now."""
        camera = client.camera
        width, height = max(1, camera.image_width), max(1, camera.image_height)
        w, x, y, z = (float(value) for value in camera.wxyz)
        px, py, pz = (float(value) for value in camera.position)
        pose = Pose((w, x, y, z), (px, py, pz), float(camera.fov), width / height)
        with self._lock:
            known = self._watchers.get(client.client_id)
            if known is None:
                self._watchers[client.client_id] = Watcher(pose, height, time.monotonic())
            elif (pose, height) != (known.pose, known.rows):
                known.pose, known.rows, known.moved = pose, height, time.monotonic()

    def key_view(self, client: viser.ClientHandle) -> KeyView:
        """Return the view of a page as a key view of a camera path."""
        camera = client.camera
        (x, y, z), (lx, ly, lz) = (map(float, point) for point in (camera.position, camera.look_at))
        return KeyView((x, y, z), (lx, ly, lz), math.degrees(float(camera.fov)))

    def jump(self, client: viser.ClientHandle, pose: Pose) -> None:
        """Bring a page's camera to a pose."""
        with client.atomic():
            client.camera.position = pose.position
            client.camera.wxyz = pose.wxyz
            client.camera.fov = pose.fov_y

    def jump_to(self, client: viser.ClientHandle, cameras: Cameras) -> None:
        """Bring a page's camera to the first of cameras."""
        self.jump(client, Pose.of(cameras))

    # ------------------------------------------------------------------------------------------------- pictures

    def show_picture(self, client: int, picture: Bytes, depth: "Float[NDArray, 'H W'] | None") -> None:
        """Show a picture of the object behind everything else."""
        handle = self.server.get_clients().get(client)
        if handle is not None and self.kind is not None:
            handle.scene.set_background_image(picture, "jpeg", jpeg_quality=92, depth=depth)

    def show_insight(self, sheet: Bytes) -> None:
        """Show what the guidance sees and wants."""
        if self.insight_image is not None:
            self.insight_image.image = sheet

    def show(self, kind: PictureKind | None) -> None:
        """Choose what the pictures show; None: the exported mesh instead."""
        self.kind = kind
        if self._mesh is not None:
            self._mesh.visible = kind is None
        for client in self.server.get_clients().values():
            if kind is None:
                client.scene.set_background_image(None)

    def show_mesh(self, content: bytes, up: str = "+y") -> None:
        """Show the content of a GLB file, as a finished mesh."""
        turn = UPRIGHT if up == "+y" else (1.0, 0.0, 0.0, 0.0)
        self._mesh = self.server.scene.add_glb("/mesh", content, wxyz=turn, visible=self.kind is None)

    def say(self, text: str) -> None:
        """Tell everybody something that has happened."""
        for client in self.server.get_clients().values():
            client.add_notification(title="usd", body=text, auto_close_seconds=8.0)

    # ------------------------------------------------------------------------------------------- cameras and box

    def show_cameras(self, name: str, cameras: Cameras, visible: bool = True) -> None:
        """Show cameras as frusta of one name, in place of those before; a click on one brings the page there."""
        self.hide_cameras(name)
        count = len(cameras)
        chosen = sorted({i * count // min(count, MOST_FRUSTA) for i in range(min(count, MOST_FRUSTA))})
        if visible:
            self._frusta[name] = [self._frustum(name, i, cameras[i : i + 1]) for i in chosen]

    def _frustum(self, name: str, index: int, camera: Cameras) -> viser.CameraFrustumHandle:
        pose = Pose.of(camera)
        handle = self.server.scene.add_camera_frustum(
            f"/cameras/{name}/{index}",
            pose.fov_y,
            pose.aspect,
            scale=0.1 if name != "reference" else 0.14,
            thickness=1.5,
            thickness_units="screen",
            color=COLORS.get(name, (200, 200, 200)),
            wxyz=pose.wxyz,
            position=pose.position,
        )
        handle.on_click(lambda event: self.jump(event.client, pose))
        return handle

    def hide_cameras(self, name: str) -> None:
        """Take the frusta of a name away."""
        for handle in self._frusta.pop(name, []):
            handle.remove()

    def show_box(self, box: CropBox | None) -> None:
        """Show the crop box as a wireframe; None takes it away."""
        if self._box is not None:
            self._box.remove()
            self._box = None
        if box is not None:
            self._box = self.server.scene.add_box(
                "/crop", (255, 210, 80), box.size, wireframe=True, position=box.center
            )

    def show_path(self, keys: Sequence[KeyView]) -> None:
        """Show the way of a camera path through its key views."""
        self.server.scene.remove_by_name("/path")
        if len(keys) > 1:
            points = np.array([key.position for key in keys])
            self.server.scene.add_spline_catmull_rom("/path", points, color=(255, 210, 80))


def usual_view(distance: float = 2.0, fov_y_deg: float = 45.0) -> Cameras:
    """Return a camera in front of an object about the origin, a little above."""
    place = Spherical(torch.tensor([0.3]), torch.tensor([0.8]), torch.tensor([distance]))
    return orbit_cameras(place, math.radians(fov_y_deg), 512, 512)
