"""Why a conversation cannot be rendered for training. Each text names the message."""

from schemas.canonical import EnginesDiffer, MarkerInText


class Unrenderable(ValueError):
    """The student's chat template cannot render a conversation."""


class ServedOtherwise(Unrenderable, EnginesDiffer):
    """The student's server renders a conversation otherwise than it was trained. The text names the value."""


class ControlTokenInText(Unrenderable, MarkerInText):
    """A text has a word that the student's tokenizer or server takes for a control token."""
