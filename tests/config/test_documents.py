"""Documents: what overrides, merging and flattening make of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlth.config.documents import flatten, merge, override, parse_yaml, put
from distlth.errors import ConfigError

KEYS = st.sampled_from("abcd")
DOCUMENTS = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@pytest.mark.parametrize(
    ("text", "value"), [("24:00:00", "24:00:00"), ("90", 90), ("1e-4", "1e-4"), ("[1, x]", [1, "x"])]
)
def test_a_clock_time_is_text(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


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
