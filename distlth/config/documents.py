"""YAML documents as values: parsed, overridden by dotted keys, merged, flattened. No file is read here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from distlth.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, without the base 60 of YAML 1.1, in which 24:00:00 is the number 86400."""


_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_Loader.yaml_implicit_resolvers = {
    first: [("tag:yaml.org,2002:str", _BASE_60), *resolvers] if first in "-+0123456789" else resolvers
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return the value that a YAML text stands for; raise yaml.YAMLError where the text is not YAML."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


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
        value = parse_yaml(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {assignment!r}: the value is not valid YAML") from None
    put(document, key, value)
    return key


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
