"""Near-duplicates among traces, and training requests that the exam asks too.

Both compare sets of word n-grams, exactly: no sketch decides, so the same input gives the same answer at
any size. Two texts that differ in a name or a number are never alike: a template that asks about two
contracts makes two requests, however long its wording.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from schemas.files import dumps
from schemas.json_text import parse_json
from schemas.messages import text_of

SHINGLE = 3  # words; long enough to hold order, short enough that a one-line request has several
PHRASE = 8  # words in a row that two texts share by copying, seldom by chance
_TINY = 1e-9  # 0.7 of 10 is 7, not 7.000000000000001

_WORD = re.compile(r"\w+|[^\w\s]")
Gram = tuple[str, ...]


def trace_text(messages: Sequence[dict[str, Any]]) -> str:
    """What a trace teaches: the user's words and the calls they led to, not how the result was told."""
    calls = [
        f"{call['function']['name']} {_canonical(call['function']['arguments'])}"
        for message in messages
        for call in message.get("tool_calls") or []
    ]
    return "\n".join([request_of(messages), *calls])


def request_of(messages: Sequence[dict[str, Any]]) -> str:
    """What the user said, all turns of it."""
    return "\n".join(text_of(m.get("content")) for m in messages if m["role"] == "user")


def _canonical(arguments: str | dict[str, Any]) -> str:
    return dumps(parse_json(arguments) if isinstance(arguments, str) else arguments)


def grams(text: str, size: int) -> frozenset[Gram]:
    """The runs of `size` words in a text; a shorter text is one run."""
    words = _WORD.findall(text)
    runs = range(max(1, len(words) - size + 1))
    return frozenset(tuple(words[start : start + size]) for start in runs if words)


def particulars(text: str) -> frozenset[str]:
    """The words that say which one is meant: with a digit, or a name's capital.

    The first word of a sentence has a capital anyway; it is a name's where another one follows.
    """
    words = _WORD.findall(text)
    found = set()
    for before, word, after in zip([".", *words], words, [*words[1:], "."], strict=False):
        in_name = word[0].isupper() and (before not in ".!?:" or after[0].isupper())
        if in_name or any(c.isdigit() for c in word):
            found.add(word)
    return frozenset(found)


def near_duplicates(texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the index of an earlier one that it repeats; None where there is none.

    It repeats one that names the same particulars and shares at least `threshold` of all their 3-word
    runs (Jaccard similarity), and that is no repetition itself.
    """
    # Two sets this similar share at least one of the first few of their rarest members (prefix filtering,
    # Bayardo et al., "Scaling up all pairs similarity search", 2007), so only those are looked up.
    sets = [grams(text, SHINGLE) for text in texts]
    named = [particulars(text) for text in texts]
    frequency = Counter(gram for one in sets for gram in one)
    seen: dict[Gram, list[int]] = defaultdict(list)
    found: list[int | None] = []
    for index, one in enumerate(sets):
        rarest_first = sorted(one, key=lambda gram: (frequency[gram], gram))
        prefix = rarest_first[: len(one) - math.ceil(threshold * len(one) - _TINY) + 1]
        candidates = sorted({other for gram in prefix for other in seen[gram]})
        alike = (
            other
            for other in candidates
            if named[other] == named[index] and jaccard(one, sets[other]) >= threshold - _TINY
        )
        twin = next(alike, None)
        found.append(twin)
        if twin is None:
            for gram in prefix:
                seen[gram].append(index)
    return found


def contaminations(
    requests: Sequence[str], exam: Sequence[str], threshold: float
) -> list[int | None]:
    """For each request the index of the exam request that it gives away; None where there is none.

    It names all the particulars of that one, and shares at least `threshold` of the 3-word runs of both
    (Jaccard similarity) or of the 8-word runs of the shorter: a request inside a longer text.
    """
    asked = [particulars(text) for text in requests]
    examined = [particulars(text) for text in exam]
    found: list[int | None] = [None] * len(requests)
    for size in (SHINGLE, PHRASE):
        exam_sets = [grams(text, size) for text in exam]
        holders: dict[Gram, list[int]] = defaultdict(list)
        for index, one in enumerate(exam_sets):
            for gram in one:
                holders[gram].append(index)
        for number, text in enumerate(requests):
            own = grams(text, size)
            shared = Counter(index for gram in own for index in holders.get(gram, ()))
            for index in sorted(shared):
                sizes = len(own), len(exam_sets[index])
                whole = min(sizes) if size == PHRASE else sum(sizes) - shared[index]
                alike = shared[index] >= threshold * whole - _TINY
                if found[number] is None and alike and examined[index] <= asked[number]:
                    found[number] = index
    return found


# Of 256 bits of a picture's difference hash: noise and rounding move a bit or two of the same page. So do two other
# digits on an all but empty page, which is why what the pictures show has to be the same as well.
PICTURE_BITS = 2


def same_pictures(pictures: Sequence[tuple[str, str]]) -> list[int]:
    """For each picture, (difference hash in hex, what it shows), the index of the first that is the same to a reader.

    Two are that show the same and whose hashes differ in at most PICTURE_BITS bits: these are equal in at least one of
    PICTURE_BITS + 1 parts, so only such are compared. A picture like no earlier one has its own index.
    """
    parts = PICTURE_BITS + 1
    seen: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    found = []
    numbers = [int(text, 16) for text, _ in pictures]
    for index, (text, shown) in enumerate(pictures):
        number = numbers[index]
        bits = f"{number:0{4 * len(text)}b}"
        # Every third bit: a stretch of them may be the margin that all pages have.
        keys = [(shown, part, bits[part::parts]) for part in range(parts)]
        near = (
            other
            for key in keys
            for other in seen[key]
            if (numbers[other] ^ number).bit_count() <= PICTURE_BITS
        )
        first = min(near, default=index)
        found.append(first)
        if first == index:
            for key in keys:
                seen[key].append(index)
    return found


def jaccard(one: frozenset[Gram], other: frozenset[Gram]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0
