"""The errors that end a command, one for each exit code. Everything else that is raised is a bug.

Each message is one line that says what was found, where, and what was expected.
"""


class StillhouseError(Exception):
    """Base of the errors that are shown to the user as one line, without a traceback."""

    exit_code = 1


class StageError(StillhouseError):
    """A stage failed while running: a full disk, a server that would not start, a missing compiler."""

    exit_code = 1


class InputError(StillhouseError):
    """Bad usage or bad input. The message names the file, the field and what was expected."""

    exit_code = 2


class GateError(StillhouseError):
    """It does not fit, or a gate was not passed."""

    exit_code = 3
