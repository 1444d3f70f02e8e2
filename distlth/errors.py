"""The errors that a user can cause or mend: each prints as one clear line, never as a traceback."""

import os


class UserError(Exception):
    """A mistake in what the user gave: names the thing, what was expected and what to do. Exit code 2."""


class RunInterrupted(Exception):  # noqa: N818  # not an error: the run is whole, and the same command goes on
    """A run that ended before its last job: says why and where it goes on.

    `exit_code` is what the command ends with: 75 (EX_TEMPFAIL) tells a scheduler to run it again.
    """

    def __init__(self, message: str, exit_code: int = os.EX_TEMPFAIL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ConfigError(UserError):
    """A wrong key, type, value or combination in a job file or an override."""


class DataError(UserError):
    """A source of images or a built data set that cannot be used as it is."""


class RunError(UserError):
    """A run directory that cannot be read or continued as it is."""


class TrainingError(UserError):
    """A job that cannot go on: a loss that is not finite, a sample that does not decode."""
