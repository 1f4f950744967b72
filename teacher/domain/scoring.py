"""Scores an episode: whether its final text gives the answer, and the hash by which two states of a world are compared.

Answers are read as a person would read them: an amount may be written 12500, 12,500 or EUR 12,500.00, a date
2026-03-02 or 2 March 2026. A text that lists more than MAX_CANDIDATES values does not pass.
"""

import datetime as dt
import re
from typing import Any

from schemas.canonical import canonical
from schemas.files import dumps, sha256_text
from schemas.task import Answer
from teacher.domain.json_answers import json_problem
from teacher.domain.json_values import to_json

MAX_CANDIDATES = 3
MAX_TEXT = 600

# A comma separates thousands. 12,5 is ambiguous, so it matches no number.
_NUMBER = re.compile(r"(?<![\w.,-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)")
MONTHS = (
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

# The ways in which English states that an image does not show something. Each names the showing or the page: "is not
# 30" and "not yet due" do not match, because they state facts that the image does show.
_PAGE = (
    r"(?:on|in|from|of) (?:the|this|that|these|any of the) (?:\w+ )?(?:page|image|picture|document|chart|diagram|screen"
    r"|screenshot|table|figure|scan|form|letter|invoice)s?"
)
_SHOWN = (
    r"(?:(?:show|display|contain|include|list|state|mention|give|present|appear|depict|record|report|print|provide"
    r"|define|indicate|note|cover|say|name|have|label)(?:s|n|d|ed|ing)?|specif(?:y|ies|ied)|identif(?:y|ies|ied)|given|found"
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

# The ways in which English states that something cannot or will not be done.
_DECLINES = re.compile(
    r"\b(?:cannot|can not|can['\u2019]t|could not|couldn['\u2019]t|will not|won['\u2019]t|unable to|not able to"
    r"|not possible)\b"
    r"|\bno (?:\w+ ){0,2}(?:tool|way|function|means)s?\b|\bnone of (?:my|the|these) (?:\w+ ){0,2}(?:tool|function)s\b"
    r"|\b(?:do not|don['\u2019]t) have (?:a|any|the|access)\b|\bnot (?:allowed|permitted|something I)\b"
    r"|\b(?:must|have to|need to) (?:decline|refuse)\b|\b(?:decline|refuse) (?:to|this|that|the)\b"
    r"|\b(?:against|outside) (?:the|our|my|what)\b|\bpolicy (?:forbids|does not allow|prohibits)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\?|\b(?:please|kindly) (?:\w+ ){0,2}?(?:tell|give|provide|specify|confirm|name|send|share|state|let)\b"
    r"|\b(?:tell|give|send) me\b|\blet me know\b|\bI (?:still )?(?:need|require)\b",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Returns whether a text states that what was asked cannot or will not be done.

    >>> [declines(text) for text in ("I cannot do that.", "None of my tools does that.", "It is not open.")]
    [True, True, False]
    """
    return _DECLINES.search(text) is not None


def asks(text: str) -> bool:
    """Returns whether a text asks its reader for something.

    >>> [asks(text) for text in ("Which contract?", "Please tell me the number.", "It expires soon.")]
    [True, True, False]
    """
    return _ASKS.search(text) is not None


def answer_matches(answer: Answer, text: str, *, parts: int = 1) -> bool:
    """Returns whether the final text, the assistant's last message, gives the expected answer of a task.

    An empty text or one of more than 600 characters gives none, nor does one that lists more than three numbers (where
    a number is expected) or dates (where a date is).

    parts: answers that the text gives, this one among them; the limits hold for each.

    amount, number: the text has the value within `tolerance` (absolute, 0 by default). Commas separate thousands.
        Numbers inside words and dates, such as C-1042, do not count, nor do numbers in words.

    >>> from teacher.domain import Answer
    >>> from teacher.domain.scoring import answer_matches
    >>> cap = Answer("amount", 12500).as_row()
    >>> [answer_matches(cap, text) for text in ("The cap is EUR 12,500.00.", "12500", "It is 12500 for C-104.")]
    [True, True, True]
    >>> [answer_matches(cap, text) for text in ("EUR 12.500", "12501", "12.5 thousand", "See C-12500.")]
    [False, False, False, False]
    >>> about_30 = Answer("number", 30, tolerance=0.5).as_row()
    >>> [answer_matches(about_30, text) for text in ("About 30.4 hours.", "31 hours", "thirty hours", "1, 2, 29 or 30")]
    [True, False, False, False]

    date: the text has the date, in ISO form or with the month's name.

    >>> due = Answer("date", "2026-03-02").as_row()
    >>> [answer_matches(due, text) for text in ("On 2026-03-02.", "2 March 2026", "Mar 2nd, 2026")]
    [True, True, True]
    >>> [answer_matches(due, text) for text in ("02/03/2026", "2 March", "2026-03-03")]
    [False, False, False]

    text: the text has the words, in order, whatever their case.

    >>> lawyer = Answer("text", "Ada Nore").as_row()
    >>> [answer_matches(lawyer, text) for text in ("It is ADA NORE.", "Ada  Nore's matter", "Nore, Ada", "Ada Norell")]
    [True, True, False, False]

    choice: the text has this one of the `options` and no other. A longer option hides the shorter ones inside it.

    >>> status = Answer("choice", "not active", options=("active", "not active", "closed")).as_row()
    >>> [answer_matches(status, text) for text in ("It is not active.", "It is active.", "Not active, closed.")]
    [True, False, False]

    point: the text has one pair of coordinates, inside the box: right and bottom are exclusive.

    >>> button = Answer("point", [100, 40, 180, 60]).as_row()
    >>> [answer_matches(button, text) for text in ("Click (120, 50).", "x=120, y=50", "(180, 50)", "(120, 50), (9, 9)")]
    [True, True, False, False]

    json: the text is a JSON object that is valid by the `schema` and equal to `value`, field by field. Lists are
        compared in order, those with uniqueItems without.

    >>> form = {"type": "object", "properties": {"fee": {"type": ["integer", "null"]}}, "required": ["fee"]}
    >>> fee = Answer("json", {"fee": 120}, schema=form).as_row()
    >>> [answer_matches(fee, text) for text in ('{"fee": 120}', '{"fee": null}', 'It is {"fee": 120}.')]
    [True, False, False]

    not_shown: the text states that the image does not show the requested fact, whatever else it states.

    >>> absent = Answer("not_shown").as_row()
    >>> [answer_matches(absent, text) for text in ("The page does not show it.", "I cannot find a due date.")]
    [True, True]
    >>> [answer_matches(absent, text) for text in ("It is not 30.", "It is not yet due.", "Unknown.")]
    [False, False, False]

    declines: the text states that what was asked cannot be done.
    >>> cannot = Answer("declines").as_row()
    >>> [answer_matches(cannot, text) for text in ("I cannot do that.", "None of my tools does that.", "It is 30.")]
    [True, True, False]

    asks: the text asks, and has one of the `options`, the words for what is missing.
    refuses: the text declines, and has one of the `options`, the words of the reason.

    >>> missing = Answer("asks", "contract", options=("contract", "C-")).as_row()
    >>> [answer_matches(missing, text) for text in ("Which contract?", "Contract C-104 expires soon.", "Which one?")]
    [True, False, False]
    >>> long_entry = Answer("refuses", "at most 4 hours", options=("4 hours", "four hours")).as_row()
    >>> [answer_matches(long_entry, text) for text in ("I cannot log more than 4 hours at once.", "I cannot do that.")]
    [True, False]
    """
    kind, value = answer["type"], answer["value"]
    if kind == "json":
        return json_problem(answer["schema"], value, text) is None
    if not text.strip() or len(text) > MAX_TEXT * parts:
        return False
    if kind == "choice":
        options = {option for option in answer["options"] if contains_words(text, option)}
        # "not active" contains "active": a longer option in the text hides the shorter ones inside it.
        options = {o for o in options if not any(o != p and contains_words(p, o) for p in options)}
        return options == {value}
    if kind == "text":
        return contains_words(text, value)
    if kind == "point":
        points = {tuple(float(n) for n in groups if n) for groups in _POINT.findall(text)}
        left, top, right, bottom = value
        return len(points) == 1 and all(left <= x < right and top <= y < bottom for x, y in points)
    if kind == "declines":
        return declines(text)
    if kind in ("asks", "refuses"):
        # The question is about what is missing: both are in one sentence. A reason may be in another one.
        sentences = re.findall(r"[^.!?\n]+[.!?]*", text) if kind == "asks" else [text]
        is_it = _ASKS.search if kind == "asks" else _DECLINES.search
        words = answer["options"]
        return any(
            is_it(part) and any(contains_words(part, w) for w in words) for part in sentences
        )
    if kind == "not_shown":
        return _NOT_SHOWN.search(text) is not None
    if kind == "date":
        dates = _dates_in(text)
        return value in dates and len(dates) <= MAX_CANDIDATES * parts
    # Digits of dates and of identifiers such as C-1042 are not amounts.
    without_dates = _ISO.sub(" ", _DAY_MONTH.sub(" ", _MONTH_DAY.sub(" ", text)))
    numbers = {float(match.replace(",", "")) for match in _NUMBER.findall(without_dates)}
    is_near = any(abs(number - value) <= answer.get("tolerance", 0) for number in numbers)
    return is_near and len(numbers) <= MAX_CANDIDATES * parts


def state_hash(state: Any) -> str:
    """Returns the sha256 of a world's state (`Environment._state`), by which two states are compared.

    15.0 and 15 are the same: a call's arguments are canonical, what a world computes need not be.

    Raises:
        NotJson: the state has no form in JSON.
    """
    return sha256_text(dumps(canonical(to_json(state, name="state"))))


def contains_words(text: str, words: str) -> bool:
    """Returns whether a text has these words, in order, whatever the case and the space between them."""
    spaced = r"\s+".join(re.escape(word) for word in words.split())
    return re.search(rf"(?<!\w){spaced}(?!\w)", text, re.IGNORECASE) is not None


def _dates_in(text: str) -> set[str]:
    """Returns the dates in a text, in ISO form."""
    parts = [(int(y), int(m), int(d)) for y, m, d in _ISO.findall(text)]
    parts += [(int(y), _month_number(m), int(d)) for d, m, y in _DAY_MONTH.findall(text)]
    parts += [(int(y), _month_number(m), int(d)) for m, d, y in _MONTH_DAY.findall(text)]
    dates = set()
    for year, month, day in parts:
        try:
            dates.add(dt.date(year, month, day).isoformat())
        except ValueError:
            continue  # not a date: 31 June, or a word that names no month
    return dates


def _month_number(word: str) -> int:
    """Returns the number of a month by its name or abbreviation, or 0 if the word is neither."""
    numbers = (i for i, name in enumerate(MONTHS, 1) if name.startswith(word.lower()))
    return next(numbers, 0)
