"""A class of actors: Ray draws an id for it when this is imported."""

import ray


@ray.remote
class Nothing:
    """Does nothing."""
