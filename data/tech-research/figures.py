"""The scenes of an invented world, made from its names and values: charts, diagrams and pages.

world.yaml holds the words. environment.py decides which report has which scenes.
"""

import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import split_pool
from teacher.scenes import Scene

WORDS = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))
QUARTERS = [f"Q{quarter} {year}" for year in (2024, 2025) for quarter in (1, 2, 3, 4)]
SERVICES = ("Installation", "Support for one year", "Spare parts kit", "Training on site")

Shape = tuple[dict[str, str], list[list[str]]]  # nodes: key -> label; edges: [from, to, label]


@cache
def _pairs(kind: str, split: str) -> list[str]:
    """Names of a kind (component, step, message) in a split, combined from the words of two lists."""
    pairs = [f"{a} {b}" for a in WORDS[f"{kind}_first"] for b in WORDS[f"{kind}_last"]]
    return split_pool(pairs, split)


def spread(rng: random.Random, count: int, metric: str) -> list[Any]:
    """Values of a metric, far enough apart to be distinguished on the axis of a chart."""
    scale = WORDS["metrics"][metric]
    bins = 2 * count + 4
    width = (scale["high"] - scale["low"]) / bins
    values = []
    for place in rng.sample(range(bins), count):
        raw = scale["low"] + (place + rng.random() * 0.4) * width
        value = round(raw / scale["step"]) * scale["step"]
        values.append(int(value) if value == int(value) else value)
    return values


# ------------------------------------------------------------------------------------------- charts


def score_chart(
    variant: str,
    title: str,
    metric: str,
    measured: dict[str, Any],
    names: dict[str, str],
    rng: random.Random,
) -> tuple[Scene, dict[str, str]]:
    """A chart of measured values, and for each product the key of the cell that shows its value.

    measured, names: by product id.
    """
    scale = WORDS["metrics"][metric]
    data: dict[str, Any] = {
        "variant": variant,
        "title": title,
        "x_label": "",
        "y_label": scale["title"],
        "unit": scale["unit"],
        "labels": True,
    }
    if variant == "bar":
        data["categories"] = [names[product] for product in measured]
        data["series"] = {scale["title"]: list(measured.values())}
        marks = {product: f"series.{scale['title']}.{i}" for i, product in enumerate(measured)}
    elif variant == "grouped_bar":
        # Values of 2024 beside the measured ones, of four products; two products are not in the chart.
        products = _some(measured, 4, rng)
        data["categories"] = [names[product] for product in products]
        before = spread(rng, 4, metric)
        data["series"] = {"2024": before, "2025": [measured[p] for p in products]}
        marks = {product: f"series.2025.{i}" for i, product in enumerate(products)}
    else:
        products = _some(measured, rng.choice((1, 2)), rng)
        data["categories"] = QUARTERS[-6:]
        data["series"] = {names[p]: [*spread(rng, 5, metric), measured[p]] for p in products}
        marks = {p: f"series.{names[p]}.5" for p in products}
    return Scene("chart", data, rng.randrange(1 << 31)), marks


def _some(measured: dict[str, Any], count: int, rng: random.Random) -> list[str]:
    """`count` random products, in their order."""
    return [list(measured)[i] for i in sorted(rng.sample(range(len(measured)), count))]


def market_chart(variant: str, category: str, vendors: list[str], rng: random.Random) -> Scene:
    """The vendors' shares as a pie, or revenue by segment as stacked bars."""
    if variant == "pie":
        cuts = sorted(rng.sample(range(1, 20), len(vendors) - 1))
        shares = [5 * (b - a) for a, b in zip([0, *cuts], [*cuts, 20], strict=True)]
        data = {
            "variant": "pie",
            "title": f"Market shares in {category}, 2025",
            "unit": "percent",
            "categories": vendors,
            # Equal slices are made distinct.
            "series": {"Share": _distinct(shares)},
            "labels": True,
        }
    else:
        segments = rng.sample(WORDS["segments"], 3)
        data = {
            "variant": "stacked_bar",
            "title": f"Revenue in {category} by segment",
            "x_label": "Year",
            "y_label": "Revenue",
            "unit": "EUR m",
            "categories": ["2022", "2023", "2024", "2025"],
            "series": {name: rng.sample(range(30, 190), 4) for name in segments},
            "labels": True,
        }
    return Scene("chart", data, rng.randrange(1 << 31))


def _distinct(shares: list[int]) -> list[int]:
    """Shares with the same sum of which no two are equal."""
    order = sorted(range(len(shares)), key=lambda i: shares[i])
    for rank, i in enumerate(order):
        shares[i] += rank - (len(shares) - 1) // 2
    shares[order[-1]] -= sum(shares) - 100
    return shares


def development(metrics: list[str], names: list[str], rng: random.Random) -> Scene:
    """A line chart of two products over eight quarters; each series rises, falls or is mixed."""
    metric = rng.choice(metrics)
    series = {}
    for name in rng.sample(names, 2):
        values = spread(rng, len(QUARTERS), metric)
        turn = rng.choice(("rising", "falling", "mixed"))
        if turn != "mixed":
            values.sort(reverse=turn == "falling")
        series[name] = values
    data = {
        "variant": "line",
        "title": f"{WORDS['metrics'][metric]['title']} by quarter",
        "x_label": "",
        "y_label": WORDS["metrics"][metric]["title"],
        "unit": WORDS["metrics"][metric]["unit"],
        "categories": QUARTERS,
        "series": series,
        "labels": False,
    }
    return Scene("chart", data, rng.randrange(1 << 31))


# ----------------------------------------------------------------------------------------- diagrams


def diagram(
    variant: str,
    rng: random.Random,
    *,
    product: str,
    vendor: str,
    people: list[str],
    category: str,
    split: str,
) -> Scene:
    """A diagram of a product, its vendor, or the test procedure of its category."""
    if variant == "organisation":
        title, (nodes, edges) = f"Organisation of {vendor}", _tree(people, rng)
    elif variant == "dependency":
        parts = rng.sample(_pairs("component", split), 7)
        title, (nodes, edges) = f"Architecture of {product}", _graph(parts, rng)
    elif variant == "flow":
        steps = rng.sample(_pairs("step", split), 7)
        title, (nodes, edges) = f"Test procedure for {category}", _procedure(steps, rng)
    else:
        parts = rng.sample(_pairs("component", split), rng.choice((3, 4)))
        messages = rng.sample(_pairs("message", split), 7)
        title, (nodes, edges) = f"Request path of {product}", _exchange(parts, messages, rng)
    data = {"variant": variant, "title": title, "nodes": nodes, "edges": edges}
    return Scene("diagram", data, rng.randrange(1 << 31))


def _tree(people: list[str], rng: random.Random) -> Shape:
    """A head, two or three leads who report to the head, and the others below the leads."""
    below = people[1:]
    leads = below[: rng.choice((2, 3))]
    edges = [["p0", f"p{1 + i}", ""] for i in range(len(leads))]
    for i in range(len(leads), len(below)):
        # Every lead has at least one report; the others are distributed at random.
        lead = i - len(leads) if i < 2 * len(leads) else rng.randrange(len(leads))
        edges.append([f"p{1 + lead}", f"p{1 + i}", ""])
    return {f"p{i}": person for i, person in enumerate(people)}, edges


def _graph(names: list[str], rng: random.Random) -> Shape:
    """Components that depend on later ones; every component but the first has a dependant."""
    edges = {(rng.randrange(max(0, i - 2), i), i) for i in range(1, len(names))}
    for i in rng.sample(range(len(names) - 2), 3):
        edges.add((i, rng.randrange(i + 1, min(i + 4, len(names)))))
    nodes = {f"c{i}": name for i, name in enumerate(names)}
    return nodes, [[f"c{a}", f"c{b}", ""] for a, b in sorted(edges)]


def _procedure(names: list[str], rng: random.Random) -> Shape:
    """Steps in sequence; one of them leads back to an earlier step on failure."""
    names = names[: rng.choice((5, 6, 7))]
    nodes = {f"s{i}": name for i, name in enumerate(names)}
    edges = [[f"s{i}", f"s{i + 1}", ""] for i in range(len(names) - 1)]
    back = rng.randrange(2, len(names) - 1)
    edges.append([f"s{back}", f"s{rng.randrange(0, back - 1)}", "failed"])
    edges[back][2] = "passed"
    return nodes, edges


def _exchange(names: list[str], messages: list[str], rng: random.Random) -> Shape:
    """Messages between components, each sent by the receiver of the last one."""
    nodes = {f"m{i}": name for i, name in enumerate(names)}
    edges, at = [], 0
    for message in messages[: rng.choice((5, 6, 7))]:
        to = rng.choice([i for i in range(len(names)) if i != at])
        edges.append([f"m{at}", f"m{to}", message])
        at = to
    return nodes, edges


# -------------------------------------------------------------------------------------------- pages


def result_pages(
    head: dict[str, str],
    analyst: str,
    metric: str | None,
    measured: dict[str, Any],
    names: dict[str, str],
    rng: random.Random,
) -> tuple[list[Scene], dict[str, str]]:
    """Page 1, the results by sample number; page 2, the products of the samples; and the sample number of each product.

    head: title, number and date of the report. metric: None for a market report, whose pages show street prices.
    """
    products = list(names)
    numbers = [f"S{n}" for n in rng.sample(range(11, 99), len(products))]
    samples = dict(zip(products, numbers, strict=True))
    order, keys = rng.sample(products, len(products)), rng.sample(products, len(products))
    units = rng.sample(range(12, 60), len(products))
    if metric:
        scale = WORDS["metrics"][metric]
        column = f"{scale['title']} ({scale['unit']})"
        cells = {product: str(measured[product]) for product in order}
    else:
        column = "Street price (EUR)"
        cells = {product: str(rng.randrange(9, 480) * 25) for product in order}
    rows = [[samples[p], cells[p], str(n)] for p, n in zip(order, units, strict=True)]
    key_rows = [
        [samples[p], names[p], f"{rng.randrange(1, 9)}.{rng.randrange(1, 30)}"] for p in keys
    ]
    first = {
        "variant": "table",
        **head,
        "pages": 2,
        "fields": {"Analyst": analyst, "Measured in": rng.choice(WORDS["labs"])},
        "paragraphs": [{"heading": "Method", "text": rng.choice(WORDS["methods"])}],
        "table": {"columns": ["Sample", column, "Runs"], "rows": rows},
        "page": 1,
        "scan": rng.random() < 0.3,
    }
    second = {
        "variant": "table",
        **head,
        "title": "Key to the samples",
        "pages": 2,
        "paragraphs": [{"heading": "Samples", "text": rng.choice(WORDS["methods"])}],
        "table": {"columns": ["Sample", "Product", "Firmware"], "rows": key_rows},
        "page": 2,
        "scan": rng.random() < 0.3,
    }
    return [Scene("document", page, rng.randrange(1 << 31)) for page in (first, second)], samples


def quotation(vendor: str, product: str, listed: float, rng: random.Random) -> Scene:
    """A vendor's quote for its product, at another price than the list price."""
    price = rng.choice([p for p in range(225, 12000, 25) if p != listed])
    lines = [(product, rng.randrange(2, 30), price)]
    lines += [(s, 1, rng.randrange(8, 90) * 25) for s in rng.sample(SERVICES, 2)]
    rng.shuffle(lines)
    total = sum(count * each for _, count, each in lines)
    rows = [[item, str(count), f"{each:,}", f"{count * each:,}"] for item, count, each in lines]
    data = {
        "variant": "invoice",
        "title": "Quotation",
        "number": f"QT{rng.randrange(1000, 9999)}",
        "date": f"2026-02-{rng.randrange(2, 28):02}",
        "parties": [vendor, "Technology research desk"],
        "table": {"columns": ["Item", "Quantity", "Unit price", "Amount"], "rows": rows},
        "fields": {
            "Valid until": f"2026-{rng.randrange(4, 10):02}-{rng.randrange(1, 29):02}",
            "Delivery": f"{rng.randrange(2, 13) * 5} business days",
            "Total": f"EUR {total:,}",
        },
        "scan": rng.random() < 0.4,
    }
    return Scene("document", data, rng.randrange(1 << 31))
