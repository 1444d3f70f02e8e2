"""The reference of the job file, generated from the schema: python -m distlth.config.reference."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Set
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distlth.config.schema import RunConfig
from distlth.methods import METHODS, Method

INTRODUCTION = """# The job file

A job file is YAML with the sections below. Any value can be given on the command line instead, by its
dotted key: `distlth run JOB.yaml train.epochs=30 prune.branches.0.extra=0.1`; the last one counts. A key
without a default is required. `distlth run JOB.yaml --dry-run` shows the plan and the sizes that a job file
leads to.

Values are read by the core schema of YAML 1.2: `010` is ten, `off` is a word, and a text stays as it is
written (`0123`, `2024-11-26`, `1.10`). A key that is given twice in a file is an error.

This page is generated: `python -m distlth.config.reference > docs/job-file.md`.
"""

PLAIN_TYPES = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    NoneType: "nothing",
}


def reference() -> str:
    """Return the whole page as Markdown."""
    sections: list[tuple[str, str, type[BaseModel]]] = [("top level", "", RunConfig)]
    sections += _sections(RunConfig, "")
    sections.append(("prune.branches", "", Method))
    pages = [_section(*section) for section in sections]
    return "\n".join([INTRODUCTION, *pages, *(_method(*method) for method in METHODS.items())])


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        for part in (field.annotation, *typing.get_args(field.annotation)):  # a section, or one or nothing
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield f"{prefix}{key}", f"{prefix}{key}.", part
                yield from _sections(part, f"{prefix}{key}.")


def _method(name: str, model: type[Method]) -> str:
    """Return the section of a method, without what all branches have."""
    return _section(f"prune.branches: {name}", "", model, without=Method.model_fields.keys() - {"method"})


def _section(title: str, prefix: str, model: type[BaseModel], without: Set[str] = frozenset()) -> str:
    rows = [
        f"| `{prefix}{key}` | {_type(field.annotation)} | {_default(field)} | {_cell(field.description)} |"
        for key, field in model.model_fields.items()
        if field.description is not None and key not in without
    ]
    about = " ".join((model.__doc__ or "").split())
    head = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## {title}", "", about, "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is Annotated:
        return _type(parts[0])
    if origin is tuple:
        return "list"
    if origin is dict:
        return "mapping"
    if parts:
        return " or ".join(_type(part) for part in parts if part is not NoneType)
    if issubclass(annotation, BaseModel):
        return "section"
    return PLAIN_TYPES[annotation]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return ""
    if field.default == ():
        return "`[]`"
    value = field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(reference(), end="")
