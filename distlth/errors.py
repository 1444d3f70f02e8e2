"""The errors that a user can cause or mend: each prints as one clear line, never as a traceback."""


class UserError(Exception):
    """A mistake in what the user gave: names the thing, what was expected and what to do. Exit code 2."""


class ConfigError(UserError):
    """A wrong key, type, value or combination in a job file or an override."""


class DataError(UserError):
    """A source of images or a built data set that cannot be used as it is."""


class RunError(UserError):
    """A run directory that cannot be read or continued as it is."""


class TrainingError(UserError):
    """A job that cannot go on: a loss that is not finite, a sample that does not decode."""
