"""Invented pages of every variant, for tests and benchmarks."""

import datetime as dt
import random
from typing import Any

_FIRST = (
    "Ada", "Anton", "Bea", "Carl", "Cleo", "Dora", "Emil", "Edith", "Felix", "Greta", "Hugo", "Ida",
)  # fmt: skip
_LAST = (
    "Ardby", "Belden", "Calgate", "Corley", "Darmere", "Ellmond", "Fenwick", "Hollow", "Kelvale",
)  # fmt: skip
_TRADES = (
    "Analytics", "Ceramics", "Energy", "Foods", "Freight", "Glass", "Logistics", "Marine", "Rail",
)  # fmt: skip
_TERMS = {
    "Liability cap": "EUR {money}",
    "Payment term": "{days} business days",
    "Notice period": "{days} business days",
    "Late payment interest": "{percent} percent",
    "Early termination fee": "EUR {money}",
    "Governing law": "{law}",
    "Renewal": "{months} months, unless notice is given before the end of the notice period",
}
_CLAUSES = (
    ("Term", "This agreement begins on {date} and runs for {months} months."),
    ("Fees", "The customer pays EUR {money} a month, within {days} business days of the invoice."),
    (
        "Liability",
        "Neither party is liable for more than EUR {money} in a contract year. The cap does not"
        " apply to wilful acts, nor to what the law does not let a party exclude.",
    ),
    ("Notices", "A notice is given in writing and counts from the day on which it was received."),
    (
        "Confidentiality",
        "What a party learns of the other's business it keeps to itself for {months} months after"
        " the end of this agreement, and shows to advisers only as far as they need it.",
    ),
    (
        "Audit",
        "The supplier keeps its records for {months} months and opens them on {days} days' notice.",
    ),
    ("Governing law", "The law of {law} governs this agreement."),
)
_GOODS = (
    "Review of drafts",
    "Court filing",
    "Translation",
    "Courier",
    "Site visit",
    "Data room",
    "Travel",
)
_LETTERS = (
    "Thank you for your letter of {date}. We have reviewed the figures and agree to EUR {money}.",
    "Please let us have your comments by {date}, as our client must reply within {days} business days.",
    "We enclose the signed copy. The next instalment of EUR {money} falls due on {date}.",
    "Our client reserves all rights, in particular those under clause {months}.2 of the agreement.",
)
_STAMPS = ("EXECUTED", "PAID", "RECEIVED", "COPY", "APPROVED", "ORIGINAL", "FILED")


def example(rng: random.Random) -> dict[str, Any]:
    """The data of a page: any variant, with a random choice of optional parts."""
    variant = rng.choice(("contract", "amendment", "invoice", "table", "letter"))
    data: dict[str, Any] = {"variant": variant, "title": _title(variant, rng)}
    if rng.random() < 0.8:
        data["number"] = f"{rng.choice('ACIN')}-{rng.randrange(100, 10000)}"
    if rng.random() < 0.8:
        data["date"] = _date(rng)
    if variant != "table":
        data["parties"] = [f"{rng.choice(_LAST)} {rng.choice(_TRADES)} Ltd" for _ in range(2)]
    if variant == "contract":
        clauses = rng.sample(_CLAUSES, rng.randrange(2, len(_CLAUSES) + 1))
        data["paragraphs"] = [
            {"heading": f"{number}. {heading}", "text": _fill(text, rng)}
            for number, (heading, text) in enumerate(clauses, 1)
        ]
    elif variant == "letter":
        texts = rng.sample(_LETTERS, rng.randrange(1, 4))
        data["paragraphs"] = [{"text": _fill(text, rng)} for text in texts]
    if variant in ("amendment", "contract") or (variant == "letter" and rng.random() < 0.3):
        labels = rng.sample(sorted(_TERMS), rng.randrange(2, 6))
        data["fields"] = {label: _fill(_TERMS[label], rng) for label in labels}
    if variant == "amendment":
        data["fields"]["Effective date"] = _date(rng)
    if variant in ("invoice", "table"):
        data["table"] = _table(variant, rng)
    if variant == "invoice":
        total = sum(row[-1] for row in data["table"]["rows"])
        data["fields"] = {"Invoice date": _date(rng), "Terms": _fill("{days} days net", rng)}
        data["fields"] |= {"Subtotal": total, "VAT 20%": total // 5, "Total": total + total // 5}
    if variant in ("contract", "amendment", "letter"):
        data["signatures"] = [
            {"name": f"{rng.choice(_FIRST)} {rng.choice(_LAST)}", "date": _date(rng)}
            for _ in range(rng.randrange(1, 3))
        ]
    if rng.random() < 0.4:
        data["stamp"] = rng.choice(_STAMPS) + rng.choice(("", " " + _date(rng)))
    if rng.random() < 0.3:
        data |= {"page": 1, "pages": rng.randrange(1, 5)}
    data["scan"] = rng.random() < 0.5
    return data


def _title(variant: str, rng: random.Random) -> str:
    name = f"{rng.choice(_LAST)} {rng.choice(_TRADES)}"
    return {
        "contract": rng.choice(("Services agreement", "Framework supply agreement with " + name)),
        "amendment": rng.choice(("Amendment", f"Amendment to the agreement with {name}")),
        "invoice": rng.choice(("Invoice", "Tax invoice", "Statement of fees")),
        "table": rng.choice((f"Fees of {name}", "Hours by matter", "Schedule of payments")),
        "letter": rng.choice((f"Re: {name}", "Notice of termination", "Your invoice")),
    }[variant]


def _table(variant: str, rng: random.Random) -> dict[str, Any]:
    if variant == "invoice":
        rows = []
        for good in rng.sample(_GOODS, rng.randrange(2, len(_GOODS))):
            count, price = rng.randrange(1, 40), rng.randrange(20, 900)
            rows.append([good, count, price, count * price])
        return {"columns": ["Description", "Quantity", "Price", "Amount"], "rows": rows}
    columns = ["Matter", "Client", "Hours", "Fees", "Due", "Lawyer"][: rng.randrange(3, 7)]
    rows = []
    for _ in range(rng.randrange(3, 15)):
        client = f"{rng.choice(_LAST)} {rng.choice(_TRADES)}"
        row = [f"M-{rng.randrange(100, 1000)}", client, rng.randrange(5, 900) / 10]
        row += [
            f"{rng.randrange(10, 900) * 50:,}",
            _date(rng),
            f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
        ]
        rows.append(row[: len(columns)])
    return {"columns": columns, "rows": rows}


def _date(rng: random.Random) -> str:
    return (dt.date(2024, 1, 1) + dt.timedelta(rng.randrange(1200))).isoformat()


def _fill(text: str, rng: random.Random) -> str:
    return text.format(
        money=f"{rng.randrange(10, 900) * 500:,}",
        days=rng.randrange(2, 19) * 5,
        percent=rng.randrange(2, 15),
        months=rng.randrange(3, 61),
        law=rng.choice(("England", "Ireland", "Germany", "France")),
        date=_date(rng),
    )
