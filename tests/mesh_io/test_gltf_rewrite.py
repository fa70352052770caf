"""Binary glTF files with other pictures in them: everything else stays, and what is none is a line."""

import base64
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from tests.report.trials import textured_cube
from usd.core.errors import UserError
from usd.mesh_io.gltf_rewrite import ALIGNMENT, BinaryGltf, EncodedPicture, container
from usd.mesh_io.read import read_mesh


def picture(color=(10, 200, 30), size=8, form="PNG") -> EncodedPicture:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, form)
    return EncodedPicture(buffer.getvalue(), f"image/{form.lower()}")


@pytest.fixture
def cube(tmp_path):
    file = tmp_path / "cube.glb"
    file.write_bytes(textured_cube())
    return file


def rewritten(file, content):
    other = file.with_name("other.glb")
    other.write_bytes(content)
    return BinaryGltf(other)


def test_another_picture_leaves_shape_and_coordinates_alone(cube, tmp_path):
    new = picture()
    after = rewritten(cube, BinaryGltf(cube).replace_images({0: new}))
    assert after.image_bytes(0) == new.content and after.images[0]["mimeType"] == "image/png"
    before = BinaryGltf(cube)
    assert (
        before.tree["accessors"] == after.tree["accessors"] and before.tree["meshes"] == after.tree["meshes"]
    )
    views = [
        index for index in range(len(before.tree["bufferViews"])) if index != before.images[0]["bufferView"]
    ]
    assert views
    for index in views:
        assert before.document.view_bytes(index) == after.document.view_bytes(index)


def test_the_new_picture_is_what_readers_see(cube, tmp_path):
    rewritten(cube, BinaryGltf(cube).replace_images({0: picture((255, 0, 0))}))
    old, new = (read_mesh(tmp_path / name, "y") for name in ("cube.glb", "other.glb"))
    assert np.array_equal(old.vertices, new.vertices) and np.array_equal(old.faces, new.faces)


@pytest.mark.parametrize("size", [1, 3, 7, 200])
def test_views_stay_aligned_whatever_a_picture_weighs(cube, size):
    after = rewritten(cube, BinaryGltf(cube).replace_images({0: picture(size=size)}))
    assert all(view["byteOffset"] % ALIGNMENT == 0 for view in after.tree["bufferViews"])
    assert after.tree["buffers"][0]["byteLength"] == len(after.document.binary)


def test_a_picture_that_two_entries_share_is_replaced_for_one(cube, tmp_path):
    model = BinaryGltf(cube)
    model.tree["images"].append(dict(model.images[0]))
    shared = tmp_path / "shared.glb"
    shared.write_bytes(model.replace_images({}))
    old = BinaryGltf(shared).image_bytes(1)
    after = rewritten(shared, BinaryGltf(shared).replace_images({0: picture()}))
    assert after.image_bytes(0) == picture().content and after.image_bytes(1) == old


def test_a_picture_in_a_data_uri_moves_into_the_file(cube, tmp_path):
    model = BinaryGltf(cube)
    uri = "data:image/png;base64," + base64.b64encode(picture().content).decode()
    model.tree["images"] = [{"uri": uri}]
    file = tmp_path / "uri.glb"
    file.write_bytes(model.replace_images({}))
    assert BinaryGltf(file).image_bytes(0) == picture().content
    after = rewritten(file, BinaryGltf(file).replace_images({0: picture((1, 2, 3))}))
    assert "uri" not in after.images[0] and after.image_bytes(0) == picture((1, 2, 3)).content


def test_nothing_replaced_is_the_same_model(cube):
    after = rewritten(cube, BinaryGltf(cube).replace_images({}))
    assert after.image_bytes(0) == BinaryGltf(cube).image_bytes(0)


def test_a_container_is_as_the_specification_says():
    content = container(b"{}", b"abc")
    magic, version, size = struct.unpack_from("<4sII", content)
    assert (magic, version, size) == (b"glTF", 2, len(content)) and size % 4 == 0
    length, kind = struct.unpack_from("<II", content, 12)
    assert kind == 0x4E4F534A and content[20 : 20 + length] == b"{}  "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no binary glTF"),
        (b"not a glb", "is no binary glTF"),
        (b'{"asset": {"version": "2.0"}}', "is no binary glTF"),
        (b"glTF", "is cut off"),
        (struct.pack("<4sII", b"glTF", 1, 12), "is binary glTF 1"),
        (struct.pack("<4sII", b"glTF", 2, 12), "has no JSON chunk"),
        (textured_cube()[:400], "is cut off"),
        (container(b"{broken", b""), "its JSON is broken"),
        (container(json.dumps({"asset": {"version": "1.0"}}).encode(), b""), "is glTF 1.0"),
        (container(json.dumps({"asset": {"version": "2.0"}}).encode(), b""), "in other files"),
    ],
    ids=["empty", "text", "gltf", "magic", "old", "hollow", "cut", "json", "version", "no buffer"],
)
def test_what_is_no_binary_gltf_is_one_line(tmp_path, content, message):
    (tmp_path / "a.glb").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        BinaryGltf(tmp_path / "a.glb")
    assert "a.glb" in str(error.value) and "\n" not in str(error.value)
