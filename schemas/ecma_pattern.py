"""Rewrites an ECMA-262 pattern into the part of the syntax that the schema engine reads in the same way.

JSON Schema's patterns are ECMA-262's. What jsonschema-rs refuses or reads differently is rewritten here, and what only
other languages have is refused. The tests compare the result with `regress`, an engine for ECMA-262 alone.
"""

import re
from collections.abc import Iterator

# One piece of a pattern: an escape, an opened group, a class, a quantifier, or one character.
_ESCAPE = (
    r"\\(?:[1-9]\d*|0(?!\d)|x[\da-fA-F]{2}|u\{[\da-fA-F]+\}|u[\da-fA-F]{4}|c[A-Za-z]"
    r"|[pP]\{[^}]*\}|k<[^>]+>|[^\dxuckpP])"
)
_PIECE = re.compile(
    rf"{_ESCAPE}|\[\^?(?:{_ESCAPE}|[^\\\]])*\]"
    r"|\((?!\?)|\(\?(?::|=|!|<=|<!|<[^>=!]+>|[ims]*(?:-[ims]*)?:)"
    r"|(?:[*+?]|\{\d+(?:,\d*)?\})\??(?![*+?]|\{\d)|[^\\(*+?\[]",
    re.DOTALL,
)
_MEMBER = re.compile(rf"{_ESCAPE}|[^\\\]]", re.DOTALL)
_SURROGATES = re.compile(r"\\u(d[89ab][\da-f]{2})\\u(d[c-f][\da-f]{2})", re.IGNORECASE)

# ECMA-262's sets as members of a class. The engine takes all of Unicode for \w beside a lookahead.
_SETS = {
    r"\d": "0-9",
    r"\D": r"\x00-\x2F\x3A-\u{10FFFF}",
    r"\w": "A-Za-z0-9_",
    r"\W": r"\x00-\x2F\x3A-\x40\x5B-\x5E\x60\x7B-\u{10FFFF}",
    r"\s": r"\x09-\x0D\x20\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF",
    r"\S": (
        r"\x00-\x08\x0E-\x1F\x21-\x9F\xA1-\u167F\u1681-\u1FFF\u200B-\u2027\u202A-\u202E"
        r"\u2030-\u205E\u2060-\u2FFF\u3001-\uFEFE\uFF00-\u{10FFFF}"
    ),
}
_WORD = "[A-Za-z0-9_]"
_OUTSIDE = {
    **{name: f"[{members}]" for name, members in _SETS.items()},
    ".": r"[^\n\r\u2028\u2029]",
    r"\b": rf"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))",
    r"\B": rf"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD}))",
    "{": r"\{",
    "}": r"\}",
    "]": r"\]",
    "[]": r"[^\s\S]",
    "[^]": r"[\s\S]",
}


class PatternNotSupported(Exception):
    """A pattern is not ECMA-262's, or cannot be matched as ECMA-262 says."""


def portable(pattern: str) -> str:
    """The pattern in the syntax that has one meaning.

    Raises:
        PatternNotSupported: the pattern is not ECMA-262 (`(?i)`, `\\Z`, `(?P<x>...)`), or refers to a group that may
            have taken no part, which matches nothing in ECMA-262 and fails in the engine.
    """
    pieces = list(_pieces(_SURROGATES.sub(_code_point, pattern)))
    rewritten = []
    for index, piece in enumerate(pieces):
        if re.match(r"\\(?:[1-9]|k<)", piece):
            rewritten.append(rf"(?:\{_reference(index, pieces)})")
        elif _is_named(piece):
            rewritten.append("(")  # ECMA-262 allows a name in two alternatives
        elif piece[0] == "[" and piece not in _OUTSIDE:
            rewritten.append("".join(_class(piece)))
        else:
            rewritten.append(_OUTSIDE.get(piece) or _escape(piece))
    return "".join(rewritten)


def _pieces(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise PatternNotSupported(f"{text[at : at + 12]} is not ECMA-262")
        yield match.group()
        at = match.end()


def _is_named(piece: str) -> bool:
    return piece.startswith("(?<") and piece[3] not in "=!"


def _reference(index: int, pieces: list[str]) -> int:
    """The number of the group that the piece at `index` refers to, where that group has taken part for certain."""
    piece = pieces[index]
    opened, depth, groups = list[int](), 0, list[tuple[str, int, int, int]]()
    for at, other in enumerate(pieces):
        if other[0] == "(":
            opened.append(at)
        elif other == ")" and opened:
            start = opened.pop()
            if pieces[start] == "(" or _is_named(pieces[start]):
                groups.append((pieces[start][3:-1], start, at, len(opened)))
    groups.sort(key=lambda group: group[1])
    named = [number for number, group in enumerate(groups, 1) if group[0] == piece[3:-1]]
    if piece[1] == "k" and len(named) != 1:
        raise PatternNotSupported(f"{piece} names no group, or two")
    number = named[0] if piece[1] == "k" else int(piece[1:])
    alternatives = set[int]()
    for other in pieces:
        depth += (other[0] == "(") - (other == ")")
        if other == "|":
            alternatives.add(depth)
    _, _, end, nested = groups[number - 1] if number <= len(groups) else ("", 0, len(pieces), 0)
    optional = "".join(pieces[end + 1 : end + 2])[:2] in ("*", "*?", "?", "??", "{0")
    if end > index or optional or nested or 0 in alternatives:
        raise PatternNotSupported(f"{piece} refers to a group that may be left out")
    return number


def _class(piece: str) -> Iterator[str]:
    """The parts of a class. A dash beside a set such as \\w is a dash; `[`, `&&` and `~~` are no operators."""
    start = 2 if piece[1] == "^" else 1
    members = _MEMBER.findall(piece[start:-1])
    yield piece[:start]
    for index, member in enumerate(members):
        beside = members[max(0, index - 1) : index] + members[index + 1 : index + 2]
        if member == "-" and any(re.match(r"\\[dDsSwWpP]", other) for other in beside):
            yield r"\-"
        elif member == r"\b":
            yield r"\x08"
        elif member in "[&~":
            yield rf"\{member}"
        else:
            yield _SETS.get(member) or _escape(member)
    yield "]"


def _escape(piece: str) -> str:
    """An escape as the engine reads it. ECMA-262 has no other escaped letters than these."""
    if piece == r"\0":
        return r"\x00"
    if re.match(r"\\[A-Za-z]", piece) and piece[1] not in "pPnrtvfcxu":
        raise PatternNotSupported(f"{piece} is not ECMA-262")
    if re.match(r"\\u[dD][89a-fA-F]", piece):
        raise PatternNotSupported(f"{piece} is half of a surrogate pair")
    return piece


def _code_point(pair: re.Match[str]) -> str:
    high, low = (int(half, 16) for half in pair.groups())
    return rf"\u{{{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:X}}}"
