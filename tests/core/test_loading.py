from pathlib import Path

import pytest

from usd.core.config import load_config
from usd.core.errors import ConfigError, UserError
from usd.core.loading import dump, is_override, load_merged, override, quoted, unquoted


def write(folder: Path, **files: str) -> list[Path]:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return [folder / f"{name}.yaml" for name in files]


def test_later_files_win_key_by_key(tmp_path):
    files = write(tmp_path, a="x: {p: 1, q: 2}\nl: [1, 2]", b="x: {q: 3}\nl: [4]")
    assert load_config(files) == {"x": {"p": 1, "q": 3}, "l": [4]}


def test_base_is_relative_to_the_file_that_names_it(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, root="a: 1\nb: 1\nc: 1")
    write(tmp_path / "sub", mid="base: ../root.yaml\nb: 2\nc: 2", leaf="base: mid.yaml\nc: 3")
    assert load_config([tmp_path / "sub" / "leaf.yaml"]) == {"a": 1, "b": 2, "c": 3}


def test_a_circle_of_bases_is_an_error(tmp_path):
    files = write(tmp_path, a="base: b.yaml", b="base: a.yaml")
    with pytest.raises(ConfigError, match="inherits from itself"):
        load_config(files[:1])


def test_another_type_drops_the_options_of_the_former(tmp_path):
    files = write(
        tmp_path, a="g_type: one\ng: {p: 1}\nh_type: one\nh: {p: 1}", b="g_type: two\ng: {q: 2}\nh_type: one"
    )
    assert load_config(files) == {"g_type": "two", "g": {"q": 2}, "h_type": "one", "h": {"p": 1}}


def test_overrides_choose_types_first_whatever_their_order(tmp_path):
    files = write(tmp_path, a="g_type: one\ng: {p: 1}")
    assert load_config(files, ["g.q=2", "g_type=two"]) == {"g_type": "two", "g": {"q": 2}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("a b", "a b"),
        ("[1,2]", [1, 2]),
        ("null", None),
        ("", ""),
        ("a=b", "a=b"),
        ("'5'", "5"),
    ],
)
def test_override_values_are_yaml(text, value):
    assert load_config([], [f"x.y={text}"]) == {"x": {"y": value}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${add:1,2}", 3),
        ("${sub:3,2}", 1),
        ("${mul:3,2}", 6),
        ("${div:3,2}", 1.5),
        ("${idiv:3,2}", 1),
        ("${basename:a/b.png}", "b.png"),
        ("${rmspace:a b c,_}", "a_b_c"),
        ("${tuple2:3}", [3.0, 3.0]),
        ("${gt0:0}", False),
        ("${not:false}", True),
        ("${cmaxgt0:${w}}", True),
        ("${cmaxgt0:0}", False),
        ("${cmaxgt0orcmaxgt0:0,${w}}", True),
        ("${calc_exp_lr_decay_rate:0.25,2}", 0.5),
    ],
)
def test_resolvers(tmp_path, text, value):
    (file,) = write(tmp_path, a=f"w: [0, 0, 1, 5]\nx: {text}")
    assert load_merged([file]).resolved()["x"] == value


def test_a_value_still_missing_is_named(tmp_path):
    (file,) = write(tmp_path, a="a:\n  prompt: ???\ntag: '${rmspace:${a.prompt},_}'")
    with pytest.raises(ConfigError, match=r"^a.prompt: required but not given; pass a.prompt=<value>$"):
        load_merged([file]).resolved()
    assert load_merged([file], ["a.prompt=a red fox"]).resolved()["tag"] == "a_red_fox"


def test_origins_say_where_each_leaf_was_written(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, root="a: {p: x, q: y}")
    write(tmp_path / "sub", leaf="base: ../root.yaml\na: {q: z}")
    origins = load_merged([tmp_path / "sub" / "leaf.yaml"], ["a.r=1"]).origins
    assert origins["a.p"].folder == tmp_path and origins["a.q"].folder == tmp_path / "sub"
    assert origins["a.r"].by_hand and not origins["a.q"].by_hand


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for name, what in [
        ("none.yaml", "no such configuration"),
        ("binary.yaml", "not valid YAML"),
        (".", "cannot be read"),
    ]:
        with pytest.raises(UserError, match=what):
            load_config([tmp_path / name])


STRANGE = [
    "pic #1.png",
    "a red mug: with a handle",
    "it's",
    '"half',
    "'whole'",
    "*a*",
    "1e3",
    "null",
    "",
    " a ",
    "${oc.env:HOME}",
    "a\\${x} \\",
    "[red] mug",
    "\U0001f9f8\x85",
]


@pytest.mark.parametrize("text", STRANGE)
def test_quotes_and_escapes_keep_any_text(text, tmp_path):
    assert unquoted(quoted(text)) == text
    assert override("a.b", text).startswith("a.b='")
    (tmp_path / "a.yaml").write_text(dump({"a": {"b": text}, "c": [text]}))
    assert load_merged([tmp_path / "a.yaml"]).resolved() == {"a": {"b": text}, "c": [text]}


def test_only_one_pair_around_everything_is_taken_off():
    assert unquoted('"a red mug"') == unquoted("'a red mug'") == "a red mug"
    assert unquoted('"hello" and "bye"') == '"hello" and "bye"'
    assert unquoted("'a' or 'b'") == "'a' or 'b'"
    assert unquoted(r'"a \"b\""') == 'a "b"'


@pytest.mark.parametrize(
    "text", ["seed=3", "system.optimizer.params.geometry.encoding.lr=1", "tag=a b/c", "tag="]
)
def test_an_argument_that_is_an_override(text):
    assert is_override(text)


@pytest.mark.parametrize("text", ["out/tag=a/parsed.yaml", "./a=b.yaml", "two words = one", "=3", "seed"])
def test_an_argument_that_is_none(text):
    assert not is_override(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch {ran}']",
        "a: !!python/name:os.system",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{ran}']]",
        "a: !!python/module:intruder",
    ],
)
def test_yaml_runs_nothing(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text.format(ran=tmp_path / "ran"))
    with pytest.raises(ConfigError, match=r"bad\.yaml.*: (not valid YAML|expected a mapping)"):
        load_config([tmp_path / "bad.yaml"])
    assert not (tmp_path / "ran").exists()
