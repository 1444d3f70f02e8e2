"""The errors that a user can cause or fix: each prints as one clear line, never as a traceback."""

import os


class UserError(Exception):
    """A mistake in the input: names what is wrong, what was expected and what to do. Exit code 2."""


class RunInterrupted(Exception):  # noqa: N818  # not an error: the same command resumes
    """A run ended before its last job: says why, and where it resumes.

    `exit_code` is the command's: 75 (EX_TEMPFAIL) tells a scheduler to run it again.
    """

    def __init__(self, message: str, exit_code: int = os.EX_TEMPFAIL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ConfigError(UserError):
    """A job file or an override has a wrong key, type, value or combination."""


class DataError(UserError):
    """A source of images or a built data set cannot be used as it is."""


class RunError(UserError):
    """A run directory cannot be read or resumed as it is."""


class TrainingError(UserError):
    """A job cannot continue: its loss is not finite, or a sample does not decode."""


class DivergedError(TrainingError):
    """A job's loss is not finite: the ticket does not train as configured, but others may."""
