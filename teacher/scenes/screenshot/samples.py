"""Screens of invented applications, for tests and benchmarks: forms, tables, dialogs and editors."""

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

_APPLICATIONS = (
    "Harbour Freight Desk", "Ledgerly", "Clinic Planner 4", "Stockroom", "Northwind Mail", "Rota", "Fieldnotes",
    "Depot", "Quill CRM", "Meter Reader Pro", "Tallyhouse", "Foundry Console",
)  # fmt: skip
_GIVEN = (
    "Amal", "Birgit", "Chidi", "Dana", "Eero", "Fatou", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lucía", "Mina",
    "Noor", "Oskar", "Pia",
)  # fmt: skip
_FAMILY = (
    "Abara", "Brandt", "Costa", "Dvořák", "Eklund", "Fischer", "Grant", "Hale", "Ito", "Jensen", "Khan", "Lund",
    "Moreau", "Novak",
)  # fmt: skip
_GOODS = (
    "Hex bolts M8", "Copper pipe 15 mm", "LED panel", "Oak board", "Safety gloves", "Paint, white, 5 l",
    "Ball bearing 6204", "Cable drum 50 m", "Filter cartridge", "Door hinge", "Epoxy resin", "Steel mesh",
)  # fmt: skip
_TOWNS = (
    "Aarhus", "Bergen", "Cork", "Delft", "Essen", "Faro", "Ghent", "Turku", "Lyon", "Porto", "Riga", "Siena",
    "Trieste", "Umeå",
)  # fmt: skip
_STATUS = ("open", "on hold", "in transit", "delivered", "cancelled", "overdue")
_PRIORITY = ("low", "normal", "high", "urgent")
_BUTTONS = ("Save", "Cancel", "Delete", "Export", "Apply", "Refresh", "Print", "New order", "Close")
_WORDS = (
    "cache", "parcel", "invoice", "tariff", "route", "batch", "sensor", "ticket", "window", "buffer", "ledger",
    "quota",
)  # fmt: skip


def example(rng: random.Random) -> dict[str, Any]:
    """The data of a screen of any variant."""
    data = rng.choice((_form, _table, _table, _dialog, _editor, _editor))(rng)
    if rng.random() < 0.9:
        data["application"] = rng.choice(_APPLICATIONS)
    return data


def _form(rng: random.Random) -> dict[str, Any]:
    fields = _fields(rng, rng.randrange(3, 13))
    data: dict[str, Any] = {"variant": "form", "title": _title(rng), "fields": fields}
    if rng.random() < 0.4:
        data["message"] = _message(rng)
    if rng.random() < 0.3:
        data["table"] = _rows(rng, rng.randrange(2, 5), 3)
    data["buttons"] = rng.sample(_BUTTONS, rng.randrange(1, 4))
    return data


def _table(rng: random.Random) -> dict[str, Any]:
    table = _rows(rng, rng.randrange(3, 19), rng.randrange(3, 8))
    data: dict[str, Any] = {"variant": "table", "title": _title(rng), "table": table}
    if rng.random() < 0.3:
        data["message"] = _message(rng)
    if rng.random() < 0.6:
        data["buttons"] = rng.sample(_BUTTONS, rng.randrange(1, 5))
    if rng.random() < 0.3:
        data["fields"] = _fields(rng, 2)
    return data


def _dialog(rng: random.Random) -> dict[str, Any]:
    data: dict[str, Any] = {"variant": "dialog", "title": _title(rng), "message": _message(rng)}
    if rng.random() < 0.6:
        data["fields"] = _fields(rng, rng.randrange(1, 6))
    elif rng.random() < 0.3:
        data["table"] = _rows(rng, rng.randrange(2, 5), 3)
    data["buttons"] = rng.sample(_BUTTONS, rng.randrange(1, 4))
    return data


def _editor(rng: random.Random) -> dict[str, Any]:
    data = rng.choice((_python, _query, _page, _script))(rng)
    data |= {"variant": "editor"}
    if rng.random() < 0.5:
        lines = data["code"].splitlines()
        data["highlight"] = rng.choice([n for n, line in enumerate(lines, 1) if line.strip()])
    return data


# ---------------------------------------------------------------------------------- forms and tables


def _fields(rng: random.Random, count: int) -> dict[str, Any]:
    makers: dict[str, Callable[[random.Random], Any]] = {
        "Order number": lambda r: f"PO-{r.randrange(10_000, 99_999)}",
        "Customer": _person,
        "Delivery town": lambda r: r.choice(_TOWNS),
        "Order date": _date,
        "Due by": _date,
        "Net amount": lambda r: f"EUR {r.randrange(100, 90_000):,}.{r.randrange(100):02}",
        "Discount": lambda r: f"{r.randrange(1, 40) / 2} %",
        "Quantity": lambda r: r.randrange(1, 5_000),
        "Status": lambda r: r.choice(_STATUS),
        "Priority": lambda r: r.choice(_PRIORITY),
        "E-mail": lambda r: f"{r.choice(_GIVEN).lower()}@{r.choice(_WORDS)}.example",
        "Payment term": lambda r: f"{r.randrange(5, 90)} days",
        "Notify by e-mail": lambda r: r.random() < 0.5,
        "Two-factor sign-in": lambda r: r.random() < 0.5,
        "Session timeout (minutes)": lambda r: r.randrange(5, 240),
        "Last reading of the meter, in kilowatt hours": lambda r: f"{r.randrange(1_000, 99_999):,}",
        "Remark": _message,
        "Storage bay": lambda r: f"{r.choice('ABCDEF')}-{r.randrange(1, 60):02}",
        "Weight": lambda r: f"{r.randrange(10, 9_000) / 10} kg",
        "Assigned to": _person,
    }
    return {label: makers[label](rng) for label in rng.sample(list(makers), count)}


def _rows(rng: random.Random, rows: int, columns: int) -> dict[str, Any]:
    number = rng.randrange(1_000, 9_000)
    makers: dict[str, Callable[[int], Any]] = {
        "No.": lambda i: f"T-{number + i}",
        "Item": lambda i: rng.choice(_GOODS),
        "Quantity": lambda i: rng.randrange(1, 900),
        "Unit price": lambda i: f"{rng.randrange(50, 99_999) / 100:,.2f}",
        "Status": lambda i: rng.choice(_STATUS),
        "Owner": lambda i: _person(rng),
        "Town": lambda i: rng.choice(_TOWNS),
        "Updated": lambda i: _date(rng),
        "Priority": lambda i: rng.choice(_PRIORITY),
        "Note": lambda i: _message(rng) if rng.random() < 0.3 else rng.choice(_WORDS),
    }
    names = ["No.", *rng.sample(list(makers)[1:], columns - 1)]
    return {"columns": names, "rows": [[makers[name](i) for name in names] for i in range(rows)]}


def _person(rng: random.Random) -> str:
    return f"{rng.choice(_GIVEN)} {rng.choice(_FAMILY)}"


def _date(rng: random.Random) -> str:
    day = dt.date(2024, 1, 1) + dt.timedelta(days=rng.randrange(1_000))
    return day.isoformat() if rng.random() < 0.7 else f"{day.day} {day:%B %Y}"


def _title(rng: random.Random) -> str:
    return rng.choice(
        (
            f"Order {rng.randrange(1_000, 9_999)}",
            f"Shipments to {rng.choice(_TOWNS)}",
            f"Edit {rng.choice(_WORDS)}",
            f"{_person(rng)}: account",
            f"Stock at {_date(rng)}",
            f"Open {rng.choice(_WORDS)} reports",
            f"Confirm {rng.choice(_WORDS)} change",
        )
    )


def _message(rng: random.Random) -> str:
    return rng.choice(
        (
            f"{rng.randrange(2, 40)} changes have not been saved since {_date(rng)}.",
            f"The {rng.choice(_WORDS)} service answers in {rng.randrange(40, 900)} ms, limit 250 ms.",
            f"{_person(rng)} is editing this record; it can be changed again in"
            f" {rng.randrange(2, 30)} minutes.",
            f"Deliveries to {rng.choice(_TOWNS)} are delayed by {rng.randrange(2, 9)} days.",
            f"Backup of the {rng.choice(_WORDS)} database took {rng.randrange(3, 90)} minutes and"
            f" stored {rng.randrange(2, 800)} GB; the next one begins at {rng.randrange(1, 6):02}:30.",
        )
    )


# ------------------------------------------------------------------------------------- code and page


def _python(rng: random.Random) -> dict[str, Any]:
    thing, limit = rng.choice(_WORDS), rng.randrange(10, 60)
    prices = [rng.randrange(5, 99) for _ in range(rng.randrange(3, 7))]
    factor = rng.randrange(2, 9)
    code = (
        f'"""Totals of each {thing}."""\n\nLIMIT = {limit}\n\n\n'
        f"def {thing}_total(values: list[int], factor: int = {factor}) -> int:\n"
        "    total = 0\n"
        "    for value in values:\n"
        f"        if value > LIMIT:  # dear ones count {factor} times\n"
        "            value *= factor\n"
        "        total += value\n"
        "    return total\n\n\n"
        f"{thing}s = {prices}\n"
        f"for count in range(1, len({thing}s) + 1):\n"
        f'    print(f"{{count}} {thing}s: {{{thing}_total({thing}s[:count])}}")\n'
    )
    sums = [
        sum(p * factor if p > limit else p for p in prices[:n]) for n in range(1, len(prices) + 1)
    ]
    output = "\n".join(f"{n} {thing}s: {total}" for n, total in enumerate(sums, 1))
    return {"title": f"{thing}s.py", "code": code, "language": "python", "output": output}


def _query(rng: random.Random) -> dict[str, Any]:
    least = rng.randrange(10, 200)
    stock = [(rng.randrange(5, 900), item, rng.choice(_TOWNS)) for item in rng.sample(_GOODS, 7)]
    rows = [[item, count, town] for count, item, town in sorted(stock)[::-1] if count >= least]
    code = (
        "-- What has to be moved this week\n"
        "SELECT item, quantity, town\n"
        "FROM stock\n"
        f"WHERE quantity >= {least}\n"
        f"  AND counted_on > '{dt.date(2025, 1, 1) + dt.timedelta(days=rng.randrange(300))}'\n"
        "ORDER BY quantity DESC\n"
        "LIMIT 20;\n"
    )
    data: dict[str, Any] = {"title": f"{rng.choice(_WORDS)}.sql", "code": code, "language": "sql"}
    if rows:
        data["table"] = {"columns": ["item", "quantity", "town"], "rows": rows}
    else:
        data["output"] = "0 rows"
    return data


def _page(rng: random.Random) -> dict[str, Any]:
    fields = {
        k: v for k, v in _fields(rng, rng.randrange(2, 6)).items() if isinstance(v, (str, int))
    }
    name, button = rng.choice(_WORDS), rng.choice(_BUTTONS)
    lines = [f'<form id="{name}">']
    for label, value in fields.items():
        if isinstance(value, bool):
            entry = f'<input type="checkbox"{" checked" if value else ""}>'
        elif len(str(value)) > 30:
            fields[label] = f"{str(value)[:28]}..."
            entry = f"<textarea>{fields[label]}</textarea>"
        else:
            entry = f'<input value="{value}">'
        lines += ["  <label>", f"    {label}", f"    {entry}", "  </label>"]
    lines += [f"  <button>{button}</button>", "</form>"]
    data = {"title": f"{name}.html", "code": "\n".join(lines) + "\n", "language": "html"}
    return {**data, "fields": fields, "buttons": [button]}


def _script(rng: random.Random) -> dict[str, Any]:
    thing, towns = rng.choice(_WORDS), rng.sample(_TOWNS, rng.randrange(3, 7))
    counts = [rng.randrange(1, 120) for _ in towns]
    limit = rng.randrange(20, 100)
    entries = "".join(
        f'  {{ town: "{town}", count: {count} }},\n'
        for town, count in zip(towns, counts, strict=True)
    )
    code = (
        f"const {thing}s = [\n{entries}];\n\n"
        f"// More than {limit} take a second van.\n"
        f"export function vans({{ count }}) {{\n  return count > {limit} ? 2 : 1;\n}}\n\n"
        f"showTable({thing}s.map((row) => ({{ ...row, vans: vans(row) }})));\n"
        f"showNotice(`${{{thing}s.length}} towns, limit {limit}`);\n"
    )
    rows = [[t, c, 2 if c > limit else 1] for t, c in zip(towns, counts, strict=True)]
    return {
        "title": f"{thing}s.js",
        "code": code,
        "language": "javascript",
        "message": f"{len(towns)} towns, limit {limit}",
        "table": {"columns": ["town", "count", "vans"], "rows": rows},
    }
