"""Whether an episode reached its goal: the answer in the final text, the state of the world.

Checks read the text as a person would: an amount may be written 12500, 12,500 or EUR 12,500.00, a date
2026-03-02 or 2 March 2026. A text that lists many values in the hope that one is right does not pass.
"""

import datetime as dt
import re
from typing import Any

from schemas.files import dumps, sha256_text

MAX_CANDIDATES = 3
MAX_TEXT = 600

# A comma parts thousands: 12,5 is no 125, and which number it is cannot be known.
_NUMBER = re.compile(r"(?<![\w.,-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)")
_MONTHS = (
    "january february march april may june july august september october november december".split()  # noqa: SIM905
)
_DAY_MONTH = re.compile(
    r"\b(\d{1,2})(?:st|nd|rd|th)?\s+(?:of\s+)?([a-z]{3,9})\.?,?\s+(\d{4})\b", re.IGNORECASE
)
_MONTH_DAY = re.compile(
    r"\b([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})\b", re.IGNORECASE
)
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")

# (412, 88), [412, 88], x=412, y=88, x: 412 y: 88.
_POINT = re.compile(
    r"[(\[]\s*(?:x\s*[=:]\s*)?(\d+(?:\.\d+)?)\s*(?:px)?\s*,\s*(?:y\s*[=:]\s*)?(\d+(?:\.\d+)?)\s*(?:px)?\s*[)\]]"
    r"|\bx\s*[=:]\s*(\d+(?:\.\d+)?)(?:\s*px)?[\s,;]*(?:and\s+)?y\s*[=:]\s*(\d+(?:\.\d+)?)",
    re.IGNORECASE,
)

# The ways in which English says that something is not to be seen. Each names the showing or the page: that something
# "is not 30" or "not yet due" says nothing of what is shown.
_PAGE = (
    r"(?:on|in|from|of) (?:the|this|that|these|any of the) (?:\w+ )?(?:page|image|picture|document|chart|diagram|screen"
    r"|screenshot|table|figure|scan|form|letter|invoice)s?"
)
_SHOWN = (
    r"(?:(?:show|display|contain|include|list|state|mention|give|present|appear|depict|record|report|print|provide|define"
    r"|indicate|note|cover|say|name|have|label)(?:s|n|d|ed|ing)?|specif(?:y|ies|ied)|identif(?:y|ies|ied)|given|found"
    rf"|visible|legible|available|seen|shown|written|{_PAGE})"
)
_NOT_SHOWN = re.compile(
    rf"(?:\bnot|n['\u2019]t|\bnowhere|\bnever)\s+(?:\w+\s+){{0,2}}?{_SHOWN}\b"
    r"|\b(?:cannot|can not|can['\u2019]t|could not|couldn['\u2019]t|unable to|not able to)\s+(?:\w+\s+){0,2}?"
    r"(?:see|find|read|determine|tell|locate|identify|answer|confirm|make out)\b"
    rf"|\b(?:no|none|nothing|neither)\s[^.,;]{{0,80}}?\b{_SHOWN}\b"
    r"|\b(?:shows?|has|have|contains?|lists?|includes?|gives?|states?|mentions?)\s+(?:no|nothing|none|neither)\b"
    r"|\b(?:missing|absent)\s+from\b",
    re.IGNORECASE,
)


def answer_matches(answer: dict[str, Any], text: str) -> bool:
    """Whether the final text gives the expected answer.

    Args:
        answer: {"type", "value", "tolerance"?, "options"?} of a task. `amount`, `number`: the value within
            `tolerance` (absolute, 0 by default); `date`: an ISO date; `text`: the words, in order, whatever
            the case; `choice`: one of `options`, and no other of them; `point`: one pair of coordinates, in the
            box `value`; `not_shown`: that the picture does not show what was asked for, whatever else is said.
        text: the assistant's last message.
    """
    if not text.strip() or len(text) > MAX_TEXT:
        return False
    kind, value = answer["type"], answer["value"]
    if kind == "choice":
        named = {option for option in answer["options"] if says(text, option)}
        # "not active" contains "active": a longer option that is named hides the shorter ones inside it.
        named = {o for o in named if not any(o != p and says(p, o) for p in named)}
        return named == {value}
    if kind == "text":
        return says(text, value)
    if kind == "point":
        points = {tuple(float(n) for n in found if n) for found in _POINT.findall(text)}
        left, top, right, bottom = value
        return len(points) == 1 and all(left <= x < right and top <= y < bottom for x, y in points)
    if kind == "not_shown":
        return _NOT_SHOWN.search(text) is not None
    if kind == "date":
        dates = _dates(text)
        return value in dates and len(dates) <= MAX_CANDIDATES
    # Digits of dates and of identifiers such as C-1042 are not amounts.
    bare = _ISO.sub(" ", _DAY_MONTH.sub(" ", _MONTH_DAY.sub(" ", text)))
    numbers = {float(match.replace(",", "")) for match in _NUMBER.findall(bare)}
    near = any(abs(number - value) <= answer.get("tolerance", 0) for number in numbers)
    return near and len(numbers) <= MAX_CANDIDATES


def state_hash(state: Any) -> str:
    """sha256 of the world's state, an answer to "did the agent change what it should, and only that"."""
    return sha256_text(dumps(state))


def says(text: str, words: str) -> bool:
    """Whether a text has these words, in order, whatever the case and the space between them."""
    spaced = r"\s+".join(re.escape(word) for word in words.split())
    return re.search(rf"(?<!\w){spaced}(?!\w)", text, re.IGNORECASE) is not None


def _dates(text: str) -> set[str]:
    found = [(int(y), int(m), int(d)) for y, m, d in _ISO.findall(text)]
    found += [(int(y), _month(m), int(d)) for d, m, y in _DAY_MONTH.findall(text)]
    found += [(int(y), _month(m), int(d)) for m, d, y in _MONTH_DAY.findall(text)]
    dates = set()
    for year, month, day in found:
        try:
            dates.add(dt.date(year, month, day).isoformat())
        except ValueError:
            continue  # 31 June, or a word that is no month: not a date
    return dates


def _month(word: str) -> int:
    found = (number for number, name in enumerate(_MONTHS, 1) if name.startswith(word.lower()))
    return next(found, 0)
