"""Options found by their key path: names that hold dots, names of which one counts, and types through components."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from usd.core.config import option
from usd.core.loading import MergedConfig, load_merged
from usd.core.option_lookup import option_type, split_key
from usd.core.overrides import OptionReader


@dataclass(frozen=True)
class Groups:
    dotted_keys: ClassVar[frozenset[str]] = frozenset({"params"})

    params: dict[str, dict[str, float]] = option({})


@dataclass(frozen=True)
class Options:
    exclusive_keys: ClassVar[Mapping[str, frozenset[str]]] = {"loss": frozenset({"old", "new", "other"})}

    optimizer: Groups = option({})
    loss: dict[str, float] = option({})


@dataclass(frozen=True)
class Whole:
    system: Options = option({})


def none_chosen(key: str) -> None:
    return None


def merged(tmp_path, *texts: str, overrides: tuple[str, ...] = ()) -> MergedConfig:
    files = [tmp_path / f"{index}.yaml" for index in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return load_merged(files, overrides, OptionReader(Whole))


def test_of_names_that_exclude_each_other_the_one_that_was_said_last_counts(tmp_path):
    text = "system: {loss: {old: 1.0, opaque: 2.0}}"
    assert merged(tmp_path, text).config.system.loss == {"old": 1.0, "opaque": 2.0}
    assert merged(tmp_path, text, "system: {loss: {new: 3.0}}").config.system.loss == {
        "opaque": 2.0,
        "new": 3.0,
    }
    assert merged(tmp_path, text, "system: {loss: {new: 3.0}}", text).config.system.loss == {
        "old": 1.0,
        "opaque": 2.0,
    }
    typed = merged(tmp_path, text, overrides=("system.loss.new=0.5", "system.loss.other=0.2"))
    assert typed.config.system.loss == {"other": 0.2, "opaque": 2.0}


def test_two_such_names_of_one_file_both_stay_for_the_options_to_judge(tmp_path):
    text = "system: {loss: {old: 1.0, new: 2.0}}"
    assert merged(tmp_path, text).config.system.loss == {"old": 1.0, "new": 2.0}


def test_a_weight_that_is_a_mapping_is_as_late_as_what_is_in_it(tmp_path):
    texts = "system: {loss: {new: 1.0}}", "system: {loss: {old: {steps: [0], values: [1]}}}"
    assert set(merged(tmp_path, *texts).config.system.loss) == {"old"}


def test_names_below_a_dotted_key_keep_their_dots(tmp_path):
    text = "system: {optimizer: {params: {geometry.encoding: {lr: 0.1, eps: 1}}}}"
    typed = merged(tmp_path, text, overrides=("system.optimizer.params.geometry.encoding.lr=0.2",))
    assert typed.config.system.optimizer.params == {"geometry.encoding": {"lr": 0.2, "eps": 1}}
    assert split_key(Whole, "system.optimizer.params.geometry.lr", none_chosen)[-2:] == ["geometry", "lr"]
    assert split_key(Whole, "system.loss.a.b.c", none_chosen) == ["system", "loss", "a", "b", "c"]


def test_the_type_of_an_option_below_a_mapping():
    names = ["system", "optimizer", "params", "geometry.encoding", "lr"]
    assert option_type(Whole, names, none_chosen) is float
    assert option_type(Whole, ["system", "nothing"], none_chosen) is None
