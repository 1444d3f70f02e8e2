"""The core schema of YAML 1.2, on PyYAML, which by itself reads YAML 1.1.

By YAML 1.1 `0123` is 83, `01:00` is 60, `off` is false, `2024-11-26` is a date, and the last of two equal
keys wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Self, cast

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

NULL, BOOL, INT, FLOAT, STR = (
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str")
)
SEQUENCE, MAPPING, MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("seq", "map", "merge"))

# Tags of plain scalars, their forms, and the characters that these begin with; "" is the empty scalar.
FORMS: tuple[tuple[str, str, str], ...] = (
    (NULL, r"~|null|Null|NULL|", "~nN"),
    (BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        FLOAT,
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    (MERGE, r"<<", "<"),
)
BASES = {"0o": 8, "0x": 16}


class _Written:
    """A number, by its second base class, that is, as text, what the file says."""

    _written: str

    def __new__(cls, value: float, written: str) -> Self:
        """Return `value` with the text that stands for it."""
        number = super().__new__(cls, value)  # type: ignore[call-arg]
        number._written = written
        return number

    def __str__(self) -> str:
        return self._written


class WrittenInt(_Written, int):
    """An integer that is, as text, what the file says: `0123`."""


class WrittenFloat(_Written, float):
    """A number that is, as text, what the file says: `1.10`."""


class CoreLoader(yaml.SafeLoader):
    """Reads the core schema, and nothing else; refuses a key that is given twice."""

    def compose_document(self) -> Node:
        """Return the document's root; ConstructorError, with both places, where a key is given twice."""
        root = cast("Node", super().compose_document())
        for mapping, prefix in _mappings(root, "", set()):
            _refuse_duplicates(mapping, prefix)
        return root


class CoreDumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would not read as text."""


def _mappings(node: Node, prefix: str, seen: set[int]) -> Iterator[tuple[MappingNode, str]]:
    """Yield each mapping below a node once, with the dotted prefix of its keys."""
    if id(node) in seen:  # an alias, perhaps of what it is part of
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        yield node, prefix
        for key, value in node.value:
            yield from _mappings(value, f"{prefix}{key.value}.", seen)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _mappings(item, f"{prefix}{index}.", seen)


def _refuse_duplicates(mapping: MappingNode, prefix: str) -> None:
    places: dict[tuple[str, str], yaml.Mark] = {}
    for key, _ in mapping.value:
        if not isinstance(key, ScalarNode):
            continue
        first = places.setdefault((key.tag, key.value), key.start_mark)
        if first is not key.start_mark:
            where = f"{_place(first)} and {_place(key.start_mark)}"
            raise ConstructorError(
                None, None, f"{prefix}{key.value} is given twice, in {where}; keep one", None
            )


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _null(loader: CoreLoader, node: ScalarNode) -> None:
    loader.construct_scalar(node)


def _bool(loader: CoreLoader, node: ScalarNode) -> bool:
    text = str(loader.construct_scalar(node))
    if text.lower() not in ("true", "false"):
        raise _no(node, "true or false")
    return text.lower() == "true"


def _int(loader: CoreLoader, node: ScalarNode) -> WrittenInt:
    text = str(loader.construct_scalar(node))
    base = BASES.get(text[:2], 10)
    try:
        return WrittenInt(int(text if base == 10 else text[2:], base), text)
    except ValueError:
        raise _no(node, "an integer") from None


def _float(loader: CoreLoader, node: ScalarNode) -> WrittenFloat:
    text = str(loader.construct_scalar(node))
    try:
        return WrittenFloat(float(re.sub(r"\.(inf|nan)\Z", r"\1", text, flags=re.I)), text)
    except ValueError:
        raise _no(node, "a number") from None


def _no(node: ScalarNode, what: str) -> ConstructorError:
    return ConstructorError(None, None, f"{node.value[:40]!r} is not {what}", node.start_mark)


CoreLoader.yaml_constructors = {
    NULL: _null,
    BOOL: _bool,
    INT: _int,
    FLOAT: _float,
    STR: yaml.SafeLoader.construct_yaml_str,
    MERGE: yaml.SafeLoader.construct_yaml_str,  # where it is no key
    SEQUENCE: yaml.SafeLoader.construct_yaml_seq,
    MAPPING: yaml.SafeLoader.construct_yaml_map,
    None: yaml.SafeLoader.construct_undefined,
}
CoreLoader.yaml_implicit_resolvers = {}
for _tag, _form, _first in FORMS:
    _pattern = re.compile(rf"(?:{_form})\Z")
    for _class in (CoreLoader, CoreDumper):
        _class.add_implicit_resolver(_tag, _pattern, ["", *_first] if _tag == NULL else list(_first))
