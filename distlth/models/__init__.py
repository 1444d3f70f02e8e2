"""The networks to prune: built by name from a seed, and described layer by layer without computing."""

from distlth.models.anatomy import Anatomy, ConvLayer, Scope, anatomy, prunable, trains_on
from distlth.models.zoo import Stem, build, names

__all__ = ["Anatomy", "ConvLayer", "Scope", "Stem", "anatomy", "build", "names", "prunable", "trains_on"]
