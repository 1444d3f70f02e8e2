"""YAML documents as values: parsed, overridden by dotted keys, merged, flattened. No file is read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from distlth.config.core_schema import CoreDumper, CoreLoader
from distlth.errors import ConfigError


def parse_yaml(text: str) -> Any:
    """Return the value that a text stands for by the core schema of YAML 1.2.

    A number is, as text, what was written (`0123`).

    Raises:
        yaml.YAMLError: the text is not YAML, or a key is given twice.
    """
    loader = CoreLoader(text)
    try:
        return loader.get_single_data()
    except RecursionError:
        raise yaml.YAMLError("too deeply nested") from None
    finally:
        loader.dispose()


def dump_yaml(document: Mapping[str, Any]) -> str:
    """Return a document, its keys in order, as YAML that versions 1.1 and 1.2 read alike."""
    return yaml.dump(document, Dumper=CoreDumper, sort_keys=False)


def override(document: dict[str, Any], overrides: Sequence[str]) -> tuple[str, ...]:
    """Apply overrides such as `train.epochs=3` to a document in place; return their keys.

    Raises:
        ConfigError: an override is not `key=value`, or its key leads through a value.
    """
    return tuple(_apply(document, text) for text in overrides)


def put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a document in place, making sections on the way.

    Raises:
        ConfigError: a part of the key is a value, or is not an index of a list.
    """
    *parents, last = key.split(".")
    target: Any = document
    for parent in parents:
        target = _descend(target, parent, key)
    if isinstance(target, list):
        target[_index(target, last, key)] = value
    else:
        target[last] = value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` overlaid with `above`, section by section; lists and values are replaced."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = merge(below[key], above[key])
    return merged


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a document under dotted keys, through mappings and lists of mappings."""
    return dict(_leaves(document, ""))


def _apply(document: dict[str, Any], assignment: str) -> str:
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {assignment!r}: expected key=value, such as train.epochs=3")
    try:
        value = _parse_value(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"override {assignment!r}: the value is not valid YAML: {reason}") from None
    put(document, key, value)
    return key


def _parse_value(text: str) -> Any:
    """Return the value of an override: YAML, but a word or a number is all of the text, `#` included."""
    value = parse_yaml(text)
    is_cut = not isinstance(value, list | dict) and "#" in text and text.lstrip()[:1] not in ("'", '"')
    return text.strip() if is_cut else value


def _descend(target: Any, part: str, key: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, part, key)]
    child = target.setdefault(part, {})
    if child is None:
        child = target[part] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"override {key}: {part} is a value, not a section")
    return child


def _index(target: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise ConfigError(f"override {key}: {part!r} is not an index of a list of {len(target)}")
    return int(part)


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}{key}.")
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{prefix}{index}.")
    else:
        yield prefix.removesuffix("."), value
