"""The page's controls, as far as they are plain functions."""

import pytest

pytest.importorskip("viser")

from usd.data.camera_path import KeyView, parse_camera_path
from usd.viewer.panel import PathEditor, heading_of, rounded_step, short_label, shown_kind
from usd.viewer.stage import CropBox
from usd.viewer.viewer import crop_corners


@pytest.mark.parametrize(
    ("key", "heading", "label"),
    [
        ("system.guidance.guidance_scale", "system.guidance", "guidance_scale"),
        ("system.optimizer.params.geometry.encoding.lr", "system.optimizer", "lr of encoding"),
        ("system.optimizer.args.lr", "system.optimizer", "lr"),
        ("data.fovy_range", "data", "fovy_range"),
    ],
)
def test_options_stand_under_their_section(key, heading, label):
    assert (heading_of(key), short_label(key)) == (heading, label)


def test_the_arrows_of_a_number_move_its_second_digit():
    assert rounded_step(7.5) == 1.0 and rounded_step(0.01) == 0.001 and rounded_step(0.0) == 0.1


def test_a_path_that_is_asked_for_is_the_path_that_was_collected():
    editor = PathEditor(
        [KeyView((1.0, 0.0, 0.5)), KeyView((0.0, 1.0, 0.5), (0.0, 0.0, 0.1), 30.0)], 2.0, False
    )
    read = parse_camera_path(editor.request()["path"], "x")
    assert read == editor.path and read.frames == 48


def test_a_crop_box_is_its_least_and_largest_corner():
    box = CropBox((0.0, 1.0, 0.0), (2.0, 1.0, 4.0))
    assert crop_corners(list(box.corners)) == [-1.0, 0.5, -2.0, 1.0, 1.5, 2.0]
    assert crop_corners(None) is None


def test_the_mesh_is_no_picture():
    assert shown_kind("mesh, as exported") is None and shown_kind("normals") == "normals"
