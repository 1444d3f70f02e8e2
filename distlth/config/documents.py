"""YAML documents, read as people mean them."""

from __future__ import annotations

import re
from pathlib import Path
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
    """The value that a YAML text stands for; yaml.YAMLError where it stands for none."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_mapping(path: Path, content: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; `content` says in errors what belongs there.

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
