"""The view that a client of a network file system has of a folder: a file that it did not find stays absent.

An NFS client remembers for half a minute that a name was absent, and asks the server again once it has listed
the name's folder or has made the name itself. The view does the same to what Python does to files below one
folder. What other clients do is done in `elsewhere`, or in another process.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 30.0


class StaleView:
    """One client's view of what lies below `folder`."""

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self.folder, self.seconds = os.path.abspath(folder), seconds
        self.absent: dict[str, float] = {}
        self.misled = 0
        self._is_here = True
        self._real: dict[tuple[Any, str], Callable[..., Any]] = {}

    def install(self) -> None:
        """Replace the functions by which Python looks for files, lists them and makes them."""
        for name in ("stat", "lstat"):
            self._wrap(os, name, self._looking)
        for name in ("listdir", "scandir"):
            self._wrap(os, name, self._listing)
        for name in ("mkdir", "replace", "rename"):
            self._wrap(os, name, self._making)
        self._wrap(os, "open", self._opening)
        self._wrap(io, "open", self._opening)
        builtins.open = io.open

    def remove(self) -> None:
        """Put the functions back."""
        for (owner, name), function in self._real.items():
            setattr(owner, name, function)
        builtins.open = io.open

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Do what follows on another client."""
        self._is_here = False
        try:
            yield
        finally:
            self._is_here = True

    def _wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        real = self._real[owner, name] = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            paths = [path for path in map(self._below, arguments[:2]) if path] if self._is_here else []
            return around(real, paths, arguments, named) if paths else real(*arguments, **named)

        setattr(owner, name, wrapped)

    def _looking(self, real: Callable[..., Any], paths: list[str], arguments: Any, named: Any) -> Any:
        self._resolve(paths[0])
        try:
            return real(*arguments, **named)
        except FileNotFoundError:
            self._remember(paths[0])
            raise

    def _listing(self, real: Callable[..., Any], paths: list[str], arguments: Any, named: Any) -> Any:
        found = self._looking(real, paths, arguments, named)
        self.absent = {path: at for path, at in self.absent.items() if os.path.dirname(path) != paths[0]}
        return found

    def _making(self, real: Callable[..., Any], paths: list[str], arguments: Any, named: Any) -> Any:
        result = real(*arguments, **named)
        for path in paths:
            self.absent.pop(path, None)
        return result

    def _opening(self, real: Callable[..., Any], paths: list[str], arguments: Any, named: Any) -> Any:
        mode = arguments[1] if len(arguments) > 1 else named.get("mode", named.get("flags", "r"))
        is_new = mode & os.O_CREAT if isinstance(mode, int) else set(mode) & set("wax")
        return (self._making if is_new else self._looking)(real, paths, arguments, named)

    def _below(self, path: Any) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.path.abspath(os.fsdecode(path))
        return text if f"{text}/".startswith(f"{self.folder}/") else None

    def _resolve(self, path: str) -> None:
        """Raise FileNotFoundError where this client believes that the path, or a folder of it, is absent."""
        for part in _parts(path):
            at = self.absent.get(part)
            if at is not None and time.monotonic() - at < self.seconds:
                self.misled += 1
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _remember(self, path: str) -> None:
        """Remember the first part of the path that is not there."""
        lstat = self._real[os, "lstat"]
        for part in _parts(path):
            try:
                lstat(part)
            except FileNotFoundError:
                self.absent[part] = time.monotonic()
                return


def _parts(path: str) -> list[str]:
    """Return a path and the folders above it, the outermost first."""
    return [str(part) for part in (*reversed(Path(path).parents), Path(path))]
