"""Files replaced whole or not at all, digests, records, setting aside, locks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from usd.core import files
from usd.core.errors import UserError


def test_a_file_is_replaced_when_the_block_ends_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "deep" / "a.png"
    with files.replace_atomically(target) as partial:
        assert partial.parent == target.parent and partial.suffix == ".png" and partial.name.startswith(".")
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and os.listdir(target.parent) == ["a.png"]


def test_a_block_that_fails_leaves_the_old_content_and_no_partial_file(tmp_path):
    target = files.write_atomically(tmp_path / "a.json", "old")
    with pytest.raises(ZeroDivisionError), files.replace_atomically(target) as partial:
        partial.write_text(f"ne{1 / 0}")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path):
    precious, link = tmp_path / "precious.txt", tmp_path / "link.txt"
    precious.write_text("precious")
    link.symlink_to(precious)
    files.write_atomically(link, "mine")
    assert (precious.read_text(), link.read_text(), link.is_symlink()) == ("precious", "mine", False)


@pytest.mark.parametrize(
    "name", ["x" * 255, "ä" * 127, "a.b" * 80 + ".yaml", "no suffix", ".hidden", "a.b c"]
)
def test_names_of_any_length_can_be_replaced(tmp_path, name):
    files.write_atomically(tmp_path / name, name)
    assert (tmp_path / name).read_text() == name and len(os.listdir(tmp_path)) == 1


def test_what_cannot_be_written_is_one_line_that_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/b\.txt: could not be written \(File exists\)"):
        files.write_atomically(tmp_path / "file" / "b.txt", "b")


def test_partial_files_of_processes_that_are_gone_are_cleared_and_others_kept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [
        f".a.png.{gone.pid}-0.partial.png",
        f".last.ckpt.{gone.pid}.partial",
        ".batch.json.partial",
        ".b.glb.part",
    ]
    kept = [f".a.png.{os.getppid()}-0.partial.png", "a.partial", "a.png", ".hidden", ".partial"]
    (tmp_path / "save").mkdir()
    for name in [*left, *kept]:
        (tmp_path / "save" / name).touch()
    assert {path.name for path in files.clear_partials(tmp_path)} == set(left)
    assert set(os.listdir(tmp_path / "save")) == set(kept)


def test_a_digest_is_that_of_the_parts_one_after_another():
    known = "48b4f1f9042a2d5033b382b5"  # b2sum -l 96 of "abc"
    assert files.digest("abc") == files.digest("a", b"bc") == known
    assert len(files.digest("abc", size=6)) == 12


def test_a_record_is_what_was_written_or_nothing(tmp_path):
    file = files.write_record(tmp_path / "r.json", {"step": 3, "name": "ä"})
    assert files.read_record(file) == {"step": 3, "name": "ä"}
    whole = file.read_bytes()
    for cut in range(len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert files.read_record(file) is None or cut == len(whole.rstrip())
    file.write_text(json.dumps([1]))
    assert files.read_record(file) is None and files.read_record(tmp_path / "none.json") is None


def test_setting_aside_takes_the_first_free_number(tmp_path):
    for number in (1, 2):
        (tmp_path / "run").mkdir()
        assert files.set_aside(tmp_path / "run") == tmp_path / f"run~{number}"
    (tmp_path / "run").touch()
    (tmp_path / "run~3").symlink_to(tmp_path / "nowhere")
    assert files.set_aside(tmp_path / "run").name == "run~4"


HOLDER = """
import sys, time
from pathlib import Path
from usd.core.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds ``tmp_path/.lock``."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_names_who_holds_it_and_ends_with_its_process(tmp_path, holder):
    in_use = f"{tmp_path}: in use by process {holder.pid} on "
    with pytest.raises(UserError, match=in_use), files.locked(tmp_path / ".lock"):
        pass
    holder.kill()
    holder.wait()
    with files.locked(tmp_path / ".lock"):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    told, tell = os.pipe()
    end, ending = os.pipe()
    with files.locked(tmp_path / ".lock"):
        child = os.fork()
        if not child:
            os.close(ending)
            os.write(tell, b"!")
            os.read(end, 1)  # until the parent closes the other side
            os._exit(0)
        os.read(told, 1)
    with files.locked(tmp_path / ".lock"):
        pass
    os.close(ending)
    os.waitpid(child, 0)


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), files.locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_told_without_making_one(tmp_path):
    (tmp_path / "file").write_text("x")
    files.refuse_unwritable(tmp_path / "new" / "one")
    assert os.listdir(tmp_path) == ["file"]
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"could not be written"):
            files.refuse_unwritable(folder)
