"""Reading job files: YAML, a user's defaults and overrides, checked against the schema."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from distlth.config.documents import parse_yaml, read_mapping
from distlth.config.explain import explain
from distlth.config.schema import ClusterSection, RunConfig
from distlth.errors import ConfigError
from distlth.options import Section

Model = TypeVar("Model", bound=Section)

SECTIONS = "a mapping of sections (data, model, train, prune)"


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a job file and apply overrides such as `train.epochs=3`.

    Raises:
        ConfigError: one line that names the key, what is allowed and the nearest right spelling.
    """
    return parse_config(read_job(path, overrides), source=str(path))


def read_job(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A job file's content with overrides applied, not checked yet; ConfigError where it is no mapping."""
    try:
        document = read_mapping(path, SECTIONS)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such job file{_similar_files(path)}") from None
    override(document, overrides)
    return document


def override(document: dict[str, Any], overrides: Sequence[str]) -> tuple[str, ...]:
    """Apply overrides such as `train.epochs=3` to a job file's content; returns their keys."""
    return tuple(_apply(document, text) for text in overrides)


def parse_config(document: Mapping[str, Any], source: str) -> RunConfig:
    """Check a document; `source` is named in errors."""
    return _parse(RunConfig, document, source)


def parse_cluster(document: Mapping[str, Any], source: str) -> ClusterSection:
    """Check the content of a `cluster:` section by itself; `source` is named in errors."""
    return _parse(ClusterSection, document, source)


def load_site(path: Path) -> dict[str, Any]:
    """A user's defaults for the `cluster:` section of every job file; nothing where there is no file.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    try:
        document = read_mapping(path, "a mapping of keys of the section cluster")
    except FileNotFoundError:
        return {}
    parse_cluster(document, str(path))
    return document


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section; lists and values are replaced."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = merge(below[key], above[key])
    return merged


def _parse(model: type[Model], document: Mapping[str, Any], source: str) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = error.errors()
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{source}: {explain(problems[0], model)}{more}") from None


def _similar_files(path: Path) -> str:
    beside = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


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


def put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key of a job file's content; ConfigError where no section can hold it."""
    *parents, last = key.split(".")
    target: Any = document
    for parent in parents:
        target = _descend(target, parent, key)
    if isinstance(target, list):
        target[_index(target, last, key)] = value
    else:
        target[last] = value


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
