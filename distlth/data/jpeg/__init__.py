"""Crops of JPEGs, decoded and resized by C++ behind a C interface."""
