"""Text that a student's tokenizer, or its server, takes for a control token, or that the two read otherwise.

The rendered conversation is tokenized as a whole, in training and in llama.cpp and vLLM alike. So `<|im_end|>` in a
tool's result ends the turn there, and a student would learn from a conversation that no one had. Tokenizers of Qwen
compose characters first (Unicode's NFC: e and a combining accent become é), llama.cpp's have no such step, and its
Unicode table is older.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from schemas.canonical import arguments_text
from schemas.messages import text_of
from schemas.trace import Message

_C_SPACES = " \t\n\r\v\f"


def control_tokens(tokenizer: Any, template: str, overridden: Sequence[str] = ()) -> list[str]:
    """Returns the tokens that must not be in the text of a conversation.

    These are the special tokens, the added tokens that the template writes (Qwen's <tool_call> is no special token),
    and those that llama.cpp overrides. Other added tokens, such as a run of spaces, are ordinary text.
    """
    added = tokenizer.added_tokens_decoder.values()
    tokens = [token.content for token in added if token.special or token.content in template]
    return [token for token in dict.fromkeys([*tokens, *overridden]) if token.strip()]


def composer(tokenizer: Any) -> Callable[[str], str] | None:
    """Returns the tokenizer's function that composes characters, which llama.cpp does not; None if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = backend.normalizer if backend else None
    if normalizer is None or normalizer.normalize_str("e\u0301") != "\u00e9":
        return None
    return normalizer.normalize_str


def decomposed_in(
    messages: Sequence[Message], compose: Callable[[str], str]
) -> tuple[int, str] | None:
    """Returns the index of the first message with a character to compose, and where it is, in ASCII; None if none."""
    for index, message in enumerate(messages):
        for text in _texts(message):
            if (composed := compose(text)) != text:
                pairs = enumerate(zip(text, composed, strict=False))
                at = next((i for i, (found, other) in pairs if found != other), len(text))
                return index, ascii(text[max(0, at - 8) : at + 8])
    return None


def unknown_in(messages: Sequence[Message], unknown: Sequence[range]) -> tuple[int, str] | None:
    """Returns the index of the first message with a character of ascending ranges, and the character in ASCII."""
    starts: list[int] = []
    for index, message in enumerate(messages):
        for text in _texts(message):
            for character in "" if text.isascii() else sorted(set(text)):
                starts = starts or [characters.start for characters in unknown]
                at = bisect_right(starts, ord(character)) - 1
                if at >= 0 and ord(character) in unknown[at]:
                    return index, ascii(character)
    return None


def stripped_in(messages: Sequence[Message]) -> tuple[int, str] | None:
    """Returns the index of the first message whose text two engines strip differently, and the text in ASCII, or None.

    Python strips all of Unicode's spaces, llama.cpp's jinja those of C (isspace).
    """
    for index, message in enumerate(messages):
        for text in _texts(message):
            if text.strip() != text.strip(_C_SPACES):
                return index, ascii(text[:8] + text[8:][-8:])
    return None


def pattern(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Returns what finds any of the tokens in a text; None if there is no token."""
    return re.compile("|".join(map(re.escape, tokens))) if tokens else None


def marker_in(messages: Sequence[Message], markers: re.Pattern[str]) -> tuple[int, str] | None:
    """Returns the index of the first message with a control token in its text, and the token; None if none has one."""
    for index, message in enumerate(messages):
        for text in _texts(message):
            if match := markers.search(text):
                return index, match.group()
    return None


def _texts(message: Message) -> list[str]:
    functions = [call["function"] for call in message.get("tool_calls") or []]
    return [
        text_of(message.get("content")),
        message.get("reasoning_content") or "",
        *(arguments_text(function.get("arguments")) for function in functions),
    ]
