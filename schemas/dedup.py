"""Finds near-duplicates among traces, and training requests that the exam contains too.

Both compare sets of word n-grams exactly, without sketches such as MinHash, so the same input gives the same result
at any size. Two texts that differ in a name or a number never match: one template filled in for two contracts
makes two different requests, however long the wording they share.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from schemas.files import dumps
from schemas.json_text import parse_arguments
from schemas.messages import text_of
from schemas.trace import Message

SHINGLE = 3  # words; long enough to hold order, short enough that a one-line request has several
PHRASE = 8  # words; two texts that share so long a run were copied
_TINY = 1e-9  # floating point: 0.7 of 10 must be 7, not 7.000000000000001

# Thai to Lao, Burmese, Khmer, Kana and Han are written without spaces: each character counts as a word.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s{_UNSPACED}]")
Gram = tuple[str, ...]

# (difference hash in hex, digest of what the image shows)
ImageLook = tuple[str, str]


def trace_text(messages: Sequence[Message]) -> str:
    """The text that decides whether traces are near-duplicates: the user's turns and the calls, without the answer."""
    calls = [
        f"{call['function']['name']} {_canonical(call['function'].get('arguments'))}"
        for message in messages
        for call in message.get("tool_calls") or []
    ]
    return "\n".join([request_of(messages), *calls])


def request_of(messages: Sequence[Message]) -> str:
    """The text of all user turns."""
    return "\n".join(text_of(m.get("content")) for m in messages if m["role"] == "user")


def _canonical(arguments: Any) -> str:
    return dumps(parse_arguments(arguments))


def grams(text: str, size: int) -> frozenset[Gram]:
    """The runs of `size` words in a text; a shorter text is one run."""
    words = _WORD.findall(text)
    starts = range(max(1, len(words) - size + 1))
    return frozenset(tuple(words[start : start + size]) for start in starts if words)


def particulars(text: str) -> frozenset[str]:
    """The words that identify what a text is about: those with a digit, and capitalised names.

    The first word of a sentence counts as a name only where another capitalised word follows.
    """
    words = _WORD.findall(text)
    names = set()
    for before, word, after in zip([".", *words], words, [*words[1:], "."], strict=False):
        in_name = word[0].isupper() and (before not in ".!?:" or after[0].isupper())
        if in_name or any(c.isdigit() for c in word):
            names.add(word)
    return frozenset(names)


def near_duplicates(texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the index of the earlier text that it is a near-duplicate of, or None.

    Near-duplicates have the same particulars and share at least `threshold` of all their 3-word runs (Jaccard
    similarity). A text that is itself a near-duplicate is not compared with later ones.
    """
    # Two sets this similar share at least one of the first few of their rarest members (prefix filtering,
    # Bayardo et al., "Scaling up all pairs similarity search", 2007), so only those are looked up.
    sets = [grams(text, SHINGLE) for text in texts]
    names = [particulars(text) for text in texts]
    frequency = Counter(gram for own in sets for gram in own)
    holders: dict[Gram, list[int]] = defaultdict(list)
    matches: list[int | None] = []
    for index, own in enumerate(sets):
        rarest_first = sorted(own, key=lambda gram: (frequency[gram], gram))
        prefix = rarest_first[: len(own) - math.ceil(threshold * len(own) - _TINY) + 1]
        candidates = sorted({other for gram in prefix for other in holders[gram]})
        similar = (
            other
            for other in candidates
            if names[other] == names[index] and jaccard(own, sets[other]) >= threshold - _TINY
        )
        match = next(similar, None)
        matches.append(match)
        if match is None:
            for gram in prefix:
                holders[gram].append(index)
    return matches


def contaminations(
    requests: Sequence[str], exam: Sequence[str], threshold: float
) -> list[int | None]:
    """For each training request the index of the exam request that it contains or repeats, or None.

    It repeats one if it has all particulars of it, and shares at least `threshold` of the 3-word runs of both (Jaccard
    similarity) or of the 8-word runs of the shorter text, which finds a request quoted inside a longer text.
    """
    request_names = [particulars(text) for text in requests]
    exam_names = [particulars(text) for text in exam]
    matches: list[int | None] = [None] * len(requests)
    for size in (SHINGLE, PHRASE):
        exam_sets = [grams(text, size) for text in exam]
        holders: dict[Gram, list[int]] = defaultdict(list)
        for index, exam_set in enumerate(exam_sets):
            for gram in exam_set:
                holders[gram].append(index)
        for number, text in enumerate(requests):
            own = grams(text, size)
            shared = Counter(index for gram in own for index in holders.get(gram, ()))
            for index in sorted(shared):
                sizes = len(own), len(exam_sets[index])
                whole = min(sizes) if size == PHRASE else sum(sizes) - shared[index]
                similar = shared[index] >= threshold * whole - _TINY
                if (
                    matches[number] is None
                    and similar
                    and exam_names[index] <= request_names[number]
                ):
                    matches[number] = index
    return matches


# Of the 256 bits of an image's difference hash: noise and rounding change a bit or two between renderings of one page.
# Two other digits on an almost empty page change no more, so the content has to be the same as well.
IMAGE_BITS = 2


def same_images(images: Sequence[ImageLook]) -> list[int]:
    """For each image the index of the first image that is the same to a reader; its own where there is no earlier one.

    Two images are the same if their content is, and their difference hashes differ in at most IMAGE_BITS bits. Such
    hashes are equal in at least one of IMAGE_BITS + 1 parts, so only images that share a part are compared.
    """
    parts = IMAGE_BITS + 1
    holders: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    firsts = []
    hashes = [int(text, 16) for text, _ in images]
    for index, (text, content) in enumerate(images):
        own = hashes[index]
        bits = f"{own:0{4 * len(text)}b}"
        # A part takes every third bit: consecutive bits may be the margin that all pages have.
        keys = [(content, part, bits[part::parts]) for part in range(parts)]
        near = (
            other
            for key in keys
            for other in holders[key]
            if (hashes[other] ^ own).bit_count() <= IMAGE_BITS
        )
        first = min(near, default=index)
        firsts.append(first)
        if first == index:
            for key in keys:
                holders[key].append(index)
    return firsts


def jaccard(one: frozenset[Gram], other: frozenset[Gram]) -> float:
    """Size of the intersection over size of the union; 0 where nothing is shared."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0
