"""Our decoder of baseline JPEGs: libturbojpeg's planes to the bit, or a refusal."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.jpegs import (
    ROOT,
    Bytes,
    Crop,
    Library,
    Part,
    Planes,
    Sampling,
    compile_decoder,
    encode,
    photos,
    turbo_planes,
    write_blocks,
)

TESTS = Path(__file__).parent
SAMPLINGS: tuple[Sampling, ...] = ("444", "422", "440", "420")
MCU: dict[Sampling, tuple[int, int]] = {"444": (8, 8), "422": (8, 16), "440": (16, 8), "420": (16, 16)}
SIZES = ((1, 1), (1, 45), (67, 1), (8, 8), (16, 16), (17, 33), (31, 48), (67, 45))


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(compile_decoder("decoder.so", TESTS / "jpeg_driver.cpp", flags=("-O2", "-shared")))


def _piece(image: Bytes, size: tuple[int, int], draw: random.Random) -> Bytes:
    """Return a piece of an image that begins anywhere."""
    top, left = (draw.randint(0, whole - part) for whole, part in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]


def _any_crop(size: tuple[int, int], draw: random.Random) -> Crop:
    height, width = (draw.randint(1, side) for side in size)
    return draw.randint(0, size[0] - height), draw.randint(0, size[1] - width), height, width


def _assert_within(part: Part | None, whole: Planes, mcu: tuple[int, int]) -> None:
    """Check that these samples are those of the whole image from where they begin."""
    assert part is not None
    assert part.top % mcu[0] == 0
    assert part.left % mcu[1] == 0
    for i, (found, plane) in enumerate(zip(part.planes, whole, strict=True)):
        down, across = (mcu[0] // 8, mcu[1] // 8) if i else (1, 1)
        wanted = plane[part.top // down :, part.left // across :]
        np.testing.assert_array_equal(found, wanted[: found.shape[0], : found.shape[1]])


def _assert_decoded(
    library: Library, jpeg: bytes, size: tuple[int, int], mcu: tuple[int, int], *crops: Crop
) -> None:
    whole = turbo_planes(jpeg)
    assert whole is not None
    for crop in crops:
        for portable in (False, True):
            status, part = library.decode(jpeg, size, crop, portable=portable)
            assert status == "decoded"
            _assert_within(part, whole, mcu)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_any_size_and_crop(library: Library, sampling: Sampling) -> None:
    draw, mcu = random.Random(sampling), MCU[sampling]
    for photo in photos():
        for size in SIZES:
            row = -(-size[1] // mcu[1])
            for restart in (0, 1, 4, 8, row, 2 * row + 1, 10_000):
                piece = _piece(photo, size, draw)
                jpeg = encode(
                    piece, sampling, draw.randint(10, 100), restart=restart, optimise=draw.random() < 0.5
                )
                _assert_decoded(library, jpeg, size, mcu, (0, 0, *size), _any_crop(size, draw))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_whole_photos(library: Library, sampling: Sampling) -> None:
    draw = random.Random(sampling)
    for photo in photos():
        size = (photo.shape[0], photo.shape[1])
        for quality, restart, optimise in ((10, 0, False), (75, 8, True), (90, 7, False), (100, 0, True)):
            jpeg = encode(photo, sampling, quality, restart=restart, optimise=optimise)
            crops = (0, 0, *size), *(_any_crop(size, draw) for _ in range(3))
            _assert_decoded(library, jpeg, size, MCU[sampling], *crops)


def test_a_crop_takes_the_pixels_around_it_that_upsampling_needs(library: Library) -> None:
    jpeg = encode(photos()[0][:96, :96])
    for crop, (top, left, height, width) in {
        (18, 34, 12, 12): (16, 32, 16, 16),
        (17, 33, 1, 1): (0, 16, 32, 32),
        (31, 47, 1, 1): (16, 32, 32, 32),
        (0, 0, 96, 96): (0, 0, 96, 96),
    }.items():
        _, part = library.decode(jpeg, (96, 96), crop)
        assert part is not None
        assert (part.top, part.left, *part.planes[0].shape) == (top, left, height, width)


@pytest.mark.parametrize("code_bits", [8, 16])
def test_extreme_coefficients(library: Library, code_bits: int) -> None:
    """They become libturbojpeg's samples, or are refused where its 16 bits would overflow."""
    draw, statuses = np.random.default_rng(code_bits), []
    for largest in (30, 300, 1000) * 40:
        steps = draw.integers(1, draw.integers(2, 256), 64)
        blocks = draw.integers(-largest, largest + 1, (3, 64)) * (draw.random((3, 64)) < draw.random())
        jpeg = write_blocks(blocks, steps, code_bits)
        status, _ = library.decode(jpeg, (8, 8))
        assert library.decode(jpeg, (8, 8), portable=True)[0] == status
        statuses.append(status)
        if status == "decoded":
            _assert_decoded(library, jpeg, (8, 8), (8, 8), (0, 0, 8, 8))
    assert {*statuses} == {"decoded", "damaged"}


# What follows is done to this: 5 x 4 MCUs in segments of 3.
SIZE = (64, 80)
JPEG = encode(photos()[1][100:164, 100:180], restart=3)
SOI, SOF0, DHT, DQT, DRI, SOS, DNL, EOI = (
    bytes((0xFF, code)) for code in b"\xd8\xc0\xc4\xdb\xdd\xda\xdc\xd9"
)
APP0, ADOBE = JPEG.index(b"\xff\xe0"), b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def _changed(at: int, new: bytes, old: int | None = None) -> bytes:
    """Return the JPEG with other bytes at a place, in place of so many (default: as many)."""
    return JPEG[:at] + new + JPEG[at + (len(new) if old is None else old) :]


def _frame(offset: int) -> int:
    """Return a place in the frame header: 4 has the bits of a sample, 5 height, 7 width, 9 components."""
    return JPEG.index(SOF0) + offset


def _scan(offset: int) -> int:
    return JPEG.index(SOS) + offset


def _without(marker: bytes) -> bytes:
    """Return the JPEG without its segments of a marker."""
    head, data = JPEG[: _scan(0)], JPEG[_scan(0) :]
    while marker in head:
        at = head.index(marker)
        head = head[:at] + head[at + 2 + int.from_bytes(head[at + 2 : at + 4]) :]
    return head + data


def _ids(ids: bytes) -> bytes:
    """Return the JPEG without a JFIF marker and with these component ids."""
    jpeg = bytearray(_without(b"\xff\xe0"))
    for i, one in enumerate(ids):
        jpeg[jpeg.index(SOF0) + 10 + 3 * i] = jpeg[jpeg.index(SOS) + 5 + 2 * i] = one
    return bytes(jpeg)


WIDE_STEPS = DQT + (3 + 128).to_bytes(2) + b"\x10" + bytes(127) + b"\x01"
OTHER_KINDS: dict[str, Callable[[], bytes]] = {
    "progressive": lambda: encode(photos()[1][:64, :80], progressive=True),
    "extended sequential": lambda: _changed(_frame(1), b"\xc1"),
    "lossless": lambda: _changed(_frame(1), b"\xc3"),
    "arithmetic coding": lambda: _changed(_frame(1), b"\xc9"),
    "arithmetic conditioning": lambda: _changed(_scan(0), b"\xff\xcc\x00\x04\x00\x00", 0),
    "12 bits": lambda: _changed(_frame(4), b"\x0c"),
    "a height that follows": lambda: _changed(_frame(5), b"\x00\x00"),
    "a DNL marker": lambda: JPEG[:-2] + DNL + b"\x00\x04\x00\x40" + EOI,
    "steps of 16 bits": lambda: _changed(_frame(0), WIDE_STEPS, 0),
    "no Huffman tables": lambda: _without(DHT),
    "grey": lambda: encode(photos()[1][:64, :80, :1]),
    "4:1:1": lambda: encode(photos()[1][:64, :80], "411"),  # type: ignore[arg-type]
    "chroma of more samples": lambda: _changed(_frame(14), b"\x22"),
    "a scan for each component": lambda: _changed(_scan(0), SOS + b"\x00\x08\x01\x01\x00\x00\x3f\x00", 0),
    "another scan": lambda: JPEG[:-2] + JPEG[_scan(0) :],
    "Adobe's RGB": lambda: _changed(APP0, ADOBE + b"\x00", 0),
    "Adobe's YCCK": lambda: _changed(APP0, ADOBE + b"\x02", 0),
    "components R, G and B": lambda: _ids(b"RGB"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_left_to_libturbojpeg(library: Library, kind: str) -> None:
    assert library.decode(OTHER_KINDS[kind](), SIZE) == ("other kind", None)


SAME: dict[str, Callable[[], bytes]] = {
    "no JFIF marker": lambda: _without(b"\xff\xe0"),
    "other ids": lambda: _ids(b"\x00\x07\xff"),
    "Adobe's YCbCr": lambda: _changed(2, ADOBE + b"\x01", 0),
    "a comment and an unknown application": lambda: _changed(2, b"\xff\xfe\x00\x03c\xff\xe5\x00\x02", 0),
    "fill bytes before markers": lambda: (
        _changed(_scan(0), b"\xff\xff", 0)[:-2].replace(b"\xff\xd1", b"\xff\xff\xff\xd1") + b"\xff" + EOI
    ),
    "bytes after its end": lambda: JPEG + b"\xff\xd0more",
    "a table once more": lambda: _changed(_scan(0), _chroma_means(12), 0),
    "a table that another replaces": lambda: _changed(2, DQT + b"\x00\x43\x00" + b"\x01" * 64, 0),
}


@pytest.mark.parametrize("change", SAME)
def test_what_libjpeg_does_not_mind(library: Library, change: str) -> None:
    jpeg = SAME[change]()
    _assert_decoded(library, jpeg, SIZE, (16, 16), (0, 0, *SIZE))


def _chroma_means(symbols: int) -> bytes:
    """Return chroma's common table of DC coefficients, of 12 symbols, or one with a code of ones."""
    counts = bytes((0, 3, 1, 1, 1, 1, 1, 1, 1, 1, symbols - 11, 0, 0, 0, 0, 0))
    return DHT + (19 + symbols).to_bytes(2) + b"\x01" + counts + bytes(range(symbols))


def _more_in_a_segment() -> bytes:
    at = JPEG.index(b"\xff\xd2")
    return _changed(at, b"\x00", 0)


DAMAGED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no SOI": lambda: JPEG[2:],
    "two SOI": lambda: SOI + JPEG,
    "bytes between markers": lambda: _changed(APP0, b"\x00", 0),
    "an unknown marker": lambda: _changed(APP0, b"\xff\xf3\x00\x02", 0),
    "a restart marker in the header": lambda: _changed(APP0, b"\xff\xd0", 0),
    "no frame": lambda: _without(SOF0),
    "two frames": lambda: _changed(_frame(0), JPEG[_frame(0) : _frame(19)], 0),
    "no width": lambda: _changed(_frame(7), b"\x00\x00"),
    "a frame of another length": lambda: _changed(_frame(9), b"\x02"),
    "equal ids": lambda: _changed(_frame(13), JPEG[_frame(10) : _frame(11)]),
    "quantisation table 4": lambda: _changed(_frame(12), b"\x04"),
    "no quantisation tables": lambda: _without(DQT),
    "a step of 0": lambda: _changed(JPEG.index(DQT) + 5, b"\x00"),
    "a short quantisation table": lambda: _changed(_frame(0), DQT + b"\x00\x42\x00" + b"\x01" * 63, 0),
    "Huffman table 4": lambda: _changed(JPEG.index(DHT) + 4, b"\x04"),
    "a class of Huffman tables": lambda: _changed(JPEG.index(DHT) + 4, b"\x20"),
    "more symbols than bytes": lambda: _changed(JPEG.index(DHT) + 20, b"\xf0"),
    "more codes than a length has": lambda: _changed(JPEG.index(DHT) + 5, b"\x03\x00\x00"),
    "a code of ones alone": lambda: _changed(_scan(0), _chroma_means(13), 0),
    "a symbol of more than 15 bits": lambda: _changed(JPEG.index(DHT) + 21 + 11, b"\x10"),
    "a scan of other components": lambda: _changed(_scan(5), b"\x02\x00\x01"),
    "a scan of a part of the spectrum": lambda: _changed(_scan(12), b"\x3e"),
    "a scan of some bits": lambda: _changed(_scan(13), b"\x10"),
    "a long restart interval": lambda: _changed(JPEG.index(DRI) + 3, b"\x05\x00\x03\x00", 3),
    "more segments than MCUs": lambda: _changed(JPEG.index(DRI) + 5, b"\x04"),
    "fewer segments than MCUs": lambda: _changed(JPEG.index(DRI) + 5, b"\x02"),
    "restart markers without an interval": lambda: _without(DRI),
    "restart markers in another order": lambda: JPEG.replace(b"\xff\xd1", b"\xff\xd2"),
    "a byte too many in a segment": _more_in_a_segment,
    "a byte too few in a segment": lambda: _changed(JPEG.index(b"\xff\xd2") - 1, b"", 1),
    "no EOI": lambda: JPEG[:-2],
    "only a part of EOI": lambda: JPEG[:-1],
    "another marker in the data": lambda: _changed(_scan(40), b"\xff\xe1"),
    "a code that does not exist": lambda: _changed(_scan(14), b"\xff\x00" * 4),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_refused(library: Library, damage: str) -> None:
    assert library.decode(JPEG, SIZE)[0] == "decoded"
    for portable in (False, True):
        assert library.decode(DAMAGED[damage](), SIZE, portable=portable) == ("damaged", None)


def test_an_image_of_another_size_is_refused(library: Library) -> None:
    for size in ((63, 80), (64, 81), (80, 64)):
        assert library.decode(JPEG, size, (0, 0, 8, 8)) == ("damaged", None)


def test_no_part_of_an_image_is_taken_for_the_whole(library: Library) -> None:
    for jpeg in (JPEG, encode(photos()[0][:40, :40], "422", optimise=True)):
        size = SIZE if jpeg is JPEG else (40, 40)
        for length in range(len(jpeg)):
            assert library.decode(jpeg[:length], size, (0, 0, 8, 8)) == ("damaged", None)


def test_segments_that_a_crop_does_not_need_are_not_touched(library: Library) -> None:
    last = JPEG.rindex(b"\xff\xd5") + 2
    spoilt = _changed(last, b"\xfe" * (len(JPEG) - 2 - last))
    assert library.decode(spoilt, SIZE)[0] == "damaged"
    assert library.decode(spoilt, SIZE, (0, 0, 30, 80))[0] == "decoded"


def test_corrupted_images_run_clean_under_sanitizers() -> None:
    """Neither transform reads or writes beyond its memory, whatever the bytes; both say the same of them."""
    sanitizers = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DCORRUPT")
    program = compile_decoder("corrupt", TESTS / "fuzz_jpeg.cpp", flags=sanitizers)
    corpus = sorted(str(path) for path in (TESTS / "jpeg-corpus").iterdir())
    done = subprocess.run([program, "100", *corpus], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
