"""Packs images into FFCV files, and checks them."""
