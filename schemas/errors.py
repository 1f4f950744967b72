"""The errors that end a command, one for each exit code. Any other exception is a bug.

A message is one line: where, what was found, what was expected, what to do.
"""


class StillhouseError(Exception):
    """Base class of the errors that are printed as one line, without a traceback."""

    exit_code = 1


class StageError(StillhouseError):
    """A stage failed while running, for example because of a full disk or a server that did not start."""

    exit_code = 1


class InputError(StillhouseError):
    """The usage or the input is wrong. The message names the file, the field and what was expected."""

    exit_code = 2


class GateError(StillhouseError):
    """Something does not fit on the hardware, or a gate was not passed."""

    exit_code = 3
