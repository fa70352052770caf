"""Names that other programs wrote down: found where one file fits, an error where several do."""

import unicodedata

import pytest

from usd.core.errors import UserError
from usd.data.file_names import Folder, nearby


@pytest.fixture
def folder(tmp_path) -> Folder:
    for name in (
        "images/0001.PNG",
        "Images 2/é.jpg",
        "train/r_0.png",
        "train/r_1.webp",
        "images/two.png",
        "images/two.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return Folder(tmp_path, "data.path: t.json")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/0001.PNG", "images/0001.PNG"),
        ("./images/0001.png", "images/0001.PNG"),
        ("IMAGES/0001.png", "images/0001.PNG"),
        ("images/0001", "images/0001.PNG"),
        ("images\\0001.png", "images/0001.PNG"),
        (".\\train\\r_0", "train/r_0.png"),
        ("train/r_1", "train/r_1.webp"),
        ("Train/R_1", "train/r_1.webp"),
        ("train/../images/two.jpg", "images/two.jpg"),
        ("train/../Images/TWO.jpg", "images/two.jpg"),
        ("C:\\Users\\me\\scene\\images\\0001.png", "images/0001.PNG"),
        ("/home/me/scene/train/r_0.png", "train/r_0.png"),
        (unicodedata.normalize("NFD", "images 2/É.JPG"), "Images 2/é.jpg"),
    ],
)
def test_a_name_means_the_file_that_fits(folder, name, file):
    assert folder.find(name).resolve() == folder.path / file


@pytest.mark.parametrize(
    "name", ["", "images", "gone.png", "train/r_2", "r_0", "x" * 400, "a\0b", "..", "/", "C:\\"]
)
def test_a_name_without_a_file_means_none(folder, name):
    assert folder.find(name) is None


def test_a_name_that_fits_several_files_is_refused(folder):
    with pytest.raises(
        UserError, match=r"data\.path: t\.json: images/two: could be two\.jpg or two\.png; expected one"
    ):
        folder.find("images/two")
    (folder.path / "images/TWO.png").touch()
    assert folder.find("images/two.png").name == "two.png"
    with pytest.raises(UserError, match=r"could be TWO\.png or two\.png"):
        folder.find("images/Two.png")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("images/0001.jpg", ". Did you mean '0001.PNG'?"),
        ("train/r_00.png", ". Did you mean 'r_0.png'?"),
        ("train/zebra.png", ""),
        ("gone/0001.jpg", ""),
        ("", ""),
    ],
)
def test_the_nearest_name_is_the_hint(folder, name, hint):
    assert folder.nearest(name) == hint


def test_a_path_has_a_nearest_neighbor(folder):
    assert nearby(folder.path / "train/r_0.jpg") == ". Did you mean 'r_0.png'?"
    assert nearby(folder.path / "nowhere/at/all.jpg") == ""
