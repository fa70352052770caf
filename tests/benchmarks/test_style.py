"""The numbers of the code's style, on a package where each is known; and the limits on this one."""

import pytest

from benchmarks import style

FILES = {
    "__init__.py": '"""The package."""\n',
    "data/__init__.py": '"""Data."""\n',
    "data/one.py": """
from typing import Any

from usd.guidance import first


def load(x: Any, y: "dict[str, Any]") -> "Any kind of words":
    # why
    return x


class Part:
    def public(self):
        pass

    def _private(self):
        pass

    class Config:
        pass
""",
    "guidance/__init__.py": '"""Guidance."""\n',
    "guidance/first.py": '"""One."""\n\n\ndef _load():\n    """Load."""\n    return [1, 2]\n\n\nclass Part:\n    """A part."""\n',
    "guidance/second.py": '"""Two."""\n\n\ndef load():\n    """Load."""\n    import usd.data.one\n\n    return [1, 2]\n',
    "system/only.py": '"""One."""\n',
    "renderer/only.py": '"""One."""\n',
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, style.Measure]:
    root = tmp_path_factory.mktemp("checkout")
    for name, text in FILES.items():
        file = root / "usd" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "tests").mkdir()
    (root / "tests" / "test_it.py").write_text("\n" * sum(len(text.splitlines()) for text in FILES.values()))
    return {number.name: number for number in style.measure(root)}


def test_any_is_counted_in_code_and_in_quoted_annotations_but_not_in_prose(found):
    assert found["Any"].value == 2
    assert found["Any"].places == ("usd/data/one.py:7", "usd/data/one.py:7")


def test_docstrings_are_counted_where_they_are_public(found):
    """13 modules, functions, classes and methods; one module, one function, one class, one method have none."""
    assert found["docstrings %"].value == pytest.approx(100 - 100 * 4 / 13)


def test_names_count_without_their_underscore(found):
    assert found["names in 3 modules"].places == (
        "load: usd.data.one, usd.guidance.first, usd.guidance.second",
    )
    assert found["classes twice"].places == ("Part: usd.data.one, usd.guidance.first",)


def test_imports_inside_functions_close_a_cycle(found):
    assert found["cycles of folders"].places == ("data <-> guidance",)


def test_siblings_share_lines_of_substance(found):
    """first: \"\"\"One.\"\"\", def, docstring, return, class, docstring: 2 of 6 are second's; second has 4 lines."""
    assert found["siblings guidance %"].value == pytest.approx(100 * (2 / 6 + 2 / 4) / 2)


def test_comments_lengths_and_tests_are_counted(found):
    assert style.comment_share(style.read_sources(style.ROOT, "tests/benchmarks/nothing")) == 0
    assert found["tests per line"].value == 1
    assert found["length p90"].value == 5


def test_a_broken_limit_is_told_by_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(style, "measure", lambda: [style.Measure("Any", 3, 2, places=("here:1",))])
    assert style.main([]) == 1
    assert style.main(["Any"]) == 1
    assert "BROKEN" in capsys.readouterr().out
    monkeypatch.setattr(
        style, "measure", lambda: [style.Measure("Any", 2, 2), style.Measure("d", 2, 1, True)]
    )
    assert style.main([]) == 0


def test_the_package_holds_every_limit():
    broken = [str(measure) for measure in style.measure() if not measure.holds]
    assert not broken, "\n".join(broken)
