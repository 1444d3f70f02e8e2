"""Documents: what overrides, merging and flattening make of them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distlth.config.core_schema import WrittenFloat, WrittenInt
from distlth.config.documents import dump_yaml, flatten, merge, override, parse_yaml, put
from distlth.errors import ConfigError

KEYS = st.sampled_from("abcd")
DOCUMENTS = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


# What YAML 1.1 reads as something else than the same text or the same decimal number.
CORE: dict[str, Any] = {
    **{"0123": 123, "0o17": 15, "0x1F": 31, "1e-4": 1e-4, ".5": 0.5, "1.": 1.0, "-.inf": float("-inf")},
    **{"24:00:00": "24:00:00", "0100:30": "0100:30", "1_000": "1_000", "0b11": "0b11"},
    **{"2024-11-26": "2024-11-26", "off": "off", "Yes": "Yes", "n": "n", "=": "=", "<<": "<<"},
    **{"true": True, "FALSE": False, "~": None, "Null": None, "": None, "90": 90, "[1, x]": [1, "x"]},
}


@pytest.mark.parametrize(("text", "value"), CORE.items())
def test_values_are_read_by_the_core_schema(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) in (type(value), WrittenInt, WrittenFloat)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", "b.c is given twice, in line 3, column 3 and line 5, column 3"),
        ("train: {}\ndata: {}\ntrain: {}", "train is given twice, in line 1, column 1 and line 3, column 1"),
        ("a: [{x: 1}, {y: 1, 'y': 2}]", "a.1.y is given twice"),
        ("!!int x", "'x' is not an integer"),
        ("!!float x", "'x' is not a number"),
        ("!!bool x", "'x' is not true or false"),
        ("9" * 5000, "is not an integer"),
        ("!!timestamp x", "could not determine a constructor"),
        ("[" * 5000, "too deeply nested"),
        ("a: \0", "special characters are not allowed"),
        ("--- 1\n--- 2", "expected a single document"),
    ],
)
def test_what_is_no_yaml_says_where(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError, match=words):
        parse_yaml(text)


def test_an_alias_of_itself_ends_and_merge_keys_are_no_duplicates() -> None:
    assert parse_yaml("a: &a {b: *a}")["a"].keys() == {"b"}
    assert parse_yaml("a: &a {b: 1, c: 2}\nd:\n  <<: *a\n  b: 3")["d"] == {"b": 3, "c": 2}


@given(
    st.from_regex(
        r"[-+]?[0-9]{1,7}|0o[0-7]{1,5}|0x[0-9a-fA-F]{1,5}|[0-9]{1,4}\.[0-9]{0,4}(e[0-9])?", fullmatch=True
    )
)
def test_a_number_is_as_text_what_was_written(text: str) -> None:
    assert str(parse_yaml(text)) == text


@given(st.text() | st.from_regex(r"[0-9:.oxe_+-]{1,6}", fullmatch=True) | st.sampled_from(tuple(CORE)))
def test_what_is_written_reads_back_by_either_version_of_yaml(text: str) -> None:
    written = dump_yaml({"a": text})
    assert yaml.safe_load(written) == parse_yaml(written) == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [("a #b", "a #b"), ("#1", "#1"), ("'a' #b", "a"), ("0123", 123), ("off", "off"), ("", None)],
)
def test_an_override_has_no_comments(text: str, value: Any) -> None:
    document: dict[str, Any] = {}
    override(document, [f"a={text}"])
    assert document == {"a": value}


def test_overrides_change_a_document_and_tell_their_keys() -> None:
    document: dict[str, Any] = {"a": {"b": 1}, "list": [{"c": 2}], "none": None}
    assert override(document, ["a.b=3", "list.0.c=x", "none.d=[4]", "new.e=5"]) == (
        *("a.b", "list.0.c", "none.d", "new.e"),
    )
    assert document == {"a": {"b": 3}, "list": [{"c": "x"}], "none": {"d": [4]}, "new": {"e": 5}}


@pytest.mark.parametrize("key", ["a.b.c", "list.2", "list.x.c"])
def test_a_key_that_leads_nowhere_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"override {key}: "):
        put({"a": {"b": 1}, "list": [1, 2]}, key, 3)


def test_merging_replaces_lists_and_keeps_the_rest() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merge(below, {"a": {"c": [4]}, "e": 5}) == {"a": {"b": 1, "c": [4]}, "d": 3, "e": 5}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


def test_flattening_names_each_leaf_by_its_dotted_key() -> None:
    document = {"a": {"b": 1, "c": [1, 2]}, "list": [{"d": 3}, {"d": 4}], "e": None}
    assert flatten(document) == {"a.b": 1, "a.c": [1, 2], "list.0.d": 3, "list.1.d": 4, "e": None}


@given(DOCUMENTS)
def test_putting_every_leaf_makes_the_document_again(document: dict[str, Any]) -> None:
    made: dict[str, Any] = {}
    for key, value in flatten(document).items():
        put(made, key, value)
    assert made == document


@given(DOCUMENTS, DOCUMENTS)
def test_what_lies_above_wins(below: dict[str, Any], above: dict[str, Any]) -> None:
    merged = flatten(merge(below, above))
    assert all(merged[key] == value for key, value in flatten(above).items())
