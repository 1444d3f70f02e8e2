"""The CPU engine: float32 networks whose convolutions run by dense blocks, in C++."""

from distlth.execute.cpu.engine import EngineError, Network, Window, instruction_sets
from distlth.execute.cpu.operator import run

__all__ = ["EngineError", "Network", "Window", "instruction_sets", "run"]
