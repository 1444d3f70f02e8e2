"""Write scikit-learn's 1,797 handwritten digits as an ImageFolder: python -m jobs.digits DIR."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from distlth.errors import DataError
from distlth.files import replacing_folder
from distlth.report.ending import exit_code
from jobs.arguments import path_given

BRIGHTEST = 16  # the digits have 17 grey levels, 0..16, on 8 x 8 pixels


def write_digits(target: Path, *, size: int = 16, num_val: int = 360, seed: int = 0) -> int:
    """Write `target`/train/CLASS/NNNN.png and `target`/val/CLASS/NNNN.png; return the number of images.

    The images are RGB, `size` x `size`, smoothly enlarged; NNNN is the digit's index in the original set.
    The split is stratified, and depends on `seed` alone. A `target` that exists is left as it is (0 is
    returned); a new one appears only when it is whole.
    """
    if target.exists():
        return 0
    from sklearn.datasets import load_digits  # takes a second, which the quick start need not wait for again
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    count, classes = len(digits.target), len(digits.target_names)
    if size < 1 or not classes <= num_val <= count - classes:
        raise DataError(
            f"size {size}, num-val {num_val}: expected at least 1 pixel, {classes}..{count - classes} images"
        )
    _, val = train_test_split(
        np.arange(len(digits.target)), test_size=num_val, stratify=digits.target, random_state=seed
    )
    in_val = set(val.tolist())
    with replacing_folder(target) as root:
        for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            folder = root / ("val" if index in in_val else "train") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            _enlarge(pixels, size).save(folder / f"{index:04d}.png")
    return len(digits.target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.digits", description=__doc__)
    parser.add_argument("target", type=path_given, metavar="DIR", help="the folder to write")
    parser.add_argument("--size", type=int, default=16, help="edge of the images in pixels")
    parser.add_argument("--num-val", type=int, default=360, help="images of the validation split")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _write(options))


def _write(options: argparse.Namespace) -> int:
    try:
        written = write_digits(options.target, size=options.size, num_val=options.num_val, seed=options.seed)
    except OSError as error:
        raise DataError(f"{options.target}: cannot be written ({error})") from None
    print(f"{options.target}: {written} digits written" if written else f"{options.target}: there already")
    return 0


def _enlarge(pixels: npt.NDArray[np.float64], size: int) -> Image.Image:
    grey = Image.fromarray(np.rint(pixels * (255 / BRIGHTEST)).astype(np.uint8))
    return grey.resize((size, size), Image.Resampling.BICUBIC).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
