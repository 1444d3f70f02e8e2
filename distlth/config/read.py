"""Reading job files and a user's defaults from disk, and checking them against the schema."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from distlth.config.documents import override, parse_yaml
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
    """Return a job file's document with overrides applied, not checked yet.

    Raises:
        ConfigError: there is no such file, it holds no mapping, or an override cannot be applied.
    """
    try:
        document = _read_mapping(path, SECTIONS)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such job file{_similar_files(path)}") from None
    override(document, overrides)
    return document


def load_site(path: Path) -> dict[str, Any]:
    """Return a user's defaults for the `cluster:` section of every job file; empty if the file is missing.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    try:
        document = _read_mapping(path, "a mapping of keys of the section cluster")
    except FileNotFoundError:
        return {}
    parse_cluster(document, str(path))
    return document


def parse_config(document: Mapping[str, Any], source: str) -> RunConfig:
    """Return a document as a checked config; ConfigErrors name `source`."""
    return _parse(RunConfig, document, source)


def parse_cluster(document: Mapping[str, Any], source: str) -> ClusterSection:
    """Return the content of a `cluster:` section as a checked value; ConfigErrors name `source`."""
    return _parse(ClusterSection, document, source)


def _parse(model: type[Model], document: Mapping[str, Any], source: str) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = error.errors()
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{source}: {explain(problems[0], model)}{more}") from None


def _read_mapping(path: Path, content: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; `content` says in errors what the file should hold.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: one line that says why the file is not what it should be.
    """
    try:
        document = parse_yaml(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}), expected {content}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected {content}, got {document!r}")
    return document


def _similar_files(path: Path) -> str:
    beside = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
