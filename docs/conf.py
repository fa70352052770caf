"""The documentation site: `make docs` writes it to outputs/docs/index.html."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import usd  # noqa: E402

PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "USD"
author = PROJECT["authors"][0]["name"]
copyright = f"2026, {author}"
release = version = usd.__version__

extensions = ["myst_parser", "reference", "gallery"]
exclude_patterns = ["notebooks"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"USD {release}"
add_module_names = False
toc_object_entries = False
suppress_warnings = ["ref.python"]  # two classes of one name: an annotation that names them stays plain text
python_maximum_signature_line_length = 100
