"""The job file: what may stand in it, how it is read, and what may change under a run."""

from distlth.config.read import load_config, parse_config
from distlth.config.schema import RunConfig

__all__ = ["RunConfig", "load_config", "parse_config"]
