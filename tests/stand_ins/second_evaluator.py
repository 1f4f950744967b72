"""A second evaluator of question programs. It shares no code with the first, so that it can check it."""

import datetime as dt
import re
from fractions import Fraction
from typing import Any

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905


def flat(data: dict[str, Any]) -> dict[str, Any]:
    """Returns every key of a scene with its value."""
    found: dict[str, Any] = {}
    for name, part in data.items():
        if name == "table" and part:
            for c, head in enumerate(part["columns"]):
                found[f"table.columns.{c}"] = head
            for r, row in enumerate(part["rows"]):
                found |= {f"table.{r}.{c}": cell for c, cell in enumerate(row)}
        elif name == "series":
            for series, numbers in part.items():
                found[f"series.{series}"] = series
                found |= {f"series.{series}.{i}": n for i, n in enumerate(numbers)}
        elif name == "edges":
            found |= {f"edges.{i}": edge[2] for i, edge in enumerate(part) if edge[2:] and edge[2]}
        elif name in ("code", "output"):
            found |= {f"{name}.{i + 1}": line for i, line in enumerate(part.split("\n")) if line}
        elif name == "groups":
            found |= {f"groups.{group}": group for group in part}
        elif isinstance(part, dict):
            found |= {f"{name}.{label}": one for label, one in part.items()}
        elif isinstance(part, list):
            for i, one in enumerate(part):
                inner = one if isinstance(one, dict) else {"": one}
                found |= {f"{name}.{i}" + (f".{k}" if k else ""): v for k, v in inner.items()}
        else:
            found[name] = part
    return {key: one for key, one in found.items() if one is not None}


def quantity(found: Any) -> Any:
    """Returns the Fraction or the date that a reader sees in the value, or None."""
    if isinstance(found, bool):
        return None
    if isinstance(found, (int, float)):
        return Fraction(str(found))
    words = found.replace(",", " ,").split()
    joined = " ".join(words)
    if m := re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", joined):
        return dt.date(int(m[1]), int(m[2]), int(m[3]))
    for form, day, month, year in (
        (r"(\d{1,2}) (\w+) (\d{4})", 1, 2, 3),
        (r"(\w+) (\d{1,2}) , (\d{4})", 2, 1, 3),
    ):
        m = re.fullmatch(form, joined)
        if m and m[month][:3].lower() in _MONTHS:
            return dt.date(int(m[year]), _MONTHS.index(m[month][:3].lower()) + 1, int(m[day]))
    text = found.strip()
    for sign in "€$£%":
        text = text.replace(sign, " ")
    text = re.sub(r"^[A-Z]{3} ?(?=-?\d)|(?<=\d) [A-Z]{3}$", "", text.strip())
    number, *unit = text.split()[:4] or [""]
    if len(unit) > 2 or not all(
        word.isascii() and word.isalpha() and word.islower() for word in unit
    ):
        return None
    whole, _, part = number.removeprefix("-").partition(".")
    groups = whole.split(",")
    if not all(group.isdecimal() for group in groups) or ("." in number and not part.isdecimal()):
        return None
    if len(groups) > 1 and (any(len(g) != 3 for g in groups[1:]) or not 1 <= len(groups[0]) <= 3):
        return None
    if len(groups) == 1 and len(whole) > 1 and whole[0] == "0":
        return None
    return Fraction(number.replace(",", ""))


def evaluate(program: dict[str, Any], pictures: list[dict[str, Any]]) -> Any:
    """Returns the value of a program's answer."""
    tables = [flat(data) for data in pictures]

    def of(cell: dict[str, Any]) -> Any:
        return cell["value"] if "value" in cell else tables[cell["picture"]][cell["key"]]

    def same(one: Any, other: Any) -> bool:
        a, b = quantity(one), quantity(other)
        if a is None and b is None:
            return str(one).lower().split() == str(other).lower().split()
        return a == b

    def as_answer(found: Any) -> Any:
        if isinstance(found, bool):
            return "yes" if found else "no"
        q = quantity(found)
        return str(found) if q is None else q.isoformat() if isinstance(q, dt.date) else float(q)

    op = program["op"]
    if op == "lookup":
        return as_answer(of(program["cell"]))
    if op == "cross_reference":
        pairs = zip(program["among"], program["values"], strict=True)
        (hit,) = [v for k, v in pairs if same(of(k), of(program["cell"]))]
        return as_answer(of(hit))
    values = [of(cell) for cell in program["cells"]]
    chosen = list(range(len(values)))
    if where := program.get("where"):
        beside = [of(cell) for cell in where.get("cells", program["cells"])]
        compare = {
            "=": lambda x: same(x, where["value"]),
            "!=": lambda x: not same(x, where["value"]),
            ">": lambda x: quantity(x) > quantity(where["value"]),
            "<=": lambda x: quantity(x) <= quantity(where["value"]),
            "contains": lambda x: where["value"].lower() in str(x).lower(),
        }[where["is"]]
        chosen = [i for i in chosen if compare(beside[i])]
    if op == "count":
        return len(chosen)
    if op == "consistency":
        return (
            "yes"
            if same(*values)
            else as_answer(values[program["tell"]])
            if "tell" in program
            else "no"
        )
    amounts: dict[int, Any] = {i: quantity(values[i]) for i in chosen}
    if op == "sum":
        return float(sum(amounts.values()))
    if op == "difference":
        gap = amounts[0] - amounts[1]
        return abs(gap.days) if isinstance(gap, dt.timedelta) else float(abs(gap))
    if op == "trend":
        numbers = list(amounts.values())
        if numbers == sorted(numbers) and len(set(numbers)) > 1:
            return "rising"
        if numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 1:
            return "falling"
        return "mixed"
    extreme = max if op == "argmax" else min
    best = extreme(amounts, key=lambda i: amounts[i])
    return as_answer(of(program["names"][best]))
