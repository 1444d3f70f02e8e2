"""Slim networks: the physically smaller dense network that computes what a masked one does."""

from distlth.slim.follow import Sums
from distlth.slim.slim import Slim, Whole, slim

__all__ = ["Slim", "Sums", "Whole", "slim"]
