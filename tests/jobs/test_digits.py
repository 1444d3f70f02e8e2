"""The quick start's images: all of them, split evenly over the classes, the same files every time."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from jobs.digits import main, write_digits


def test_the_split_is_whole_stratified_and_repeatable(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert write_digits(first) == write_digits(second) == 1797
    files = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    assert files == sorted(path.relative_to(second) for path in second.rglob("*.png"))
    assert sorted(int(path.stem) for path in files) == list(range(1797))
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files[::50])
    val = Counter(path.parts[1] for path in files if path.parts[0] == "val")
    assert sum(val.values()) == 360
    assert sorted(val) == [str(digit) for digit in range(10)]
    assert max(val.values()) - min(val.values()) <= 2


def test_images_are_rgb_of_the_asked_size_and_use_the_full_range(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", size=24)
    image = Image.open(next((tmp_path / "digits" / "train" / "0").iterdir()))
    assert (image.mode, image.size) == ("RGB", (24, 24))
    low, high = image.convert("L").getextrema()
    assert low == 0
    assert high == 255


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    assert write_digits(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["file/digits"], "file/digits: cannot be written ([Errno 17] File exists: "),
        (["digits", "--num-val", "9"], "size 16, num-val 9: expected at least 1 pixel, 10..1787 images"),
        (["digits", "--size", "0"], "size 0, num-val 360: expected at least 1 pixel"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path / more[0]), *more[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
