"""Tickets that run as what they keep: networks executed by their dense blocks."""

from distlth.execute.grouped import Grouped, InTorch, grouped

__all__ = ["Grouped", "InTorch", "grouped"]
