"""Finds near-duplicates among traces, and training requests that the exam contains too.

One template filled in for two contracts makes two requests that share most of their words, as one question does that
is reworded. So two texts match where they are about the same things (particulars, calls) and most of their words are
the same. A recipe's thresholds were chosen on labelled pairs in English, Chinese, Japanese and Thai
(tests/schemas/near_duplicates.jsonl).

Sets of word n-grams are compared exactly, without sketches such as MinHash, so the same input gives the same result at
any size. Only texts about the same things are compared, which keeps the work linear in practice
(benchmarks/near_duplicates.py).
"""

import functools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.files import dumps
from schemas.json_text import parse_arguments
from schemas.messages import text_of
from schemas.trace import Message

SHINGLE = 3  # words; long enough to hold order, short enough that a one-line request has several
PHRASE = 8  # words; two texts that share so long a run were copied
_TINY = 1e-9  # floating point: 0.7 of 10 must be 7, not 7.000000000000001

# Thai to Lao, Burmese, Khmer, Kana and Han are written without spaces: each character counts as a word.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_LETTERS = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+"
# Signs such as < and + count, because a text may quote code.
_WORD = re.compile(rf"{_LETTERS}|[^\w\s.,;:!?'\"“”‘’。、「」『』]")
_WORD_OR_MARK = re.compile(rf"{_LETTERS}|[^\w\s]")
Gram = tuple[str, ...]
_Hashes = npt.NDArray[np.int64]

# (difference hash in hex, digest of what the image shows)
ImageLook = tuple[str, str]


def request_of(messages: Sequence[Message]) -> str:
    """The text of all user turns."""
    return "\n".join(text_of(m.get("content")) for m in messages if m["role"] == "user")


def calls_of(messages: Sequence[Message]) -> frozenset[str]:
    """The calls of all turns, each as text: name and canonical arguments."""
    return frozenset(
        f"{call['function']['name']} {dumps(parse_arguments(call['function'].get('arguments')))}"
        for message in messages
        for call in message.get("tool_calls") or []
    )


def grams(text: str, size: int) -> frozenset[Gram]:
    """The runs of `size` words in a text, without regard to case, width and punctuation."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    starts = range(max(1, len(words) - size + 1))
    return frozenset(tuple(words[start : start + size]) for start in starts if words)


def particulars(text: str) -> frozenset[str]:
    """The words that identify what a text is about: those with a digit, and capitalised names.

    The first word of a sentence counts as a name only where another capitalised word follows.
    """
    words = _WORD_OR_MARK.findall(unicodedata.normalize("NFKC", text))
    names = set()
    for before, word, after in zip([".", *words], words, [*words[1:], "."], strict=False):
        starts_sentence = before in ".!?:" and not after[0].isupper()
        in_name = word[0].isupper() and word != "I" and not starts_sentence
        if in_name or any(c.isdigit() for c in word):
            names.add(word)
    return frozenset(names)


def named_values(text: str, value: Any) -> frozenset[str]:
    """The texts of a JSON value that a request has word for word as names which `particulars` does not see.

    Those are single words of a script without capitals, and words with a sign inside, such as `fix/late-kettle`.

    Args:
        value: the arguments of calls that solve the request.

    >>> sorted(named_values("Close fix/odd of 张伟 today", ["fix/odd", {"who": "张伟", "day": "today"}]))
    ['fix/odd', '张伟']
    """
    return frozenset(leaf for leaf in _texts(value) if leaf in text and _is_name(leaf))


def _is_name(word: str) -> bool:
    has_sign = not word.isalpha() and len(word.split()) == 1
    return has_sign or any(c.isalpha() and c.lower() == c.upper() for c in word)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def near_duplicates(
    texts: Iterable[str], threshold: float, calls: Iterable[Hashable] | None = None
) -> list[int | None]:
    """For each text the index of the earlier text that it is a near-duplicate of, or None.

    Near-duplicates have the same particulars and calls and share at least `threshold` of their 3-word runs (Jaccard
    similarity). A text that is itself a near-duplicate is not compared with later ones. Texts are read once.

    Args:
        calls: what the trace of each text calls, as `calls_of` returns it.
    """
    subjects: list[int] = []
    sets: list[_Hashes] = []
    for text, own_calls in zip(texts, repeat(None) if calls is None else calls, strict=False):
        subjects.append(hash((particulars(text), own_calls)))
        hashes = {hash(gram) for gram in grams(text, SHINGLE)}
        sets.append(np.sort(np.fromiter(hashes, np.int64, len(hashes))))
    count = Counter(subjects)
    compared = [i for i, subject in enumerate(subjects) if count[subject] > 1 and len(sets[i])]
    matches: list[int | None] = [None] * len(subjects)
    if not compared:
        return matches
    # Two sets this similar share at least one of the first few of their rarest members (prefix filtering,
    # Bayardo et al., "Scaling up all pairs similarity search", 2007), so only those are looked up.
    known, frequency = np.unique(np.concatenate([sets[i] for i in compared]), return_counts=True)
    holders: dict[int, list[int]] = defaultdict(list)
    for i in compared:
        own = sets[i]
        rarest_first = own[np.argsort(frequency[np.searchsorted(known, own)], kind="stable")]
        most = len(own) - math.ceil(threshold * len(own) - _TINY) + 1
        keys = [hash((subjects[i], gram)) for gram in rarest_first[:most].tolist()]
        candidates = sorted({other for key in keys for other in holders.get(key, ())})
        similar = (j for j in candidates if _jaccard(own, sets[j]) >= threshold - _TINY)
        matches[i] = next(similar, None)
        if matches[i] is None:
            for key in keys:
                holders[key].append(i)
    return matches


def _jaccard(one: _Hashes, other: _Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def contaminations(
    requests: Iterable[str],
    exam: Sequence[str],
    threshold: float,
    names: Sequence[Collection[str]] | None = None,
) -> list[int | None]:
    """For each training request the index of the exam request that it contains or repeats, or None.

    It repeats one if it has all particulars of it, and shares at least `threshold` of the 3-word runs of both (Jaccard
    similarity) or of the 8-word runs of the shorter text, which finds a request quoted inside a longer text. Requests
    are read once.

    Args:
        names: further names of each exam request, as `named_values` returns them.
    """
    compare = functools.partial(_shared_runs, threshold=threshold)
    indexes = [(size, *_index(exam, size)) for size in (SHINGLE, PHRASE)]
    exam_names = [particulars(text) for text in exam]
    matches: list[int | None] = []
    for text in requests:
        own_names = particulars(text)
        similar = (
            index
            for size, sets, holders in indexes
            for index in compare(grams(text, size), sets, holders, size == PHRASE)
            if exam_names[index] <= own_names
            and (names is None or all(name in text for name in names[index]))
        )
        matches.append(min(similar, default=None))
    return matches


_Holders = dict[Gram, list[int]]


def _index(texts: Sequence[str], size: int) -> tuple[list[frozenset[Gram]], _Holders]:
    """The runs of `size` words of each text, and for each run the texts that have it."""
    sets = [grams(text, size) for text in texts]
    holders: _Holders = defaultdict(list)
    for index, own in enumerate(sets):
        for gram in own:
            holders[gram].append(index)
    return sets, holders


def _shared_runs(
    own: frozenset[Gram],
    sets: list[frozenset[Gram]],
    holders: _Holders,
    of_shorter: bool,
    *,
    threshold: float,
) -> Iterator[int]:
    """Yields the index of each set that shares enough with `own`: of both together, or of the shorter one."""
    shared = Counter(index for gram in own for index in holders.get(gram, ()))
    for index, count in shared.items():
        sizes = len(own), len(sets[index])
        whole = min(sizes) if of_shorter else sum(sizes) - count
        if count >= threshold * whole - _TINY:
            yield index


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
