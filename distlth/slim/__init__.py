"""Slim networks: the physically smaller dense network that computes what a masked one does."""

from distlth.slim.follow import Sums
from distlth.slim.parts import Part, put_back
from distlth.slim.slim import Slim, Whole, slim

__all__ = ["Part", "Slim", "Sums", "Whole", "put_back", "slim"]
