"""The documentation builds without warnings, its notebook runs, and docstrings come out as they were written."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.trials import write_trial
from usd.report.page import write_report

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "one_picture_to_3d.py"
has_sphinx = importlib.util.find_spec("sphinx") is not None


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        ("d = |a_i|, 2 * 3", r"d = \|a\_i\|, 2 \* 3"),
        ("outputs/<name> and ``a<b``", r"outputs/\<name> and ``a<b``"),
        ("One.\n\n    grad = s * d\n\nTwo.", "One.\n\n```text\n    grad = s * d\n```\n\nTwo."),
    ],
)
def test_formulas_in_docstrings_are_not_markup(reference, docstring, shown):
    assert reference.markdown(docstring).strip() == shown


def test_every_module_has_its_place_in_the_reference(reference):
    folders = {file.parent for file in reference.PACKAGE.rglob("*.py")}
    text = "\n".join(reference.page(folder) for folder in folders)
    modules = [file for file in reference.PACKAGE.rglob("*.py") if file.name != "__main__.py"]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules]
    assert not [name for name in names if f"## {name.removesuffix('.__init__')}\n" not in text]
    assert "- `guidance_scale: " in text


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_a_page_names_exist(page):
    of_a_trial = {"configs/parsed.yaml", "configs/raw.yaml"}
    named = set(re.findall(r"(?<![\w/])configs/[a-z\d][\w./-]*\.yaml", page.read_text(encoding="utf-8")))
    assert not [file for file in named - of_a_trial if "NAME" not in file and not (ROOT / file).is_file()]


def prose(text: str) -> list[str]:
    """Lines that can be wrapped: no code, tables, pictures, links that fill a line, nor figures that commands write."""
    text = re.sub(r"<!-- claim.*?<!-- end", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.splitlines() if not re.match(r" {4}(?! *[-*] )|\||!\[", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_stays_within_110_columns(page):
    long = [line for line in prose(page.read_text(encoding="utf-8")) if len(line) > 110]
    assert not [line for line in long if max(map(len, line.split())) < 60]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Write a trial with its report as a training leaves them, and another one without."""
    folder = tmp_path_factory.mktemp("outputs")
    write_report(write_trial(folder / "family" / "car@20260101-000000"))
    write_trial(folder / "family" / "boat@20260101-000000")
    return folder


@pytest.fixture
def gallery():
    pytest.importorskip("sphinx")
    return importlib.import_module("docs.gallery")


def test_the_gallery_shows_what_has_a_report(gallery, outputs):
    text = gallery.page(outputs)
    assert text.count("<strong>") == 1 and text.count("<img") == 2, "one trial: its input and a view"
    assert 'href="reports/family-car-20260101-000000.html"' in text and "PSNR 21.40 dB" in text


def test_an_empty_gallery_says_how_to_fill_it(gallery, tmp_path):
    assert "make demo" in gallery.page(tmp_path)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path, outputs):
    pytest.importorskip("furo")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-D",
        f"gallery_outputs={outputs}",
        "-b",
        "html",
        ROOT / "docs",
        tmp_path,
    ]
    built = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    assert "Score distillation as plain functions" in (tmp_path / "api" / "usd_math.html").read_text("utf-8")
    linked = "reports/family-car-20260101-000000.html"
    assert linked in (tmp_path / "gallery.html").read_text("utf-8")
    assert (tmp_path / linked).read_bytes() == next(outputs.glob("*/car*/report.html")).read_bytes()
    assert "over-saturation" in (tmp_path / "how-it-works.html").read_text("utf-8")


@pytest.mark.slow
def test_the_notebook_runs_from_the_picture_to_the_mesh(tmp_path, monkeypatch):
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    monkeypatch.setenv("USD_NOTEBOOK_OUT", str(tmp_path))
    notebook = jupytext.read(NOTEBOOK)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(ROOT)}}).execute()
    last = notebook.cells[-1]["outputs"]
    assert "model.glb" in "".join(output.get("text", "") for output in last)
    assert list(tmp_path.glob("*/kettle@*/save/it*-export/model.glb"))
