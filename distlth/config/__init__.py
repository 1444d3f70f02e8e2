"""The job file: its schema, how it is read, and what may change in it while a run lives."""

from distlth.config.read import load_config, parse_config
from distlth.config.schema import RunConfig

__all__ = ["RunConfig", "load_config", "parse_config"]
