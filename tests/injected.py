"""Change a module in every process of a run, by a file that Python runs at its start."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent

AFTER_IMPORT = """
import importlib.abc, importlib.machinery, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {name!r}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
{change}
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def inject(folder: Path, name: str, change: str) -> str:
    """Have processes run `change`, where `module` is the module of that name, right after its import.

    Returns the PYTHONPATH for them; modules that `change` imports may be put into `folder`.
    """
    folder.mkdir()
    body = textwrap.indent(textwrap.dedent(change).strip(), 12 * " ")
    (folder / "sitecustomize.py").write_text(AFTER_IMPORT.format(name=name, change=body))
    return os.pathsep.join([str(folder), str(ROOT)])
