"""The wheel: what is in it, and that an installed package works from an empty folder and writes nothing beside itself."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "requirements.txt"]
FOLDERS = ["usd", "configs", "load"]
SHORT = [
    "trainer.max_steps=3",
    "trainer.val_check_interval=0",
    "data.width=16",
    "data.height=16",
    "data.n_test_views=2",
    "data.eval_width=32",
    "data.eval_height=32",
    "use_timestamp=false",
    "tag=short",
    "system.geometry.isosurface_resolution=24",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources: a build leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run([sys.executable, *command], check=True)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment that holds nothing but the wheel, and sees the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    command = ["-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", wheel]
    subprocess.run([sys.executable, *command], check=True)
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def tree(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder but what Python compiles."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".pyc"]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def usd(installed: Path, here: Path, *argv: str, home: Path | None = None) -> str:
    """What the installed command prints, given in a folder; without ``home`` HOME is not set."""
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {} if home is None else {"HOME": str(home)}
    command = [installed / "bin" / "usd", *argv]
    done = subprocess.run(
        command, cwd=here, env=env, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def here(tmp_path, installed):
    """An empty folder to work in. Afterwards the environment is as it was, byte for byte."""
    before = tree(installed)
    folder = tmp_path / "empty folder"
    folder.mkdir()
    yield folder
    assert tree(installed) == before, "something was written into the environment"


def test_the_wheel_holds_the_package_and_its_resources_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"usd"}
    there = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()]
    expected = {
        file.relative_to(ROOT).as_posix()
        for file in there
        if file.suffix != ".pyc" and file.name != ".DS_Store"
    }
    assert names == {name if name.startswith("usd/") else f"usd/{name}" for name in expected}


def test_the_lists_name_files_of_the_installed_package(installed, here, tmp_path):
    listed = usd(installed, here, "list", home=tmp_path)
    assert "usd-guidance" in listed and str(installed) in listed and str(ROOT) not in listed
    assert usd(installed, here, "--version", home=tmp_path).startswith("usd ")


@pytest.mark.parametrize("has_home", [True, False], ids=["home", "no home"])
def test_a_picture_of_one_s_own_is_trained_on_and_exported(installed, here, tmp_path, has_home):
    home = tmp_path / "home" if has_home else None
    shutil.copy(ROOT / "load" / "images" / "duck.png", here / "my picture.png")
    usd(installed, here, "new", "guidance", "steady", home=home)
    own = ["system.guidance.image_path=my picture.png", "system.guidance_type=steady-guidance", *SHORT]
    said = usd(installed, here, "train", "usd-patch-mini", "--gpu", "cpu", *own, home=home)
    assert "trial: outputs/" in said
    (checkpoint,) = here.glob("outputs/*/short/ckpts/last.ckpt")
    usd(installed, here, "export", str(checkpoint.parents[1]), "--gpu", "cpu", home=home)
    assert list(here.glob("outputs/*/short/save/it3-export/model.glb"))


def test_the_demo_runs_from_an_empty_folder(installed, here, tmp_path):
    said = usd(installed, here, "demo", home=tmp_path / "home")
    assert float(said.split("PSNR ")[1].split(" dB")[0]) > 20.5, "21.6 dB on the machine it was tuned on"
    assert {item.name for item in here.iterdir()} == {"outputs"}
