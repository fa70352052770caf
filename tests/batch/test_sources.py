"""What a batch is made of: any name and line of text becomes one object, inside the output folder, or a reason."""

import argparse
import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_configs import save_disc
from usd.app.experiment import folder_name
from usd.app.stages import plans
from usd.batch import Result, Task, command
from usd.batch.launchers import Local
from usd.batch.names import distinct, object_name
from usd.batch.tasks import sources
from usd.batch.worker import configuration
from usd.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "core" / "custom" / "tiny.yaml"
MINI = ROOT / "configs" / "usd-patch-mini.yaml"

HARD = [
    "pic #1",
    "a=b",
    "[x]",
    "yes",
    "${oc.env:HOME}",
    "two  words",
    'it\'s "so"',
    "-lead",
    "größe 日本",
    "null",
    "???",
    "1e3",
    "a: b",
    "*a*",
    "{a",
    "@x",
    "\\${a}",
    "~",
    "system.seed=3",
    "é" * 100,
    "line\nbreak",
]


PATHS = ["pic #1", "a=b", "${oc.env:HOME}", "~", "1e3", "line\nbreak", "é" * 100]
"""What could be another path than it is; a real recipe is read for each of them."""


@pytest.mark.parametrize("stem", PATHS)
def test_a_picture_of_any_name_is_the_picture_that_is_read(tmp_path, stem):
    picture = save_disc(tmp_path / f"{stem}.png", 8)
    (task,) = command.tasks_of(arguments(tmp_path, picture, config=MINI), [])
    Path(task.folder).mkdir(parents=True)
    (plan,) = plans([configuration(task)], task.overrides)[:1]
    assert plan.experiment.system.config.guidance.config.image_path == str(picture)
    assert plan.trial.folder.parent == Path(task.folder)


@pytest.mark.parametrize(
    "words", [*HARD, "a red mug #1", "a red mug: with a handle", "$HOME `id` \"x\" 'y'", "a/../../b"]
)
def test_a_line_of_any_kind_is_the_sentence_that_is_made(tmp_path, words, monkeypatch):
    monkeypatch.setenv("USD_CUSTOM", str(TINY.parent))
    words = words.replace("\n", " ")
    (tmp_path / "list.txt").write_text(words + "\n", encoding="utf-8")
    args = arguments(tmp_path, tmp_path / "list.txt", key="description")
    (task,) = command.tasks_of(args, [])
    Path(task.folder).mkdir(parents=True)
    plan = plans([configuration(task)], task.overrides)[0]
    assert plan.experiment.description == words
    assert plan.trial.folder.is_relative_to(args.out / task.name)


def arguments(folder: Path, source: Path, key: str | None = None, config: Path = TINY) -> argparse.Namespace:
    args, rest = command.parser().parse_known_args(
        [str(source), "--config", str(config), "--out", str(folder / "out"), *(["--key", key] if key else [])]
    )
    assert not rest
    return args


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("..", "object"),
        (".", "object"),
        ("", "object"),
        ("...png", "png"),
        ("a/../../b", "a-..-..-b"),
        ("/etc/passwd", "-etc-passwd"),
        ("C:\\temp\\x", "C-temp-x"),
        ("con", "_con"),
        ("NUL.tar", "_NUL.tar"),
        ("com1 .x", "_com1 .x"),
        ("console", "console"),
        ("a~1", "a-1"),
        ("trailing. . ", "trailing"),
        ("tab\tnew\nline\0", "tab-new-line-"),
        ("日" * 100, "日" * 50),
        ("e\u0301", "\u00e9"),
    ],
)
def test_a_name_is_one_folder_inside_the_output(text, name):
    assert object_name(text) == name
    assert folder_name(name) == name and len(name.encode()) <= 160 and Path("out", name).name == name


def test_pictures_of_one_stem_are_apart(tmp_path):
    given = ["a.png", "a.jpg", "x/b.png", "y/b.png", "c.png", "C.webp", "x/z/d.png", "y/z/d.png"]
    for name in given:
        Image.new("RGB", (8, 8)).save(_made(tmp_path / name))
    found, _ = sources([tmp_path / name for name in given])
    assert [Path(source.text).relative_to(tmp_path).as_posix() for source in found.values()] == given
    names = list(found)
    assert names[:6] == ["a.png", "a.jpg", "x-b.png", "y-b.png", "c.png", "C.webp"]
    assert names[6] != names[7] and all(object_name(name) == name for name in names)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_sentences_that_begin_alike_are_apart_and_the_same_one_is_made_once(tmp_path):
    long = "a red car " * 30
    (tmp_path / "list.txt").write_text(f"{long}\n{long}with wheels\na car?\na car*\na car?\n")
    found, notes = sources([tmp_path / "list.txt"])
    assert len(found) == 4 and len({name.casefold() for name in found}) == 4
    assert notes == ["note: 1 of 5 sources are named twice; each is made once"]


def test_names_differ_even_where_digests_are_all_that_is_left():
    names = distinct([("..", "/"), (".", "//"), ("..", ".//")])
    assert len(set(names)) == 3 and all(object_name(name) == name for name in names)


# --------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"\xef\xbb\xbfa car\r\n\r\n  # a comment\r\nan owl  \r\n", ["a car", "an owl"]),
        ("a car\nan owl".encode("utf-16"), ["a car", "an owl"]),
        ("größe\u2028eins\n".encode(), ["größe\u2028eins"]),
        (b"a car\ran owl", ["a car", "an owl"]),
        (b"\xef\xbb\xbf# all\n\n", "list.txt: holds no sentences; expected one a line"),
        (b"", "list.txt: holds no sentences"),
        (b"a car\n\xff\xe9\n", "list.txt, line 2: is not UTF-8 text; save it as UTF-8"),
        (b"a\0b", "list.txt: is not text"),
    ],
)
def test_a_list_of_sentences(tmp_path, content, lines):
    (tmp_path / "list.txt").write_bytes(content)
    if isinstance(lines, str):
        with pytest.raises(UserError, match=lines):
            sources([tmp_path / "list.txt"])
    else:
        assert [source.text for source in sources([tmp_path / "list.txt"])[0].values()] == lines


def test_pictures_that_cannot_be_read_are_rows_with_a_reason(tmp_path):
    save_disc(tmp_path / "good.png", 8)
    for kind in ("tif", "gif", "bmp"):
        Image.open(tmp_path / "good.png").convert("RGB").save(tmp_path / f"{kind}.{kind}")
    (tmp_path / "bare").write_bytes((tmp_path / "good.png").read_bytes())
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.md").write_text("x")
    found, notes = sources([tmp_path])
    assert {name for name, source in found.items() if not source.problem} == {
        "good",
        "tif",
        "gif",
        "bmp",
        "bare",
    }
    assert "phone.HEIC: HEIC cannot be read as a picture here; expected PNG, JPEG" in found["phone"].problem
    assert "empty.jpg: JPG cannot be read" in found["empty"].problem
    assert "is no file" in found["loop"].problem and "is no file" in found["folder"].problem
    assert notes == [f"note: {tmp_path}: left out what is no picture: notes.md"]


@pytest.mark.parametrize("name", ["loop", "fifo", "x" * 300, "a.png/b"])
def test_what_is_no_file_is_one_line(tmp_path, name):
    save_disc(tmp_path / "a.png", 8)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match=r"no such picture|is no file|cannot be read"):
        sources([tmp_path / name])


# ---------------------------------------------------------------------------------------------------------- the command


def test_one_bad_picture_is_one_row_and_the_others_are_made(tmp_path, monkeypatch, capsys):
    """Exit code 1; the table and the sheet are written."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    save_disc(pictures / "good.png", 8)
    (pictures / "bad.png").write_bytes(b"\x89PNG broken")
    (pictures / "cut.png").write_bytes((pictures / "good.png").read_bytes()[:60])
    (pictures / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(command, "launcher", lambda args: Local(1, [], _play))
    out = tmp_path / "out"
    assert (
        command.main([str(pictures), "--config", str(TINY), "--key", "description", "--out", str(out)]) == 1
    )
    with open(out / "summary.csv", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good": "done",
        "bad": "failed",
        "cut": "done",  # its header can be read: the process finds out
        "photo": "failed",
    }
    assert "HEIC cannot be read as a picture here" in rows["photo"]["error"]
    assert Image.open(out / "sheet.png").size == (7 * 130 - 2, 4 * 130 - 2)
    assert "error:" not in capsys.readouterr().err


def _play(task: Task) -> Result:
    return Result(task.name, "done", 1.0, 1)


def command_line(folder, out, *more):
    """Return the words of a batch of one picture of the folder, whose results go to a folder in it."""
    given = [folder / "good.png", "--config", TINY, "--key", "description", "--out", folder / out, *more]
    return [str(word) for word in given]


def test_a_sheet_that_cannot_be_written_leaves_the_table(tmp_path, monkeypatch, capsys):
    save_disc(tmp_path / "good.png", 8)
    monkeypatch.setattr(command, "launcher", lambda args: Local(1, [], _play))
    (tmp_path / "out" / "sheet.png").mkdir(parents=True)
    assert command.main(command_line(tmp_path, "out")) == 0
    assert "note: no sheet: " in capsys.readouterr().out
    assert (tmp_path / "out" / "summary.csv").is_file()


@pytest.mark.parametrize("out", ["a?b", "con:", "x. "])
def test_an_output_folder_that_runs_would_call_otherwise_is_refused(tmp_path, capsys, out):
    save_disc(tmp_path / "good.png", 8)
    assert command.main(command_line(tmp_path, out, "--local", "1")) == 2
    assert "cannot be the name of a folder of runs" in capsys.readouterr().err


def test_a_picture_whose_name_holds_an_equals_sign_is_no_override(tmp_path, monkeypatch):
    save_disc(tmp_path / "seed=3.png", 8)
    seen: list[Task] = []
    monkeypatch.setattr(
        command, "launcher", lambda args: Local(1, [], lambda task: seen.append(task) or _play(task))
    )
    monkeypatch.chdir(tmp_path)
    assert (
        command.main(["seed=3.png", "seed=4", "--config", str(TINY), "--key", "description", "--out", "out"])
        == 0
    )
    assert [task.source for task in seen] == [str(tmp_path / "seed=3.png")]
    assert seen[0].overrides[1:] == ("seed=4",)


def test_a_misspelled_option_is_told_before_any_object_is_begun(tmp_path, capsys):
    save_disc(tmp_path / "good.png", 8)
    words = [str(tmp_path / "good.png"), "--config", str(TINY), "--key", "description"]
    assert command.main([*words, "--out", str(tmp_path / "out"), "sed=4"]) == 2
    assert "sed: unknown key. Did you mean 'seed'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
