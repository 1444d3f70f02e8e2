"""Regrouped networks on a GPU: a Triton kernel, a layer that runs by it, and networks of such layers."""

from distlth.execute.triton.conv import GroupedConv2d
from distlth.execute.triton.network import Grouped, grouped, network_blocks
from distlth.execute.triton.op import Launch

__all__ = ["Grouped", "GroupedConv2d", "Launch", "grouped", "network_blocks"]
