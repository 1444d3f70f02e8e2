"""distlth finds structurally sparse winning lottery tickets on a cluster."""

__version__ = "0.1.0"
