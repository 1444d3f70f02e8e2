"""The networks to prune: built by name from a seed, and described layer by layer without computing."""

from distlth.models.anatomy import (
    Anatomy,
    ConvLayer,
    LinearLayer,
    Scope,
    WeightLayer,
    anatomy,
    check_accepts,
    prunable,
    trains_on,
)
from distlth.models.graph import Graph
from distlth.models.removal import Leak, gates, leaks, removal, returning
from distlth.models.zoo import Stem, build, names

__all__ = [
    "Anatomy",
    "ConvLayer",
    "Graph",
    "Leak",
    "LinearLayer",
    "Scope",
    "Stem",
    "WeightLayer",
    "anatomy",
    "build",
    "check_accepts",
    "gates",
    "leaks",
    "names",
    "prunable",
    "removal",
    "returning",
    "trains_on",
]
