"""Files and folders that are complete or absent: written to a temporary name, fsynced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distlth.errors import RunError

if TYPE_CHECKING:  # commands that only read text, such as `distlth status`, should not wait for torch
    from torch import Tensor

FIRST_PAUSE_SECONDS = 1.0

# More than any document of a run, and than any log of one, that others could make us read.
SMALL_BYTES, LOG_BYTES = 1 << 26, 1 << 30


def regular(path: str, flags: int) -> int:
    """Open a regular file, as an `opener` of Python's `open`: OSError for any other, without waiting for it.

    In a folder that others share, a file may be a FIFO, which waits for a writer, or a device without end.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def read_small(path: Path, limit: int = SMALL_BYTES, *, own: bool = False) -> str:
    """Return the text of a regular file of at most `limit` bytes.

    With `own` it must be no link, and belong to this user: for folders in which anybody may write.

    Raises:
        OSError: it is missing, cannot be read, or is another kind of file.
        UnicodeDecodeError: it is no text.
    """
    flags = os.O_NOFOLLOW if own else 0
    with open(path, "rb", buffering=0, opener=lambda name, mode: regular(name, mode | flags)) as file:
        if own and os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to another user", str(path))
        text = file.read(limit + 1) or b""
    if len(text) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return text.decode("utf8")


# A file that another node has written is there, or the run is damaged: more than network file systems need.
APPEAR_SECONDS, APPEAR_POLL_SECONDS = 30.0, 0.5


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` on success; remove it on an error.

    With `durable`, the bytes and the rename are on disk when the context ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            _fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None  # the name that the caller knows
        raise
    if durable:
        _fsync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside `path`; on success it takes the place of `path`, whole and on disk.

    What is at `path` is removed only then. What a killed writer left beside it is removed first, so only one
    process may write `path` at a time: one that was thought dead finds its folder gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in _unfinished(path):
        shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, files in os.walk(temporary):
            for name in (*files, "."):
                _fsync(Path(folder, name))
        _publish(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unfinished(path: Path) -> list[Path]:
    """Return the folders that killed writers of `path` left beside it."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}}\.)?tmp")
    return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished folder its name. The old folder of that name is out of the way, then gone."""
    old = path.with_name(f".{path.name}.old.tmp")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
    os.replace(temporary, path)
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def file_system_time(folder: Path) -> float:
    """Return the time by the clock that dates the files of a folder: on network file systems, the server's.

    Raises:
        OSError: nothing can be written there.
    """
    now = folder / f".{secrets.token_hex(4)}.now"
    try:
        now.touch()
        return now.stat().st_mtime
    finally:
        now.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files that killed writers left below a folder. Nobody may be writing there."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` completely or not at all."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf8")


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a JSON document completely or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    """Return the JSON document in a file; RunError if it is not valid JSON, or cannot be read."""
    try:
        return json.loads(read_small(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{path}: not valid JSON ({error}); restore the file or remove it") from None


def exists(path: Path) -> bool:
    """Return whether a file or folder is there, also where another node has just made it.

    An NFS client believes for half a minute that a file is absent which it looked for before it was written.
    Listing the folder that it is in makes the client ask the server again.
    """
    return path.exists() or _is_listed(path)


def entries(folder: Path) -> list[Path]:
    """Return the content of a folder in order, with what other nodes have put there; none of no folder."""
    try:
        return sorted(folder.iterdir()) if exists(folder) else []
    except FileNotFoundError:  # removed since
        return []


def await_file(path: Path, seconds: float | None = None) -> Path:
    """Return the path of a file that must be there, once it is; RunError if it is not within `seconds`."""
    deadline = time.monotonic() + (APPEAR_SECONDS if seconds is None else seconds)
    while not exists(path):
        if time.monotonic() > deadline:
            raise RunError(f"{path}: no such file")
        time.sleep(APPEAR_POLL_SECONDS)
    return path


def _is_listed(path: Path) -> bool:
    """List the folder of a path, and those that lead to it where that seems to be absent itself."""
    try:
        return path.name in os.listdir(path.parent)
    except FileNotFoundError:
        return path.parent != path and _is_listed(path.parent) and path.exists()
    except OSError:
        return False


def append_json(path: Path, value: Any) -> None:
    """Append one JSON line in a single write; OSError if it does not fit, with no part of it left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(value) + "\n").encode()
    with open(path, "ab", buffering=0, opener=regular) as file:
        written = file.write(line)
        if written < len(line):  # the disk is full
            file.truncate(file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def retry_until_written(write: Callable[[], None], failed: Callable[[OSError, float], None]) -> None:
    """Call `write` until it raises no OSError: for results that a full disk must not lose.

    After each failure, call `failed` with the error and the seconds until the next try, at most 60.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return write()
        except OSError as error:
            failed(error, pause)
            time.sleep(pause)
            pause = min(2 * pause, 60.0)


def read_json_lines(path: Path) -> list[Any]:
    """Return the values of a file of JSON lines; skip a last line that is half-written. No file is empty.

    Raises:
        RunError: a whole line is not valid JSON, or the file cannot be read.
    """
    if not exists(path):
        return []
    try:
        *whole, _ = read_small(path, LOG_BYTES).split("\n")
        return [json.loads(line) for line in whole if line]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}); restore the file or remove it") from None


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    digest: str | None = None,
) -> None:
    """Write CPU tensors with their digest as a safetensors file, completely or not at all.

    `digest` is theirs, where the caller knows it: to compute it takes as long as to write them.
    """
    with replacing(path) as temporary:
        # Not save_file: it ignores the umask, and a group may share the run directory.
        temporary.write_bytes(serialize_tensors(tensors, metadata, digest))


def serialize_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, digest: str | None = None
) -> bytes:
    """Return the content of a safetensors file of CPU tensors, with their digest; `load_tensors` reads it."""
    from safetensors.torch import save as serialize

    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return serialize(whole, metadata={**(metadata or {}), "digest": digest or tensors_digest(whole)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file; RunError if it is missing, cut or altered."""
    from safetensors import SafetensorError, safe_open

    try:
        os.close(regular(str(path), os.O_RDONLY))  # safe_open would wait for a FIFO
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except PermissionError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: damaged ({error})") from None
    if metadata.pop("digest", None) != tensors_digest(tensors):
        raise RunError(f"{path}: damaged (its content does not match its digest)")
    return tensors, metadata


def format_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file of CPU tensors, without a digest; for `parse_tensors`."""
    from safetensors.torch import save as serialize

    return serialize({name: tensor.contiguous() for name, tensor in tensors.items()})


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file given as bytes."""
    from safetensors.torch import load as safetensors_load

    return safetensors_load(content)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the BLAKE2b digest (16 bytes, hex) of names, dtypes, shapes and bytes, in order of names."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
