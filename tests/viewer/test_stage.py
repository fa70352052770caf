"""The page's 3D part, on a server that only remembers."""

import asyncio
import contextlib
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("viser")

import viser

from usd.data.camera_path import KeyView
from usd.math.camera import orbit_cameras_deg
from usd.viewer.poses import Pose
from usd.viewer.stage import MOST_FRUSTA, CropBox, Stage, usual_view

PICTURE = np.zeros((2, 4, 3), np.uint8)


class Node(SimpleNamespace):
    """Something in the scene: removed or not, with the handler of its clicks."""

    __class__ = viser.CameraFrustumHandle
    removed, handler = False, None

    def remove(self):
        self.removed = True

    def on_click(self, handler):
        self.handler = handler


class Scene:
    def __init__(self):
        self.nodes, self.background = {}, []

    def add(self, name, *args, **options):
        return self.nodes.setdefault(name, Node(name=name, args=args, **options))

    add_camera_frustum = add_box = add_glb = add_spline_catmull_rom = add

    def remove_by_name(self, name):
        self.nodes.pop(name, None)

    def set_up_direction(self, up):
        self.up = up

    def set_background_image(self, picture, *args, **options):
        self.background.append(picture)


class Client:
    __class__ = viser.ClientHandle  # for the checks of annotations

    def __init__(self, number):
        self.client_id, self.scene, self.notes = number, Scene(), []
        self.camera = SimpleNamespace(
            wxyz=(1.0, 0.0, 0.0, 0.0), position=(0.0, -2.0, 0.0), look_at=(0.0, 0.0, 0.0), fov=0.7,
            image_width=200, image_height=100, client=self, handler=None,
        )  # fmt: skip
        self.camera.on_update = lambda handler: setattr(self.camera, "handler", handler)

    def atomic(self):
        return contextlib.nullcontext()

    def add_notification(self, title, body, auto_close_seconds):
        self.notes.append(body)


class Server:
    __class__ = viser.ViserServer

    def __init__(self):
        self.scene, self.clients = Scene(), {}
        self.initial_camera = SimpleNamespace()

    def on_client_connect(self, handler):
        self.connect = handler

    def on_client_disconnect(self, handler):
        self.disconnect = handler

    def get_clients(self):
        return self.clients

    def enter(self, number):
        client = self.clients[number] = Client(number)
        self.connect(client)
        return client

    def leave(self, number):
        self.disconnect(self.clients.pop(number))


@pytest.fixture
def stage():
    return Stage(Server())


def test_a_page_is_watched_from_its_first_view_to_its_last(stage):
    client = stage.server.enter(3)
    (watcher,) = stage.watchers().values()
    assert watcher.pose.position == (0.0, -2.0, 0.0) and watcher.pose.aspect == 2.0 and watcher.rows == 100
    first = watcher.moved
    asyncio.run(client.camera.handler(client.camera))
    assert watcher.moved == first, "an update that changes nothing is no move"
    client.camera.position = (0.0, -3.0, 0.0)
    asyncio.run(client.camera.handler(client.camera))
    assert watcher.moved > first and watcher.pose.position == (0.0, -3.0, 0.0)
    stage.server.leave(3)
    assert stage.watchers() == {}


def test_a_page_that_is_gone_gets_no_picture(stage):
    client = stage.server.enter(1)
    stage.show_picture(1, PICTURE, None)
    stage.show_picture(2, PICTURE, None)
    assert client.scene.background == [PICTURE]


def test_the_mesh_takes_the_pictures_place_and_gives_it_back(stage):
    client = stage.server.enter(0)
    stage.show_mesh(b"glTF")
    mesh = stage.server.scene.nodes["/mesh"]
    assert not mesh.visible
    stage.show(None)
    assert mesh.visible and client.scene.background == [None], "the last picture is taken away"
    stage.show_picture(0, PICTURE, None)
    assert client.scene.background == [None], "a picture that was still on its way does not come back"
    stage.show("depth")
    assert not mesh.visible and stage.kind == "depth"


def test_a_file_whose_up_is_z_is_not_turned(stage):
    stage.show_mesh(b"glTF", up="+z")
    assert stage.server.scene.nodes["/mesh"].wxyz == (1.0, 0.0, 0.0, 0.0)


def test_many_cameras_are_shown_by_some_that_are_spread_evenly(stage):
    cameras = orbit_cameras_deg(10.0, [i * 0.3 for i in range(1000)], 1.5, 40.0, 8)
    stage.show_cameras("training", cameras)
    numbers = [int(name.rpartition("/")[2]) for name in stage.server.scene.nodes]
    assert len(numbers) == MOST_FRUSTA and numbers[0] == 0 and max(numbers) > 980
    gaps = {b - a for a, b in itertools.pairwise(numbers)}
    assert gaps <= {8, 9}


def test_cameras_of_a_name_replace_those_before_and_go_when_hidden(stage):
    stage.show_cameras("training", orbit_cameras_deg(10.0, [0.0, 90.0], 1.5, 40.0, 8))
    first = list(stage.server.scene.nodes.values())
    stage.server.scene.nodes.clear()
    stage.show_cameras("training", orbit_cameras_deg(10.0, [45.0], 1.5, 40.0, 8))
    assert all(node.removed for node in first) and len(stage.server.scene.nodes) == 1
    (node,) = stage.server.scene.nodes.values()
    stage.hide_cameras("training")
    stage.hide_cameras("training")
    assert node.removed


def test_a_click_on_a_camera_brings_that_page_there(stage):
    here, other = stage.server.enter(0), stage.server.enter(1)
    camera = orbit_cameras_deg(25.0, 70.0, 1.8, 35.0, 8)
    stage.show_cameras("reference", camera)
    (node,) = stage.server.scene.nodes.values()
    node.handler(SimpleNamespace(client=here))
    expected = Pose.of(camera)
    assert here.camera.position == expected.position and here.camera.fov == expected.fov_y
    assert other.camera.position == (0.0, -2.0, 0.0)


@pytest.mark.parametrize("middle", [(0.0, 0.0, 0.0), (40.0, -7.0, 3.0)])
def test_a_page_opens_with_the_whole_of_a_file_in_view(stage, middle):
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0, 2.0])
    points = points + torch.tensor(middle)
    stage.place_before(points)
    first = stage.server.initial_camera
    eye, target = torch.tensor(first.position), torch.tensor(first.look_at)
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    away = points - eye
    angle = torch.acos((away @ forward) / away.norm(dim=-1))
    assert angle.max() < first.fov / 2
    depth = away @ forward
    assert first.near < depth.min() and depth.max() < first.far


def test_a_page_opens_a_little_beside_the_reference_camera(stage):
    camera = orbit_cameras_deg(20.0, 90.0, 1.5, 40.0, 8)
    stage.place(camera)
    there = torch.tensor(stage.server.initial_camera.position)
    assert there.norm().item() == pytest.approx(1.5, abs=1e-4)
    turn = torch.atan2(there[0], there[1]).item()
    assert abs(turn) == pytest.approx(0.6, abs=1e-4) and there[2].item() == pytest.approx(
        camera.position[0, 2].item()
    )


def test_a_crop_box_is_one_and_can_be_taken_away(stage):
    stage.show_box(CropBox((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    first = stage.server.scene.nodes.pop("/crop")
    stage.show_box(CropBox((0.0, 0.0, 0.5), (1.0, 1.0, 2.0)))
    assert first.removed and stage.server.scene.nodes["/crop"].position == (0.0, 0.0, 0.5)
    stage.show_box(None)
    assert stage.server.scene.nodes["/crop"].removed


def test_a_path_of_one_view_is_no_line(stage):
    keys = [KeyView((1.0, 0.0, 0.0)), KeyView((0.0, 1.0, 0.0))]
    stage.show_path(keys)
    assert stage.server.scene.nodes["/path"].args[0].shape == (2, 3)
    stage.show_path(keys[:1])
    assert "/path" not in stage.server.scene.nodes


def test_a_pages_view_becomes_a_key_view(stage):
    client = stage.server.enter(0)
    key = stage.key_view(client)
    assert key.position == (0.0, -2.0, 0.0) and key.fov_y_deg == pytest.approx(math.degrees(0.7))


def test_everybody_is_told(stage):
    pages = [stage.server.enter(number) for number in range(2)]
    stage.say("saved")
    assert [page.notes for page in pages] == [["saved"], ["saved"]]


def test_forgetting_clears_the_stage(stage):
    stage.show_cameras("training", usual_view())
    stage.live = stage.insight = True
    stage.forget()
    assert not stage.live and not stage.insight and stage.server.scene.up == "+z"
