"""Invented charts of every variant, for tests and benchmarks, with plausible figures, names and units."""

import random
from typing import Any

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_PLACES = [
    "Hamburg", "Lyon", "Graz", "Turin", "Bergen", "Porto", "Gdansk", "Ghent", "Basel", "Malmo", "Cork", "Brno",
]  # fmt: skip
_CAUSES = ["Late delivery", "Defective goods", "Disputed invoice", "Breach of confidentiality", "Force majeure",
           "Missing acceptance", "Change of control", "Data loss", "Insolvency of a party"]  # fmt: skip
_COSTS = ["Personnel", "Rent", "Energy", "Licences", "Travel", "Outside counsel", "Insurance", "Depreciation",
          "Marketing", "Maintenance"]  # fmt: skip
_MODELS = [
    "Baseline", "Variant A", "Variant B", "Pruned", "Quantised", "Distilled", "Ensemble", "Large",
]  # fmt: skip
_TEAMS = ["North", "South", "East", "West", "Online", "Retail", "Wholesale", "Export"]
_THINGS = ["Contracts", "Licences", "Services", "Hardware", "Training", "Support", "Spare parts"]
# (label of the value axis, unit, least value, greatest value, decimals)
_MEASURES = [
    ("Revenue", "EUR million", 2, 90, 1), ("Units sold", "", 120, 9800, 0), ("Average duration", "days", 3, 240, 0),
    ("Share of cases", "%", 4, 96, 1), ("Latency", "ms", 2, 480, 1), ("Amount in dispute", "EUR thousand", 15, 2400, 0),
    ("Temperature", "°C", -12, 34, 1), ("Operating result", "USD million", -25, 60, 1), ("Headcount", "", 8, 640, 0),
    ("Accuracy", "%", 51, 99, 1), ("Throughput", "requests/s", 150, 24000, 0), ("Error rate", "%", 0.2, 9.8, 2),
    ("Energy use", "MWh", 40, 3100, 0), ("Claims paid", "CHF", 12000, 990000, 0),
]  # fmt: skip


def example(rng: random.Random) -> dict[str, Any]:
    """The data of a chart: any variant, 2 to 12 categories, up to 5 series."""
    variant = rng.choice(["bar", "grouped_bar", "stacked_bar", "line", "pie"])
    measures = [m for m in _MEASURES if m[2] >= 0 or variant in ("bar", "grouped_bar", "line")]
    label, unit, low, high, digits = rng.choice(measures)
    most = {"bar": 12, "grouped_bar": 7, "stacked_bar": 8, "line": 12, "pie": 8}[variant]
    axis, categories = _categories(rng, variant, rng.randint(3, most))
    count = {"bar": 1, "pie": 1, "line": rng.randint(1, 4)}.get(variant, rng.randint(2, 4))
    names = rng.sample(_TEAMS if axis != "Sales channel" else _THINGS, count)
    series = {}
    for name in names if count > 1 else [label]:
        values, at = [], rng.uniform(low, high)
        for _ in categories:
            if variant == "line":
                at = min(high, max(low, at + rng.gauss(0, (high - low) * 0.12)))
            else:
                at = rng.uniform(low + (high - low) * (0.08 if variant != "bar" else 0), high)
            values.append(round(at, digits) if digits else round(at))
        series[name] = values
    over = rng.choice(["by", "per", "for each"])
    title = f"{label} {over} {axis.lower()}" + rng.choice(["", f", {rng.randint(2015, 2026)}"])
    return {
        "variant": variant,
        "title": title,
        "x_label": axis if variant != "pie" and rng.random() < 0.7 else "",
        "y_label": label,
        "unit": unit,
        "categories": categories,
        "series": series,
        "labels": rng.random() < 0.5,
    }


def _categories(rng: random.Random, variant: str, count: int) -> tuple[str, list[str]]:
    """The label of the category axis, and the categories."""
    if variant == "line" or rng.random() < 0.3:
        kind = rng.choice(["Year", "Month", "Quarter", "Week"])
        if kind == "Year":
            first = rng.randint(2008, 2014)
            return kind, [str(first + i) for i in range(count)]
        if kind == "Month":
            first = rng.randrange(12)
            return kind, [_MONTHS[(first + i) % 12] for i in range(count)]
        if kind == "Quarter":
            first = rng.randint(2018, 2023) * 4 + rng.randrange(4)
            return kind, [f"Q{(first + i) % 4 + 1} {(first + i) // 4}" for i in range(count)]
        first = rng.randint(1, 40)
        return kind, [f"W{first + i}" for i in range(count)]
    kind, names = rng.choice(
        [
            ("Office", _PLACES),
            ("Cause", _CAUSES),
            ("Cost centre", _COSTS),
            ("Model", _MODELS),
            ("Sales channel", _TEAMS),
        ]
    )
    return kind, rng.sample(names, min(count, len(names)))
