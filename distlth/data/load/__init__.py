"""Loads batches from FFCV files."""

# Of the pixels that the loader makes: another one where any bit of them changes. 1: images by libjpeg, some
# at a fraction of their size, then resized. 2: planes by libjpeg's accurate transform, resized, then RGB.
VERSION = "2"
