"""How a reader understands the values in images: as numbers, dates or words. The lowest part of question programs."""

import datetime as dt
import re
from decimal import Decimal
from typing import Any

from teacher.domain.blueprint import Answer

YES_NO = ("yes", "no")

_AMOUNT = re.compile(
    r"(?:[A-Z]{3} ?|[€$£] ?)?(?P<number>-?(?:\d{1,3}(?:,\d{3})+|[1-9]\d*|0)(?:\.\d+)?)"
    r"(?: ?%| ?[€$£]| [A-Z]{3}|(?: [a-z]+){1,2})?"
)
_DATES = ("%Y-%m-%d", "%d %B %Y", "%d %b %Y", "%B %d, %Y")


class ProgramError(ValueError):
    """An invalid program, or a question that the images do not decide; one line that names the part at fault."""


def parse_amount(value: Any) -> Decimal | None:
    """Returns the number in 12500, "12,500", "EUR 12,500.00", "3.5 %", "45 business days"; None for ids and words."""
    if isinstance(value, (int, float)):
        return Decimal(str(value))
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    return Decimal(match["number"].replace(",", "")) if match else None


def parse_date(value: Any) -> dt.date | None:
    """Returns the date that a text is, in any of the forms that images show; None for any other value."""
    if not isinstance(value, str):
        return None
    for form in _DATES:
        try:
            return dt.datetime.strptime(value.strip(), form).date()
        except ValueError:
            continue
    return None


def require_number(value: Any, name: str) -> Decimal:
    """Returns the value as a number. Raises ProgramError, with `name`, if it is not one."""
    amount = None if isinstance(value, bool) else parse_amount(value)
    if amount is None:
        raise ProgramError(f"{name}: {value!r}: expected a number")
    return amount


def require_number_or_date(value: Any, name: str) -> Decimal | dt.date:
    """Returns the value as a number or a date. Raises ProgramError, with `name`, if it is neither."""
    comparable = to_comparable(value)
    if isinstance(value, bool) or isinstance(comparable, str):
        raise ProgramError(f"{name}: {value!r}: expected a number or a date")
    return comparable


def to_comparable(value: Any) -> Any:
    """Returns a value in the form in which cells are compared: a Decimal, a date, or words in lower case."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if (date := parse_date(value)) is not None:
        return date
    if (amount := parse_amount(value)) is not None:
        return amount
    return " ".join(str(value).split()).casefold()


def to_number(number: Decimal) -> int | float:
    """Returns a Decimal as an int if it is whole, else as a float."""
    return int(number) if number == number.to_integral_value() else float(number)


def to_answer(value: Any, tolerance: float = 0.0) -> Answer:
    """Returns the answer that states a value; its type is what the value looks like to a reader."""
    if isinstance(value, bool):
        return Answer("choice", "yes" if value else "no", options=YES_NO)
    if (date := parse_date(value)) is not None:
        return Answer("date", date.isoformat())
    if (amount := parse_amount(value)) is not None:
        return Answer("number", to_number(amount), tolerance)
    return Answer("text", str(value))
