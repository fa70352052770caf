"""The add-on: its client against a running server, and all of it in Blender's Python module where that is installed."""

import ast
import importlib.util
import sys
import threading
import zipfile

import pytest

from tests.serve.conftest import png, wait_until

uvicorn = pytest.importorskip("uvicorn")

from usd.serve.command import ADDON, listen, main, write_addon  # noqa: E402
from usd.serve.service import make_service  # noqa: E402


def client_alone():
    """The add-on's client as Blender's Python loads it: a file that knows nothing of this package."""
    place = importlib.util.spec_from_file_location("usd_jobs_client", ADDON / "client.py")
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module
    place.loader.exec_module(module)
    return module


CLIENT = client_alone()


@pytest.fixture
def address(tmp_path, make_queue):
    """A service that listens; its jobs are small scripts."""
    door = listen("127.0.0.1", 20000)
    server = uvicorn.Server(uvicorn.Config(make_service(make_queue(tmp_path / "jobs")), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    door.close()


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / 'a "mug".png'
    file.write_bytes(png())
    return file


def test_a_picture_is_submitted_watched_and_downloaded(address, picture, tmp_path):
    client = CLIENT.JobClient(address)
    job = client.submit(picture=picture, overrides="seed=3 mode=done")
    wait_until(lambda: client.progress(job).state == "done")
    made = client.download(job, client.progress(job).mesh, tmp_path / "x.glb")
    assert made.read_bytes() == b"glTF"


def test_a_job_is_paused_and_cancelled(address):
    client = CLIENT.JobClient(address)
    job = client.submit(sentence="a red car", overrides="mode=wait")
    client.order(job, "pause")
    wait_until(lambda: client.progress(job).state == "paused")
    client.order(job, "cancel")
    assert client.progress(job).state == "cancelled" and client.progress(job).has_ended
    with pytest.raises(CLIENT.JobError, match="the job is cancelled"):
        client.order(job, "pause")


def test_what_the_service_refuses_is_its_own_line(address, picture, tmp_path):
    client = CLIENT.JobClient(address)
    (tmp_path / "no.png").write_bytes(b"no picture")
    (tmp_path / "no.glb").write_bytes(b"glTF....")
    for sent, said in (
        ({}, "both are missing"),
        ({"picture": tmp_path / "no.png"}, "cannot be read as a picture"),
        ({"picture": tmp_path / "nothing.png"}, "nothing.png: cannot be read"),
        ({"picture": picture, "mesh": tmp_path / "no.glb"}, "^mesh"),
        ({"mesh": picture}, "a picture of it is missing"),
        ({"picture": picture, "recipe": "usd-improve"}, "makes nothing from a picture"),
    ):
        with pytest.raises(CLIENT.JobError, match=said):
            client.submit(**sent)


def test_the_addon_is_one_folder_in_a_zip(tmp_path):
    assert main(["--blender-addon", str(tmp_path / "usd.zip")]) == 0
    assert main(["--blender-addon", str(tmp_path / "usd.txt")]) == 2
    with zipfile.ZipFile(tmp_path / "usd.zip") as archive:
        names = ["__init__.py", "blender_manifest.toml", "client.py"]
        assert sorted(archive.namelist()) == [f"usd_jobs/{name}" for name in names]


def test_an_address_that_is_none_or_does_not_answer_is_said():
    with pytest.raises(CLIENT.JobError, match="expected an address"):
        CLIENT.JobClient("7008")
    with pytest.raises(CLIENT.JobError, match="is `usd serve` running"):
        CLIENT.JobClient("http://127.0.0.1:9").progress("x")
    assert CLIENT.JobClient("http://a:7008/?token=abc").token == "abc"


def test_the_client_needs_the_standard_library_only():
    tree = ast.parse((ADDON / "client.py").read_text())
    names = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_the_addon_registers_in_blender_sends_the_selected_mesh_and_imports_what_is_made(
    address, picture, tmp_path, monkeypatch
):
    bpy = pytest.importorskip("bpy")
    with zipfile.ZipFile(write_addon(tmp_path / "usd.zip")) as archive:
        archive.extractall(tmp_path / "addons")
    monkeypatch.syspath_prepend(tmp_path / "addons")
    addon = importlib.import_module("usd_jobs")
    addon.register()
    settings = bpy.context.scene.usd_jobs
    settings.address, settings.kind, settings.picture = address, "picture", str(picture)
    bpy.ops.mesh.primitive_cube_add()
    cube = addon.selected_mesh(bpy.context)
    assert cube.read_bytes()[:4] == b"glTF"
    monkeypatch.setattr(
        addon.JobClient, "download", lambda self, job, name, path: cube
    )  # the script's is no mesh
    before = len(bpy.data.objects)
    assert bpy.ops.usd.submit() == {"FINISHED"}

    def has_ended() -> bool:
        addon.WATCH.look()
        return not addon.WATCH.busy()

    wait_until(has_ended, 30)
    assert len(bpy.data.objects) == before + 1, addon.WATCH.message
    addon.unregister()
    assert not hasattr(bpy.types.Scene, "usd_jobs")
