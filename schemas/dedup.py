"""Finds near-duplicates among traces, and training requests that the exam contains too.

One template filled in for two contracts makes two requests that share most of their words, as one question does that
is reworded. So two texts match where they are about the same things (particulars, calls) and most of their words are
the same. A recipe's thresholds were chosen on labelled pairs in English, Chinese, Japanese and Thai
(tests/schemas/near_duplicates.jsonl).

Candidates come from MinHash-LSH (`rensa`) or, for the few texts of an exam, from an index of their words; each is then
compared exactly, by sets of word n-grams. Only texts about the same things are compared, which keeps the work linear in
practice, and memory holds a few hundred bytes of a text (benchmarks/near_duplicates.py).
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rensa import RMinHash, RMinHashLSH

from schemas.files import dumps
from schemas.json_text import parse_arguments, texts_in
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
        if in_name or any(map(str.isdigit, word)):
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
    return frozenset(leaf for leaf in texts_in(value) if leaf in text and _is_name(leaf))


def _is_name(word: str) -> bool:
    has_sign = not word.isalpha() and len(word.split()) == 1
    return has_sign or any(c.isalpha() and c.lower() == c.upper() for c in word)


class Sketch(NamedTuple):
    """What is kept of a text to compare it. subject: a hash of its particulars and calls. grams: hashes, ascending."""

    subject: int
    grams: _Hashes


def sketch(text: str, calls: Collection[str] = ()) -> Sketch:
    """The sketch of a request. calls: those of its trace, as `calls_of` returns them."""
    hashes = {_hash(gram) for gram in grams(text, SHINGLE)}
    ordered = np.sort(np.fromiter(hashes, np.int64, len(hashes)))
    return Sketch(_hash((*sorted(particulars(text)), "", *sorted(calls))), ordered)


def _hash(texts: Iterable[str]) -> int:
    # Python's own hash differs in each process, so another run would have other candidates.
    data = "\x1f".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def near_duplicates(
    sketches: Sequence[Sketch], threshold: float, groups: Sequence[Hashable] | None = None
) -> list[int | None]:
    """For each sketch the index of the earlier one that it is a near-duplicate of, or None.

    Near-duplicates have the same particulars and calls and share at least `threshold` of their 3-word runs (Jaccard
    similarity). One that is itself a near-duplicate is not compared with later ones.

    Args:
        groups: of each sketch; two of one group, such as attempts at one task, are not compared.
    """
    groups = range(len(sketches)) if groups is None else groups
    subjects = {(s.subject, group) for s, group in zip(sketches, groups, strict=True)}
    count = Counter(subject for subject, _ in subjects)
    lsh = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_bands(threshold))
    matches: list[int | None] = [None] * len(sketches)
    for i, own in enumerate(sketches):
        if count[own.subject] < 2 or not len(own.grams):
            continue
        # The subject is in each member of the set, so only texts about the same things become candidates.
        minhash = RMinHash(num_perm=_PERMUTATIONS, seed=0)
        minhash.update([gram.tobytes() for gram in own.grams ^ own.subject])
        similar = (
            j
            for j in sorted(lsh.query(minhash))
            if groups[j] != groups[i]
            and sketches[j].subject == own.subject
            and _jaccard(own.grams, sketches[j].grams) >= threshold - _TINY
        )
        matches[i] = next(similar, None)
        if matches[i] is None:
            lsh.insert(i, minhash)
    return matches


_PERMUTATIONS = 128
_MISSED = 1e-6  # of the pairs exactly at the threshold, whose bands may all differ by chance


def _bands(threshold: float) -> int:
    """The fewest bands of _PERMUTATIONS that find all but _MISSED of the pairs whose similarity is the threshold."""
    for bands in (1, 2, 4, 8, 16, 32, 64):
        if (1 - threshold ** (_PERMUTATIONS // bands)) ** bands <= _MISSED:
            return bands
    return _PERMUTATIONS


def _jaccard(one: _Hashes, other: _Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class Exam:
    """The requests of an exam, to find those that a training request contains or repeats.

    It repeats one if it has all particulars of it, and shares at least `threshold` of the 3-word runs of both (Jaccard
    similarity) or of the 8-word runs of the shorter text, which finds a request quoted inside a longer text.

    Args:
        names: further names of each request, as `named_values` returns them.
    """

    def __init__(
        self,
        requests: Sequence[str],
        threshold: float,
        names: Sequence[Collection[str]] | None = None,
    ) -> None:
        self._threshold = threshold
        self._names = names or [()] * len(requests)
        self._particulars = [particulars(text) for text in requests]
        self._grams = [(grams(text, SHINGLE), grams(text, PHRASE)) for text in requests]
        # Requests of one template share most of their words. The rarest particular tells them apart.
        frequency = Counter(word for words in self._particulars for word in words)
        self._holders: dict[str | None, list[int]] = defaultdict(list)
        for index, words in enumerate(self._particulars):
            rarest = min(words, key=lambda word: (frequency[word], word), default=None)
            self._holders[rarest].append(index)

    def find(self, text: str) -> int | None:
        """The index of the first request of the exam that a text contains or repeats, or None."""
        own_words = particulars(text)
        candidates = sorted(
            index for word in (None, *own_words) for index in self._holders.get(word, ())
        )
        own: tuple[frozenset[Gram], frozenset[Gram]] | None = None
        for index in candidates:
            if self._particulars[index] <= own_words and all(
                name in text for name in self._names[index]
            ):
                own = own or (grams(text, SHINGLE), grams(text, PHRASE))
                if self._is_like(own, self._grams[index]):
                    return index
        return None

    def _is_like(
        self,
        own: tuple[frozenset[Gram], frozenset[Gram]],
        other: tuple[frozenset[Gram], frozenset[Gram]],
    ) -> bool:
        runs, phrases = len(own[0] & other[0]), len(own[1] & other[1])
        of_both = len(own[0]) + len(other[0]) - runs
        of_shorter = min(len(own[1]), len(other[1]))
        return (runs > 0 and runs >= self._threshold * of_both - _TINY) or (
            phrases > 0 and phrases >= self._threshold * of_shorter - _TINY
        )


# Of the 256 bits of an image's difference hash: noise and rounding change a bit or two between renderings of one page.
# Two other digits on an almost empty page change no more, so the content has to be the same as well.
IMAGE_BITS = 2


class SameImages:
    """Finds images that are the same to a reader as an earlier one.

    Two images are the same if their content is, and their difference hashes differ in at most IMAGE_BITS bits. Such
    hashes are equal in at least one of IMAGE_BITS + 1 parts, so only images that share a part are compared.
    """

    def __init__(self) -> None:
        # By content, number and bits of a part: name and hash of each first image.
        self._holders: dict[tuple[str, int, str], list[tuple[str, int]]] = defaultdict(list)

    def first(self, name: str, look: ImageLook) -> str:
        """The name of the first image that was the same, of all that were asked for; its own if there was none."""
        text, content = look
        own = int(text, 16)
        bits = f"{own:0{4 * len(text)}b}"
        parts = IMAGE_BITS + 1
        # A part takes every third bit: consecutive bits may be the margin that all pages have.
        keys = [(content, part, bits[part::parts]) for part in range(parts)]
        for key in keys:
            for other, hashed in self._holders[key]:
                if (hashed ^ own).bit_count() <= IMAGE_BITS:
                    return other
        for key in keys:
            self._holders[key].append((name, own))
        return name
