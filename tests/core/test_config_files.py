"""Configuration files that are no files, or say nothing that can be read: one line each."""

import os

import pytest

from usd.core.errors import UserError
from usd.core.loading import base_names, load_merged


@pytest.mark.parametrize(
    "base", ["5", "true", "[5]", "[null]", "[[a]]", "{a: b}", "''", "[a.yaml, 3]", "1.5", "0"]
)
def test_a_base_that_names_no_file(tmp_path, base):
    file = tmp_path / "a.yaml"
    file.write_text(f"base: {base}\nname: x\n")
    with pytest.raises(
        UserError, match=r"a.yaml: base: expected a file or a list of files to start from, got "
    ):
        load_merged([file])


def test_no_base_and_an_empty_list_are_the_same(tmp_path):
    for text in ("base: []\nname: x\n", "base: null\nname: x\n", "name: x\n"):
        (tmp_path / "a.yaml").write_text(text)
        assert load_merged([tmp_path / "a.yaml"]).plain() == {"name": "x"}
    assert base_names(None, "base") == [] and base_names("a", "base") == ["a"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("loop", "its links lead in a circle"),
        ("there", "its links lead in a circle"),
        ("fifo", "is a pipe or a device; expected a file"),
        ("folder", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("a\0b", "is no name of a file"),
    ],
)
def test_what_is_no_file(tmp_path, name, line):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match=line):
        load_merged([tmp_path / name])


def test_yaml_of_a_thousand_brackets(tmp_path):
    (tmp_path / "a.yaml").write_text("a: " + "[" * 2000 + "]" * 2000)
    with pytest.raises(UserError, match=r"a.yaml: not valid YAML \(too deeply nested\)"):
        load_merged([tmp_path / "a.yaml"])


def test_typed_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.yaml").write_text("name: x")
    with pytest.raises(UserError, match=r"name=a\\xffb: is not valid UTF-8"):
        load_merged([tmp_path / "a.yaml"], [os.fsdecode(b"name=a\xffb")])
