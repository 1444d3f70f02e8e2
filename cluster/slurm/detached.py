"""Work in a process that outlives the shell it was started from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_new_session(work: Callable[[], Any], directory: Path, log: Path) -> Any:
    """Call `work` in a forked process with a session, a working directory and a log file of its own.

    Return what it returns, passed through JSON.

    Raises:
        OSError: as `work` raised it.
        RuntimeError: `work` raised something else; has its text.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            _redirect(log)
            os.chdir(directory)
            answer = {"returned": work()}
        except OSError as error:
            answer = {"failed": [error.errno, error.strerror, error.filename]}
        except BaseException as error:
            answer = {"raised": repr(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf8") as file:
        answer = json.loads(file.read())
    os.waitpid(child, 0)
    if "failed" in answer:
        raise OSError(*answer["failed"])
    if "raised" in answer:
        raise RuntimeError(answer["raised"])
    return answer["returned"]


def _redirect(log: Path) -> None:
    """Take this process's input from nowhere, and append its output to `log`."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
