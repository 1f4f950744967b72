"""Token ids of rendered conversations, piece by piece. Most pieces of a run repeat: the tools, earlier messages.

A tokenizer cuts a text at its special tokens first, and reads each piece between two of them by itself. So the ids of a
text are those of its pieces, and a piece is read once. Where a tokenizer marks the beginning of a text (Metaspace,
Prepend), a piece is read otherwise than alone, and the whole text is read each time.
"""

import json
import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

# Parts of a tokenizer that read a piece alike wherever it lies.
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Sequence"}
_PRE_TOKENIZERS = {"ByteLevel", "Digits", "Punctuation", "Sequence", "Split", "WhitespaceSplit"}
# Characters of the pieces that are remembered; their ids take about as many bytes.
_CHARACTERS = 1 << 22


class Pieces:
    """Reads texts with a transformers tokenizer.

    Attributes:
        is_possible: whether the tokenizer reads pieces as it reads the whole text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = _special_tokens(tokenizer)
        self.is_possible = bool(self._special) and _reads_pieces_alone(tokenizer)
        # The longest first, as the tokenizer matches them.
        tokens = sorted(self._special, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, tokens)) + ")")
        self._known: dict[str, array[int]] = {}
        self._characters = 0

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, which contains its special tokens."""
        if not self.is_possible:
            return self._read(text)
        pieces = [piece for piece in self._cut.split(text) if piece]
        self._remember(pieces)
        ids: list[int] = []
        for piece in pieces:
            special = self._special.get(piece)
            if special is not None:
                ids.append(special)
            else:
                ids.extend(self._known[piece])
        return ids

    def length(self, texts: Sequence[str], enough: int) -> int:
        """The number of ids of some texts, each read by itself. Up to `enough` it may be larger than that.

        Each token takes at least one character of a piece in ASCII, which no known normalizer makes longer. So a text
        that is much shorter than `enough` tokens need not be read.
        """
        if not self.is_possible:
            return sum(len(self._read(text)) for text in texts)
        characters = sum(map(len, texts))
        if characters <= enough and all(map(str.isascii, texts)):
            return characters
        pieces = [piece for text in texts for piece in self._cut.split(text) if piece]
        # A piece in ASCII that is not known yet is not read if that suffices.
        self._remember(piece for piece in pieces if not piece.isascii())
        most = sum(self._count(piece, len(piece)) for piece in pieces)
        if most <= enough:
            return most
        self._remember(pieces)
        return sum(self._count(piece) for piece in pieces)

    def _count(self, piece: str, otherwise: int = 0) -> int:
        """The number of a piece's ids; `otherwise` of one that is not known."""
        if piece in self._special:
            return 1
        ids = self._known.get(piece)
        return otherwise if ids is None else len(ids)

    def _remember(self, pieces: Iterable[str]) -> None:
        """Reads the pieces that are not known yet, in one batch, which takes half the time of one by one."""
        if self._characters > _CHARACTERS:
            self._known, self._characters = {}, 0
        new = [piece for piece in dict.fromkeys(pieces) if self._is_new(piece)]
        if new:
            read = self._tokenizer(new, add_special_tokens=False)["input_ids"]
            for piece, ids in zip(new, read, strict=True):
                self._known[piece] = array("l", ids)
            self._characters += sum(map(len, new))

    def _is_new(self, piece: str) -> bool:
        return piece not in self._known and piece not in self._special

    def _read(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """The special tokens at which every text is cut, with their ids."""
    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special
        and token.content
        and not (token.normalized or token.lstrip or token.rstrip or token.single_word)
    }


def _reads_pieces_alone(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    special = _special_tokens(tokenizer)
    others = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content not in special
    ]
    # Another added token may begin before a special one and end in it.
    if any(_overlap(other, name) for other in others for name in special):
        return False
    return _is_known(backend.normalizer, _NORMALIZERS) and _is_known(
        backend.pre_tokenizer, _PRE_TOKENIZERS
    )


def _overlap(one: str, other: str) -> bool:
    return (
        other in one
        or one in other
        or any(
            one.endswith(other[:size]) or other.endswith(one[:size])
            for size in range(1, min(len(one), len(other)))
        )
    )


def _is_known(part: Any, known: set[str]) -> bool:
    """Whether a part of a tokenizer, as the library writes it, has only parts of known types."""
    if part is None:
        return True
    parts = [json.loads(part.__getstate__())]
    while parts:
        one = parts.pop()
        if one["type"] not in known or one.get("add_prefix_space"):
            return False
        parts += [*(one.get("normalizers") or []), *(one.get("pretokenizers") or [])]
    return True
