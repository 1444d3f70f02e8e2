"""One line for a mistake in a job file: the key, what is allowed, and the nearest right spelling."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from distlth.methods import METHODS

# What pydantic calls by the names of Python's types, as YAML's.
EXPECTED = {
    "tuple_type": "expected a list, such as [a, b]",
    "model_type": "expected a section of keys, such as {key: value}",
    "dict_type": "expected a mapping, such as {key: value}",
}


def explain(problem: ErrorDetails, root: type[BaseModel]) -> str:
    """Return one line for a validation error of pydantic's; `root` is the model that was validated."""
    key = _dotted(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _explain_unknown_key(problem["loc"], root)
    if problem["type"] == "missing":
        return f"{key}: missing; this key is required"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"{key}.method: {_given_method(problem['input'])}; allowed: {', '.join(METHODS)}"
    message = EXPECTED.get(problem["type"], problem["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message}, got {problem['input']!r}{_nearest_value(problem)}{_quotes(problem)}"


def _dotted(location: Sequence[Any]) -> str:
    """Return a location as a dotted key of the job file; pydantic's also names the method of a branch."""
    return ".".join(str(part) for part in location if part not in METHODS)


def _given_method(value: Any) -> str:
    method = value.get("method") if isinstance(value, dict) else None
    close = difflib.get_close_matches(str(method), list(METHODS), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown method {method!r}{hint}" if method else "missing"


def _nearest_value(problem: ErrorDetails) -> str:
    expected = str(problem.get("ctx", {}).get("expected", ""))
    allowed = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    close = difflib.get_close_matches(str(problem["input"]), allowed, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _quotes(problem: ErrorDetails) -> str:
    is_word = problem["type"] == "string_type" and isinstance(problem["input"], bool)
    return "; put a word that is meant as text in quotes" if is_word else ""


def _explain_unknown_key(location: Sequence[Any], root: type[BaseModel]) -> str:
    *parents, last = location
    prefix = f"{_dotted(parents)}." if parents else ""
    here = _keys_at(parents, root)
    close = difflib.get_close_matches(str(last), here, n=1)
    elsewhere = [key for key in _all_keys(root) if key.rpartition(".")[2] == last]
    if close:
        hint = f"did you mean {prefix}{close[0]}?"
    elif elsewhere and "branches" not in location:
        hint = f"did you mean {elsewhere[0]}?"
    else:
        hint = f"allowed: {', '.join(here)}"
    return f"{prefix}{last}: unknown key; {hint}"


def _keys_at(location: Sequence[Any], root: type[BaseModel]) -> list[str]:
    models = [root]
    for part in location:
        if part in METHODS:
            models = [METHODS[part]]
        elif isinstance(part, str):
            models = [
                inner
                for model in models
                if part in model.model_fields
                for inner in _models_in(model.model_fields[part].annotation)
            ]
    return sorted({key for model in models for key in model.model_fields})


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        for inner in _models_in(field.annotation):
            yield from _all_keys(inner, f"{prefix}{key}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (tuple, list, typing.Union, types.UnionType, Annotated):
        return [model for part in typing.get_args(annotation) for model in _models_in(part)]
    return []
