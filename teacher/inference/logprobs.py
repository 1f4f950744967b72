"""The log-probabilities of a reply's tokens, as the journal stores them: `generate.logprobs`.

    {"k": 20, "n": 57, "tokens": null, "data": "eJzt..."}

n: the tokens of the reply. k: the most likely tokens at each of them. data: base64 of zlib of n rows of 1 + k token ids
(32 bits, little-endian, signed), then n rows of 1 + k log-probabilities (16 bits, IEEE 754). The first column is the
token that was sampled, the others are the most likely ones, in their order. A row with fewer is filled with id -1 and
minus infinity. tokens: null where the engine gives ids (vLLM, llama.cpp); else the distinct texts of the tokens, and
the ids are places in this list.
"""

import base64
import itertools
import math
import struct
import zlib
from typing import Any, TypedDict

# A server's answer is not trusted: more is no answer of a model.
_MOST_TOKENS, _MOST_ALTERNATIVES = 1_000_000, 200
_LOWEST = -65504.0  # of 16 bits
# With return_tokens_as_token_ids, vLLM writes the id in place of the text.
_ID = "token_id:"

Column = tuple[int | str, float]


class Packed(TypedDict):
    """Log-probabilities as the journal stores them."""

    k: int
    n: int
    tokens: list[str] | None
    data: str


def pack(content: Any) -> Packed | None:
    """Packs `choices[0].logprobs.content` of a chat completion; None if the answer has none.

    One entry that is no token with a number makes it None, because the rows would no longer be the reply's tokens.
    """
    if not isinstance(content, list) or not 0 < len(content) <= _MOST_TOKENS:
        return None
    try:
        rows = [
            [_column(entry), *map(_column, entry.get("top_logprobs") or [])] for entry in content
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    k = max(len(row) for row in rows) - 1
    if k > _MOST_ALTERNATIVES:
        return None
    names = {token for row in rows for token, _ in row if isinstance(token, str)}
    tokens = sorted(names) if names else None
    places = {token: place for place, token in enumerate(tokens or [])}
    if tokens and any(isinstance(token, int) for row in rows for token, _ in row):
        return None
    ids: list[int] = []
    numbers: list[float] = []
    for row in rows:
        for token, number in itertools.chain(row, [(-1, -math.inf)] * (1 + k - len(row))):
            ids.append(places[token] if isinstance(token, str) else token)
            numbers.append(number)
    data = struct.pack(f"<{len(ids)}i", *ids) + struct.pack(f"<{len(numbers)}e", *numbers)
    text = base64.b64encode(zlib.compress(data)).decode()
    if tokens:  # half of a surrogate pair has no UTF-8
        tokens = [token.encode(errors="replace").decode() for token in tokens]
    return {"k": k, "n": len(rows), "tokens": tokens, "data": text}


def unpack(packed: Packed) -> list[list[Column]]:
    """The rows of (token, log-probability): the sampled token, then the most likely ones.

    A token is its id, or its text where the journal has no ids.
    """
    count = packed["n"] * (1 + packed["k"])
    data = zlib.decompress(base64.b64decode(packed["data"]))
    ids = struct.unpack_from(f"<{count}i", data)
    numbers = struct.unpack_from(f"<{count}e", data, 4 * count)
    tokens, width = packed["tokens"], 1 + packed["k"]
    columns: list[Column] = [
        (tokens[token] if tokens and token >= 0 else token, number)
        for token, number in zip(ids, numbers, strict=True)
    ]
    rows = [columns[start : start + width] for start in range(0, count, width)]
    return [[column for column in row if column[0] != -1] for row in rows]


def _column(entry: Any) -> Column:
    """Token and log-probability of an entry.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: it is none.
    """
    # llama.cpp writes null for minus infinity, which a constrained reply's forbidden tokens have.
    number = -math.inf if entry["logprob"] is None else float(entry["logprob"])
    if math.isnan(number):
        raise ValueError(number)
    number = max(min(number, 0.0), _LOWEST)
    token = entry.get("id", entry["token"])
    if isinstance(token, str) and token.startswith(_ID):
        token = int(token.removeprefix(_ID))
    if isinstance(token, bool) or not isinstance(token, str | int):
        raise TypeError(token)
    if isinstance(token, int) and not 0 <= token < 2**31:
        raise ValueError(token)
    return token, number
