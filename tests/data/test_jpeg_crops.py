"""Crops of JPEGs: their quality, and the same bits by any decoder, instruction set and many threads."""

from __future__ import annotations

import platform
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from distlth.data.jpeg.library import CROP
from distlth.data.load import decode
from distlth.data.load.native import JPEG
from tests.data.jpegs import compile_decoder, encode, photos

Bytes = npt.NDArray[np.uint8]
Crop = tuple[int, int, int, int]
BEST_DB = 99.0
CROPS = 25


def crop_by(
    data: bytes,
    size: tuple[int, int],
    crop: Crop,
    resolution: int,
    *,
    mirrored: bool = False,
    by: tuple[str, str] | None = None,
) -> Bytes | None:
    """Return a crop of an image of `size` (height, width), `by` a decoder and an instruction set; None where
    it fails."""
    stored, pixels = np.frombuffer(data, np.uint8), np.zeros((resolution, resolution, 3), np.uint8)
    target = pixels.ctypes.data
    arguments = stored.ctypes.data, len(stored), *size, *crop, mirrored, resolution, target
    if by is None:
        return None if JPEG.distlth_jpeg_crop(*arguments) else pixels
    words = [word.encode() for word in by]
    typed = [kind(value) for kind, value in zip(CROP, arguments, strict=True)]
    return None if JPEG.distlth_jpeg_crop_by(*words, *typed) else pixels


def cropped(data: bytes, image: Bytes, crop: Crop, resolution: int, **how: object) -> Bytes:
    pixels = crop_by(data, image.shape[:2], crop, resolution, **how)  # type: ignore[arg-type]
    assert pixels is not None
    return pixels


def exact(image: Bytes, crop: Crop, resolution: int) -> Bytes:
    """Return a crop of decoded pixels, resized by OpenCV."""
    top, left, height, width = crop
    part = image[top : top + height, left : left + width]
    return np.asarray(cv2.resize(part, (resolution, resolution), interpolation=cv2.INTER_AREA), np.uint8)


def decoded(data: bytes) -> Bytes:
    """Return all pixels of an image, RGB, as libjpeg decodes them."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"), np.uint8)


def decibels(pairs: Iterator[tuple[Bytes, Bytes]]) -> float:
    """Return the peak signal-to-noise ratio of images to others."""
    errors = [np.square(one.astype(np.float64) - other).mean() for one, other in pairs]
    return float(10 * np.log10(255**2 / np.mean(errors))) if any(errors) else BEST_DB


def random_resized(height: int, width: int, number: int, resolution: int) -> Crop:
    """Return a crop as training takes them."""
    return decode.random_resized_crop(height, width, np.uint64(decode.sample_key(np.uint64(1), number)))


def enlarged(height: int, width: int, number: int, resolution: int) -> Crop:
    """Return a crop with fewer pixels than it is to have, down to a seventh."""
    draw = random.Random(number)
    h, w = (draw.randint(resolution // 7, resolution - 1) for _ in range(2))
    return draw.randint(0, height - h), draw.randint(0, width - w), h, w


def centred(height: int, width: int, number: int, resolution: int) -> Crop:
    """Return a crop as evaluation takes them, of one of several ratios."""
    return decode.centre_crop(height, width, (224 / 256, 1.0, 0.7)[number % 3])


@pytest.mark.parametrize("resolution", [224, 160, 128])
@pytest.mark.parametrize("kind", [random_resized, enlarged, centred])
def test_no_quality_is_lost_to_decoding_all_of_an_image_before_it_is_resized(
    kind: object, resolution: int
) -> None:
    for photo in photos():
        data = encode(photo, restart=8)
        image = decoded(data)

        def pairs(image: Bytes = image, data: bytes = data) -> Iterator[tuple[Bytes, Bytes]]:
            for number in range(CROPS):
                crop = kind(*image.shape[:2], number, resolution)  # type: ignore[operator]
                yield cropped(data, image, crop, resolution), exact(image, crop, resolution)

        assert decibels(pairs()) >= 45


def other_kinds() -> Iterator[tuple[str, bytes]]:
    """Yield JPEGs that our decoder does not take, or that are sampled in another way."""
    photo = photos()[0][:101, 200:347]
    rgb = Image.fromarray(photo[..., ::-1].copy())

    def saved(image: Image.Image, **options: object) -> bytes:
        file = BytesIO()
        image.save(file, "JPEG", quality=90, **options)
        return file.getvalue()

    yield "grey", saved(rgb.convert("L"))
    yield "progressive", saved(rgb, progressive=True)
    yield "progressive grey", saved(rgb.convert("L"), progressive=True)
    yield "not transformed", saved(rgb, keep_rgb=True, subsampling=0)
    for sampling in ("444", "422", "440", "411"):
        yield sampling, encode(photo, sampling)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "data"), [pytest.param(*each, id=each[0]) for each in other_kinds()])
def test_other_kinds_of_jpegs_are_read_too(name: str, data: bytes) -> None:
    image = decoded(data)
    pairs = ((0, 0, 101, 147), 32), ((3, 7, 90, 77), 48), ((40, 51, 21, 30), 64), ((100, 146, 1, 1), 5)
    made = ((cropped(data, image, crop, side), exact(image, crop, side)) for crop, side in pairs)
    assert decibels(made) >= 45
    grey = name.endswith("grey")
    assert not grey or np.ptp(cropped(data, image, pairs[0][0], 32), axis=2).max() == 0


def test_what_is_no_jpeg_of_that_size_is_refused() -> None:
    data, size = encode(photos()[0][:64, :80]), (64, 80)
    whole: Crop = (0, 0, 64, 80)
    assert crop_by(data, size, whole, 16) is not None
    cut, other = data[: len(data) // 2], Image.fromarray(photos()[0][:64, :80, 0]).convert("CMYK")
    cmyk = BytesIO()
    other.save(cmyk, "JPEG")
    for broken in (b"", b"no image", cut, data[:-2], cmyk.getvalue()):
        assert crop_by(broken, size, whole, 16) is None
    assert crop_by(data, (80, 64), (0, 0, 10, 10), 16) is None
    for crop in ((0, 0, 65, 80), (-1, 0, 10, 10), (0, 71, 10, 10), (0, 0, 0, 10)):
        assert crop_by(data, size, crop, 16) is None
    assert crop_by(data, size, whole, 0) is None


def test_mirrored_is_reversed() -> None:
    data, image = encode(photos()[1]), photos()[1]
    for number in range(8):
        crop = random_resized(image.shape[0], image.shape[1], number, 0)
        straight = cropped(data, image, crop, 96 + number)
        assert np.array_equal(cropped(data, image, crop, 96 + number, mirrored=True), straight[:, ::-1])


DECODERS, KERNELS = ("baseline", "portable", "turbo"), ("avx2", "portable")
WAYS = [(decoder, kernels) for decoder in DECODERS for kernels in KERNELS]


def test_decoders_and_instruction_sets_give_the_same_bits() -> None:
    draw = random.Random(1)
    has_avx2 = crop_by(encode(photos()[0]), photos()[0].shape[:2], (0, 0, 9, 9), 5, by=WAYS[0]) is not None
    assert has_avx2 or platform.machine() != "x86_64"
    ways = [way for way in WAYS if has_avx2 or way[1] != "avx2"]
    for number in range(40):
        height, width = draw.randint(1, 130), draw.randint(1, 170)
        top, left = draw.randint(0, 250), draw.randint(0, 300)
        image = np.ascontiguousarray(photos()[number % 3][top : top + height, left : left + width])
        sampling = draw.choice(("420", "444", "422", "440"))
        data = encode(image, sampling, draw.randint(30, 100), restart=draw.choice((0, 1, 8)))  # type: ignore[arg-type]
        h, w = draw.randint(1, height), draw.randint(1, width)
        crop = draw.randint(0, height - h), draw.randint(0, width - w), h, w
        resolution, mirrored = draw.randint(1, 100), draw.random() < 0.5
        made = [cropped(data, image, crop, resolution, mirrored=mirrored, by=way) for way in ways]
        made.append(cropped(data, image, crop, resolution, mirrored=mirrored))
        assert all(np.array_equal(one, made[0]) for one in made)


def test_many_threads_decode_at_once() -> None:
    images = [(encode(photo, restart=8), photo) for photo in photos()]
    images.append((encode(photos()[0], progressive=True), photos()[0]))

    def work(number: int) -> Bytes:
        data, image = images[number % len(images)]
        return cropped(
            data, image, random_resized(image.shape[0], image.shape[1], number, 0), 32 + number % 50
        )

    alone = [work(number) for number in range(120)]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, pool.map(work, range(120)), alone))


def test_long_and_thin_images_are_averaged_exactly() -> None:
    """Thousands of samples an output: no buffer is too small, and no rounding adds up."""
    for shape in ((3, 30_000), (30_000, 2)):
        ramp = np.linspace(0, 255, max(shape)).reshape((-1, 1) if shape[0] > shape[1] else (1, -1))
        image = np.repeat((np.zeros(shape) + ramp)[..., None], 3, axis=2).astype(np.uint8)
        data = encode(image, quality=100)
        made = cropped(data, image, (0, 0, *shape), 2).astype(int)
        assert abs(made - exact(decoded(data), (0, 0, *shape), 2)).max() <= 1


def test_random_planes_are_resampled_clean_under_sanitizers() -> None:
    """Nothing is read or written out of bounds, nothing overflows; the instruction sets agree."""
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    main, parts = (
        Path(__file__).parent / "random_planes.cpp",
        ("resample", "kernels_portable", "kernels_avx2"),
    )
    driver = compile_decoder("random_planes", main, flags=flags, parts=parts)
    done = subprocess.run([driver, "2000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
