"""Files that are complete or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distlth.errors import RunError
from distlth.files import (
    append_json,
    load_tensors,
    read_json_lines,
    remove_temporaries,
    replacing,
    replacing_folder,
    save_tensors,
    tensors_digest,
    write_text,
)

TENSORS = {
    "b": torch.arange(6).reshape(2, 3),
    "a": torch.tensor(2.5),
    "h": torch.ones(3, dtype=torch.bfloat16),
}


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", TENSORS, {"step": "3"})
    tensors, metadata = load_tensors(tmp_path / "t")
    assert metadata == {"step": "3"}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert {tensor.dtype for tensor in tensors.values()} == {t.dtype for t in TENSORS.values()}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_told_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t"
    save_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-4]), "empty": b""}[damage])
    with pytest.raises(RunError, match=f"{path}: damaged"):
        load_tensors(path)


def test_the_digest_depends_on_every_part() -> None:
    base = {"a": torch.zeros(4)}
    others = [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.tensor([0.0, 0.0, 0.0, -0.0])},
    ]
    assert len({tensors_digest(tensors) for tensors in [base, *others]}) == 5
    assert tensors_digest(dict(reversed(TENSORS.items()))) == tensors_digest(TENSORS)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from distlth.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_folder_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for text in ("old", "new"):
        with replacing_folder(path) as temporary:
            (temporary / "below").mkdir()
            (temporary / "below" / text).write_text(text)
            assert not (path / "below" / text).exists()
    assert [file.name for file in path.rglob("*")] == ["below", "new"]

    with pytest.raises(ZeroDivisionError), replacing_folder(path) as temporary:
        raise ZeroDivisionError
    assert [file.name for file in path.rglob("*")] == ["below", "new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_of_a_folder_left_is_not_in_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from distlth.files import replacing_folder\n"
        "with replacing_folder(Path(sys.argv[1])) as t:\n"
        "    (t / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "folder").exists()
    with replacing_folder(tmp_path / "folder") as temporary:
        assert list(temporary.iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_json(path, {"a": 1})
    append_json(path, {"a": 2})
    with open(path, "ab") as file:
        file.write(b'{"a": 3')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    assert read_json_lines(tmp_path / "none") == []


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_tensors(tmp_path / "t", TENSORS)
    finally:
        os.umask(before)
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o640


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / "rounds" / "00" / "result.json", tmp_path / ".lock"]
    left = [tmp_path / ".a.1.tmp", tmp_path / "rounds" / "00" / ".result.json.12.tmp"]
    left.append(tmp_path / ".events.x.tmp" / "file")
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_temporaries(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    assert not left[-1].parent.exists()
