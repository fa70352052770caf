"""The comparison of methods: what each run is given, and what the table says of it."""

import pytest

from benchmarks import methods
from benchmarks.methods import METHODS, SEEDS, MethodBench


@pytest.fixture
def bench(tmp_path) -> MethodBench:
    return MethodBench(
        SEEDS[:1], tuple(METHODS), methods.ROOT / "configs", tmp_path, None, ("trainer.max_steps=3",)
    )


def test_a_run_is_given_what_its_method_starts_from(bench):
    for method in METHODS:
        words = bench.launch(SEEDS[0], method).overrides
        assert words[-1] == "trainer.max_steps=3"
        keys = {word.partition("=")[0] for word in words}
        given = {METHODS[method].picture_key, "system.prompt_processor.prompt"} & keys
        wanted = {
            "a picture": METHODS[method].picture_key,
            "a sentence": "system.prompt_processor.prompt",
        }
        assert given == {wanted[what] for what in METHODS[method].given} != set()


def test_figures_belong_to_a_recipe_and_its_overrides(bench):
    assert bench.settings("usd")["recipe"] != bench.settings("usd-text")["recipe"]
    assert bench.settings("usd")["overrides"] == ["trainer.max_steps=3"]


def test_the_table_has_a_row_a_measured_method_and_a_dash_for_what_means_nothing(bench):
    figures = {"category": 1.0, "caption": 0.5, "seconds": 61.0, "gib": 0.75}
    for method, more in (("usd-text", {}), ("usd", {"psnr": 20.0})):
        bench.ledger.figures(f"{SEEDS[0]}", bench.settings(method), lambda more=more: {**figures, **more})
    text, usd = methods.table(bench).splitlines()[2:4]
    assert (
        text.startswith("| [usd-text](") and "| a sentence | 1 | 1.00 ± 0.00 | 0.50 ± 0.00 | - | 61" in text
    )
    assert "| a picture | 1 | 1.00 ± 0.00 | 0.50 ± 0.00 | 20.00 ± 0.00 | 61" in usd
    assert len(methods.table(bench).splitlines()) == 6
