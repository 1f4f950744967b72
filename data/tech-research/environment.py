"""The research desk: reports with figures and pages, products and their vendors, what is on record of them.

A world is six products of one category by six vendors, and six reports on them: four benchmark reports, whose
measurements are shown by a chart and a results page, and two market reports. Every report also has a diagram. The
records lag behind the reports: of each metric one score was never entered and one was copied wrongly.

Everything is invented. Names and numbers of train and exam worlds come from disjoint pools; world.yaml holds the words,
requests.yaml what people ask, visual.py the tasks about pictures.
"""

import datetime as dt
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from teacher.domain import (
    Answer,
    Blueprint,
    Environment,
    known,
    one_of,
    quoted,
    same_name,
    template,
)
from teacher.scenes import Scene

Metric = Literal["throughput", "latency", "power", "accuracy", "memory", "startup"]
Level = Literal["watch", "trial", "adopt", "avoid"]
Finding = Literal["confirmed", "disputed"]
Status = Literal["draft", "published", "withdrawn"]
Plan = list[tuple[str, dict[str, Any]]]

METRICS = get_args(Metric)
LEVELS = get_args(Level)
WORDS = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))
REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))
PRODUCTS = 6
QUARTERS = [f"Q{quarter} {year}" for year in (2024, 2025) for quarter in (1, 2, 3, 4)]
MAX_VALUE = 1_000_000


def dealt(words: list[Any], split: str) -> list[Any]:
    """The part of a list that belongs to a split: every third word is the exam's."""
    return [word for i, word in enumerate(words) if (i % 3 == 0) == (split == "exam")]


@cache
def _stems(split: str) -> list[str]:
    stems = sorted(o + e for o in WORDS["onsets"].split() for e in WORDS["endings"].split())
    return dealt(stems, split)


@cache
def _pairs(what: str, split: str) -> list[str]:
    """Names made of a word of each of two lists: of components, steps, messages."""
    pairs = [f"{a} {b}" for a in WORDS[f"{what}_first"] for b in WORDS[f"{what}_last"]]
    return dealt(pairs, split)


@cache
def _numbers(split: str) -> list[int]:
    # 100 is the number of the tools' examples and of nothing else.
    return [number for number in range(101, 1000) if (number % 7 in (2, 5)) == (split == "exam")]


def spread(rng: random.Random, count: int, metric: str) -> list[Any]:
    """Values of a metric, far enough apart to be told from each other on a chart's axis."""
    scale = WORDS["metrics"][metric]
    bins = 2 * count + 4
    width = (scale["high"] - scale["low"]) / bins
    values = []
    for place in rng.sample(range(bins), count):
        raw = scale["low"] + (place + rng.random() * 0.4) * width
        value = round(raw / scale["step"]) * scale["step"]
        values.append(int(value) if value == int(value) else value)
    return values


@dataclass
class Product:
    id: str
    name: str
    vendor: str
    released: str
    price: int
    level: str | None = None


@dataclass
class Vendor:
    id: str
    name: str
    people: list[str]  # the head first
    contact: str


@dataclass
class Report:
    id: str
    title: str
    analyst: str
    published: str
    metric: str | None  # None: a market report
    status: str
    figures: list[str] = field(default_factory=list)
    pages: list[Scene] = field(default_factory=list)
    product: str = ""  # the product, or the vendor, that the diagram is about
    samples: dict[str, str] = field(default_factory=dict)  # product -> sample number


@dataclass
class Figure:
    id: str
    report: str
    caption: str
    scene: Scene
    marks: dict[str, str] = field(default_factory=dict)  # product -> key of its score


class ResearchDesk(Environment):
    """A technology research desk."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        split = self._split = task["split"]
        rng = random.Random(f"tech:{split}:{task['seed']}")
        stems = rng.sample(_stems(split), 18 + 6 * 9)
        numbers = {
            letter: [f"{letter}-{n}" for n in rng.sample(_numbers(split), count)]
            for letter, count in (("P", PRODUCTS), ("V", PRODUCTS), ("R", 6), ("F", 12))
        }
        self.category = rng.choice(sorted(WORDS["categories"]))
        self._metrics = WORDS["categories"][self.category]
        self._products: dict[str, Product] = {}
        self._vendors: dict[str, Vendor] = {}
        for i in range(PRODUCTS):
            people = [
                f"{rng.choice(WORDS['given'].split())} {stem}"
                for stem in stems[18 + 9 * i : 27 + 9 * i]
            ]
            vendor = numbers["V"][i]
            name = f"{stems[i]} {rng.choice(WORDS['trades'].split())}"
            self._vendors[vendor] = Vendor(vendor, name, people, rng.choice(people[4:]))
            model = f"{rng.choice('ADGHKMRTX')}{rng.randrange(2, 10)}"
            self._products[numbers["P"][i]] = Product(
                numbers["P"][i],
                f"{stems[6 + i]} {model}",
                vendor,
                _day(rng, "2022-02-01", "2025-06-30"),
                rng.randrange(9, 480) * 25,
            )
        analysts = [f"{rng.choice(WORDS['given'].split())} {stem}" for stem in stems[12:18]]
        self._measured = {
            metric: dict(zip(self._products, spread(rng, PRODUCTS, metric), strict=True))
            for metric in self._metrics
        }
        self._scores: dict[tuple[str, str], Any] = {}
        self._slips: dict[str, str] = {}  # metric -> the product whose score was copied wrongly
        self._gaps: dict[str, str] = {}  # metric -> the product whose score was never entered
        for metric, measured in self._measured.items():
            gap, slip = rng.sample(sorted(measured), 2)
            self._gaps[metric], self._slips[metric] = gap, slip
            for product, value in measured.items():
                if product == slip:
                    step = WORDS["metrics"][metric]["step"]
                    value += rng.choice((-3, -2, -1, 1, 2, 3)) * step
                if product != gap:
                    self._scores[product, metric] = value
        self._reports: dict[str, Report] = {}
        self._figures: dict[str, Figure] = {}
        subjects = [*self._metrics, None, None]
        diagrams = ["dependency", "organisation", "flow", "sequence", "dependency", "organisation"]
        charts = ["bar", "bar", "grouped_bar", "line"]
        markets = ["pie", "stacked_bar"]
        for variants in (diagrams, charts, markets):
            rng.shuffle(variants)
        charts += markets
        for i, metric in enumerate(subjects):
            report = Report(
                numbers["R"][i],
                _title(metric, self.category, i),
                analysts[i],
                _day(rng, "2025-09-01", "2026-02-27"),
                metric,
                rng.choice(("draft", "published")),
                product=list(self._products)[i],
            )
            self._reports[report.id] = report
            report.figures = numbers["F"][2 * i : 2 * i + 2]
            self._chart(report, charts[i], rng)
            self._diagram(report, diagrams[i], rng)
            self._pages(report, rng)
        self._notes: dict[str, list[Any]] = {}
        self._marked: set[tuple[str, str]] = set()
        self._citations: set[tuple[str, str]] = set()
        return None

    def _state(self) -> Any:
        return {
            "products": {p.id: [p.price, p.level] for p in self._products.values()},
            "contacts": {v.id: v.contact for v in self._vendors.values()},
            "reports": {r.id: r.status for r in self._reports.values()},
            "scores": sorted([*key, float(value)] for key, value in self._scores.items()),
            "notes": self._notes,
            "marked": sorted(self._marked),
            "citations": sorted(self._citations),
        }

    # ------------------------------------------------------------------------------ what is pictured

    def _chart(self, report: Report, variant: str, rng: random.Random) -> None:
        number = report.figures[0]
        if report.metric is None:
            market = Scene("chart", self._market(variant, rng), rng.randrange(1 << 31))
            self._figures[number] = Figure(number, report.id, market.data["title"], market)
            return
        scale, measured = WORDS["metrics"][report.metric], self._measured[report.metric]
        names = [self._products[product].name for product in measured]
        data: dict[str, Any] = {
            "variant": variant,
            "title": report.title,
            "x_label": "",
            "y_label": scale["title"],
            "unit": scale["unit"],
            "labels": True,
        }
        marks = {}
        if variant == "bar":
            data["categories"], data["series"] = names, {scale["title"]: list(measured.values())}
            marks = {product: f"series.{scale['title']}.{i}" for i, product in enumerate(measured)}
        elif variant == "grouped_bar":
            # Last year's values, then the measured ones, of four products: two hold no mark here.
            chosen = sorted(rng.sample(range(PRODUCTS), 4))
            products = [list(measured)[i] for i in chosen]
            data["categories"] = [names[i] for i in chosen]
            before = spread(rng, 4, report.metric)
            data["series"] = {"2024": before, "2025": [measured[p] for p in products]}
            marks = {product: f"series.2025.{i}" for i, product in enumerate(products)}
        else:
            chosen = sorted(rng.sample(range(PRODUCTS), rng.choice((1, 2))))
            products = [list(measured)[i] for i in chosen]
            data["categories"] = QUARTERS[-6:]
            data["series"] = {
                self._products[p].name: [*spread(rng, 5, report.metric), measured[p]]
                for p in products
            }
            marks = {p: f"series.{self._products[p].name}.5" for p in products}
        scene = Scene("chart", data, rng.randrange(1 << 31))
        self._figures[number] = Figure(number, report.id, data["title"], scene, marks)

    def _market(self, variant: str, rng: random.Random) -> dict[str, Any]:
        """Shares of the vendors as a pie, or revenue by segment as stacked bars."""
        if variant == "pie":
            cuts = sorted(rng.sample(range(1, 20), PRODUCTS - 1))
            shares = [5 * (b - a) for a, b in zip([0, *cuts], [*cuts, 20], strict=True)]
            # No two slices alike: move a point from one to the next where they are.
            shares = _distinct(shares)
            return {
                "variant": "pie",
                "title": f"Market shares in {self.category}, 2025",
                "unit": "percent",
                "categories": [v.name for v in self._vendors.values()],
                "series": {"Share": shares},
                "labels": True,
            }
        segments = rng.sample(WORDS["segments"], 3)
        return {
            "variant": "stacked_bar",
            "title": f"Revenue in {self.category} by segment",
            "x_label": "Year",
            "y_label": "Revenue",
            "unit": "EUR m",
            "categories": ["2022", "2023", "2024", "2025"],
            "series": {name: rng.sample(range(30, 190), 4) for name in segments},
            "labels": True,
        }

    def _development(self, rng: random.Random) -> dict[str, Any]:
        """Two products over eight quarters, as a line chart: each rises, falls or does neither throughout."""
        metric = rng.choice(self._metrics)
        series = {}
        for product in rng.sample(list(self._products.values()), 2):
            values = spread(rng, len(QUARTERS), metric)
            turn = rng.choice(("rising", "falling", "mixed"))
            if turn != "mixed":
                values.sort(reverse=turn == "falling")
            series[product.name] = values
        return {
            "variant": "line",
            "title": f"{WORDS['metrics'][metric]['title']} by quarter",
            "x_label": "",
            "y_label": WORDS["metrics"][metric]["title"],
            "unit": WORDS["metrics"][metric]["unit"],
            "categories": QUARTERS,
            "series": series,
            "labels": False,
        }

    def _diagram(self, report: Report, variant: str, rng: random.Random) -> None:
        product = self._products[report.product]
        if variant == "organisation":
            vendor = self._vendors[product.vendor]
            nodes, edges = _tree(vendor.people, rng)
            title = f"Organisation of {vendor.name}"
        elif variant == "dependency":
            nodes, edges = _graph(rng.sample(_pairs("component", self._split), 7), rng)
            title = f"Architecture of {product.name}"
        elif variant == "flow":
            nodes, edges = _procedure(rng.sample(_pairs("step", self._split), 7), rng)
            title = f"Test procedure for {self.category}"
        else:
            parts = rng.sample(_pairs("component", self._split), rng.choice((3, 4)))
            nodes, edges = _exchange(parts, rng.sample(_pairs("message", self._split), 7), rng)
            title = f"Request path of {product.name}"
        data = {"variant": variant, "title": title, "nodes": nodes, "edges": edges}
        number = report.figures[1]
        scene = Scene("diagram", data, rng.randrange(1 << 31))
        self._figures[number] = Figure(number, report.id, title, scene)

    def _pages(self, report: Report, rng: random.Random) -> None:
        """Page 1: what was found, by sample number; page 2: which sample was which product."""
        products = list(self._products.values())
        samples = [f"S{n}" for n in rng.sample(range(11, 99), PRODUCTS)]
        report.samples = {p.id: sample for p, sample in zip(products, samples, strict=True)}
        order, keys = rng.sample(products, PRODUCTS), rng.sample(products, PRODUCTS)
        units = rng.sample(range(12, 60), PRODUCTS)
        if report.metric:
            scale = WORDS["metrics"][report.metric]
            column = f"{scale['title']} ({scale['unit']})"
            cells = {p.id: str(self._measured[report.metric][p.id]) for p in order}
        else:
            column = "Street price (EUR)"
            cells = {p.id: str(rng.randrange(9, 480) * 25) for p in order}
        rows = [
            [report.samples[p.id], cells[p.id], str(n)] for p, n in zip(order, units, strict=True)
        ]
        key_rows = [
            [report.samples[p.id], p.name, f"{rng.randrange(1, 9)}.{rng.randrange(1, 30)}"]
            for p in keys
        ]
        head = {"number": report.id, "date": report.published, "pages": 2}
        first = {
            "variant": "table",
            "title": report.title,
            **head,
            "fields": {"Analyst": report.analyst, "Measured in": rng.choice(WORDS["labs"])},
            "paragraphs": [{"heading": "Method", "text": rng.choice(WORDS["methods"])}],
            "table": {"columns": ["Sample", column, "Runs"], "rows": rows},
            "page": 1,
            "scan": rng.random() < 0.3,
        }
        second = {
            "variant": "table",
            "title": "Key to the samples",
            **head,
            "paragraphs": [{"heading": "Samples", "text": rng.choice(WORDS["methods"])}],
            "table": {"columns": ["Sample", "Product", "Firmware"], "rows": key_rows},
            "page": 2,
            "scan": rng.random() < 0.3,
        }
        report.pages = [Scene("document", page, rng.randrange(1 << 31)) for page in (first, second)]

    # ------------------------------------------------------------------------------ tools that read

    def find_product(self, name: str) -> dict:
        """Find a product's number by its name.

        Args:
            name: Full name, e.g. Amberlin Z1
        """
        for product in self._products.values():
            if same_name(product.name, name):
                return {"product_id": product.id, "vendor_id": product.vendor}
        raise ValueError(f"no product {quoted(name)}: give its full name")

    def get_product(self, product_id: str) -> dict:
        """Get a product's vendor, release date and list price.

        Args:
            product_id: e.g. P-100
        """
        product = known(self._products, product_id, "product")
        return {
            "name": product.name,
            "vendor_id": product.vendor,
            "released": product.released,
            "price_eur": product.price,
        }

    def get_vendor(self, vendor_id: str) -> dict:
        """Get a vendor's name and our contact there.

        Args:
            vendor_id: e.g. V-100
        """
        vendor = known(self._vendors, vendor_id, "vendor")
        return {"name": vendor.name, "contact": vendor.contact}

    def find_report(self, metric: Metric) -> dict:
        """Find the report on a metric.

        Args:
            metric: What was measured
        """
        one_of(metric, METRICS, "metric")
        for report in self._reports.values():
            if report.metric == metric:
                return {"report_id": report.id, "title": report.title}
        raise ValueError(f"no report on {metric}: there are reports on {', '.join(self._metrics)}")

    def get_report(self, report_id: str) -> dict:
        """Get a report's analyst, date and figures: first the chart, then the diagram.

        Args:
            report_id: e.g. R-100
        """
        report = known(self._reports, report_id, "report")
        return {
            "analyst": report.analyst,
            "published": report.published,
            "status": report.status,
            "figures": report.figures,
        }

    def get_figure(self, figure_id: str) -> Scene:
        """Show a figure, a chart or a diagram.

        Args:
            figure_id: e.g. F-100
        """
        return known(self._figures, figure_id, "figure").scene

    def get_page(self, report_id: str, page: int) -> Scene:
        """Show a page of a report: 1 the results by sample, 2 which sample is which product.

        Args:
            report_id: e.g. R-100
            page: 1 or 2
        """
        report = known(self._reports, report_id, "report")
        if isinstance(page, bool) or page not in (1, 2):
            raise ValueError(f"page: {quoted(page)}: expected 1 or 2")
        return report.pages[int(page) - 1]

    def get_score(self, product_id: str, metric: Metric) -> dict:
        """Get the score of a product that is on record.

        Args:
            product_id: e.g. P-100
            metric: What was measured
        """
        product = known(self._products, product_id, "product")
        key = (product.id, one_of(metric, METRICS, "metric"))
        if key not in self._scores:
            raise ValueError(f"nothing on record of the {metric} of {product.id}")
        return {"score": self._scores[key], "unit": WORDS["metrics"][metric]["unit"]}

    # ----------------------------------------------------------------------------- tools that write

    def record_score(self, product_id: str, metric: Metric, score: float) -> dict:
        """Enter or correct a product's score.

        Args:
            product_id: e.g. P-100
            metric: What was measured
            score: In the metric's unit
        """
        product = known(self._products, product_id, "product")
        one_of(metric, METRICS, "metric")
        self._scores[product.id, metric] = _positive(score, "score")
        return {"product_id": product.id, "metric": metric, "score": score}

    def set_price(self, product_id: str, price: float) -> dict:
        """Change a product's list price.

        Args:
            product_id: e.g. P-100
            price: In EUR
        """
        product = known(self._products, product_id, "product")
        price = _positive(price, "price")
        product.price = int(price) if price == int(price) else price
        return {"product_id": product.id, "price_eur": product.price}

    def watch_product(self, product_id: str, level: Level) -> dict:
        """Put a product on the watch list.

        Args:
            product_id: e.g. P-100
            level: Our advice
        """
        product = known(self._products, product_id, "product")
        product.level = one_of(level, LEVELS, "level")
        return {"product_id": product.id, "level": level}

    def set_contact(self, vendor_id: str, person: str) -> dict:
        """Change our contact at a vendor.

        Args:
            vendor_id: e.g. V-100
            person: Full name
        """
        vendor = known(self._vendors, vendor_id, "vendor")
        found = next((p for p in vendor.people if same_name(p, person)), None)
        if found is None:
            raise ValueError(f"nobody called {quoted(person)} at {vendor.name}")
        vendor.contact = found
        return {"vendor_id": vendor.id, "contact": found}

    def note_figure(self, figure_id: str, finding: Finding, shown: float) -> dict:
        """Note on a figure whether our record agrees with a value it shows.

        Args:
            figure_id: e.g. F-100
            finding: confirmed if it agrees, else disputed
            shown: The value as the figure shows it
        """
        figure = known(self._figures, figure_id, "figure")
        one_of(finding, get_args(Finding), "finding")
        self._notes[figure.id] = [finding, float(_positive(shown, "shown"))]
        return {"figure_id": figure.id, "finding": finding, "shown": shown}

    def mark_component(self, figure_id: str, component: str) -> dict:
        """Mark a box of a diagram for review.

        Args:
            figure_id: The diagram, e.g. F-100
            component: The name in the box
        """
        figure = known(self._figures, figure_id, "figure")
        boxes = figure.scene.data.get("nodes", {}).values()
        found = next((label for label in boxes if same_name(label, component)), None)
        if found is None:
            raise ValueError(f"figure {figure.id} has no box {quoted(component)}")
        self._marked.add((figure.id, found))
        return {"figure_id": figure.id, "marked": found}

    def cite_figure(self, report_id: str, figure_id: str) -> dict:
        """Cite a figure in a report.

        Args:
            report_id: The citing report, e.g. R-100
            figure_id: e.g. F-100
        """
        report = known(self._reports, report_id, "report")
        figure = known(self._figures, figure_id, "figure")
        if figure.report == report.id:
            raise ValueError(f"figure {figure.id} is {report.id}'s own: nothing to cite")
        self._citations.add((report.id, figure.id))
        return {"report_id": report.id, "cites": figure.id}

    def set_report_status(self, report_id: str, status: Status) -> dict:
        """Change a report's status.

        Args:
            report_id: e.g. R-100
            status: The new status
        """
        report = known(self._reports, report_id, "report")
        report.status = one_of(status, get_args(Status), "status")
        return {"report_id": report.id, "status": status}


# ------------------------------------------------------------------------------- what diagrams show


def _tree(people: list[str], rng: random.Random) -> tuple[dict[str, str], list[list[str]]]:
    """A head, two or three who report to her, and the others below those."""
    below = people[1:]
    leads = below[: rng.choice((2, 3))]
    edges = [["p0", f"p{1 + i}", ""] for i in range(len(leads))]
    for i in range(len(leads), len(below)):
        # Every lead has somebody; who has how many is drawn.
        lead = i - len(leads) if i < 2 * len(leads) else rng.randrange(len(leads))
        edges.append([f"p{1 + lead}", f"p{1 + i}", ""])
    return {f"p{i}": person for i, person in enumerate(people)}, edges


def _graph(names: list[str], rng: random.Random) -> tuple[dict[str, str], list[list[str]]]:
    """Components that depend on later ones: one or two each, and every one but the first has a dependant."""
    edges = {(rng.randrange(max(0, i - 2), i), i) for i in range(1, len(names))}
    for i in rng.sample(range(len(names) - 2), 3):
        edges.add((i, rng.randrange(i + 1, min(i + 4, len(names)))))
    nodes = {f"c{i}": name for i, name in enumerate(names)}
    return nodes, [[f"c{a}", f"c{b}", ""] for a, b in sorted(edges)]


def _procedure(names: list[str], rng: random.Random) -> tuple[dict[str, str], list[list[str]]]:
    """Steps one after another, and one that sends who fails it back."""
    names = names[: rng.choice((5, 6, 7))]
    nodes = {f"s{i}": name for i, name in enumerate(names)}
    edges = [[f"s{i}", f"s{i + 1}", ""] for i in range(len(names) - 1)]
    back = rng.randrange(2, len(names) - 1)
    edges.append([f"s{back}", f"s{rng.randrange(0, back - 1)}", "failed"])
    edges[back][2] = "passed"
    return nodes, edges


def _exchange(
    names: list[str], messages: list[str], rng: random.Random
) -> tuple[dict[str, str], list[list[str]]]:
    """Messages between parts, each sent by who got the last one."""
    nodes = {f"m{i}": name for i, name in enumerate(names)}
    edges, at = [], 0
    for message in messages[: rng.choice((5, 6, 7))]:
        to = rng.choice([i for i in range(len(names)) if i != at])
        edges.append([f"m{at}", f"m{to}", message])
        at = to
    return nodes, edges


def _distinct(shares: list[int]) -> list[int]:
    """Shares whose sum stays and of which no two are equal."""
    order = sorted(range(len(shares)), key=lambda i: shares[i])
    for rank, i in enumerate(order):
        shares[i] += rank - (len(shares) - 1) // 2
    shares[order[-1]] -= sum(shares) - 100
    return shares


def _title(metric: str | None, category: str, number: int) -> str:
    if metric:
        return f"{WORDS['metrics'][metric]['title']} of {category}"
    return f"The market for {category}, part {number - 3}"


def _day(rng: random.Random, first: str, last: str) -> str:
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return (start + dt.timedelta(rng.randrange((end - start).days + 1))).isoformat()


# ---------------------------------------------------------------------------- what tools will not do


def _positive(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_VALUE:
        raise ValueError(f"{what}: {quoted(value)}: expected a number above 0, at most {MAX_VALUE}")
    return value


# ----------------------------------------------------------------------------------- what people ask


def _say(what: str, rng: random.Random, **facts: Any) -> str:
    return rng.choice(REQUESTS[what]).format(**facts)


def _pick(table: dict[str, Any], rng: random.Random) -> Any:
    return rng.choice(list(table.values()))


def _title_of(metric: str) -> str:
    return WORDS["metrics"][metric]["title"].lower()


@template(kind="lookup")
def product_released(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = _pick(world._products, rng)
    return Blueprint(
        _say("product_released", rng, product=product.id),
        [("get_product", {"product_id": product.id})],
        f"{product.id} was released on {product.released}.",
        Answer("date", product.released),
    )


@template(kind="lookup")
def product_price(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = _pick(world._products, rng)
    return Blueprint(
        _say("product_price", rng, product=product.id),
        [("get_product", {"product_id": product.id})],
        f"The list price of {product.id} is EUR {product.price}.",
        Answer("amount", product.price),
    )


@template(kind="lookup")
def report_analyst(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report = _pick(world._reports, rng)
    return Blueprint(
        _say("report_analyst", rng, report=report.id),
        [("get_report", {"report_id": report.id})],
        f"{report.id} is by {report.analyst}.",
        Answer("text", report.analyst),
    )


@template(kind="lookup")
def report_published(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report = _pick(world._reports, rng)
    return Blueprint(
        _say("report_published", rng, report=report.id),
        [("get_report", {"report_id": report.id})],
        f"{report.id} is dated {report.published}.",
        Answer("date", report.published),
    )


@template(kind="lookup")
def score_on_record(world: ResearchDesk, rng: random.Random) -> Blueprint:
    (product, metric), score = rng.choice(list(world._scores.items()))
    return Blueprint(
        _say("score_on_record", rng, product=product, metric=_title_of(metric)),
        [("get_score", {"product_id": product, "metric": metric})],
        f"The {_title_of(metric)} on record is {score} {WORDS['metrics'][metric]['unit']}.",
        Answer("number", score),
    )


@template(kind="lookup")
def vendor_contact(world: ResearchDesk, rng: random.Random) -> Blueprint:
    vendor = _pick(world._vendors, rng)
    return Blueprint(
        _say("vendor_contact", rng, vendor=vendor.id),
        [("get_vendor", {"vendor_id": vendor.id})],
        f"Our contact is {vendor.contact}.",
        Answer("text", vendor.contact),
    )


@template(kind="workflow")
def price_by_name(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = _pick(world._products, rng)
    plan: Plan = [
        ("find_product", {"name": product.name}),
        ("get_product", {"product_id": product.id}),
    ]
    reply = f"The list price is EUR {product.price}."
    request = _say("price_by_name", rng, name=product.name)
    return Blueprint(request, plan, reply, Answer("amount", product.price))


@template(kind="workflow")
def contact_for_product(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = _pick(world._products, rng)
    contact = world._vendors[product.vendor].contact
    plan: Plan = [
        ("find_product", {"name": product.name}),
        ("get_vendor", {"vendor_id": product.vendor}),
    ]
    request = _say("contact_for_product", rng, name=product.name)
    return Blueprint(request, plan, f"Our contact there is {contact}.", Answer("text", contact))


@template(kind="workflow")
def watch_by_name(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product, level = _pick(world._products, rng), rng.choice(LEVELS)
    plan: Plan = [
        ("find_product", {"name": product.name}),
        ("watch_product", {"product_id": product.id, "level": level}),
    ]
    request = _say("watch_by_name", rng, name=product.name, level=level)
    return Blueprint(request, plan, f"{product.name} is on the watch list as {level}.")


def _two_scores(world: ResearchDesk, rng: random.Random) -> tuple[str, list[str], Plan]:
    """A metric, two products that differ in it by our records, and the calls that read both."""
    while True:
        metric = rng.choice(world._metrics)
        scored = [product for product, of in world._scores if of == metric]
        two = rng.sample(scored, 2)
        if world._scores[two[0], metric] != world._scores[two[1], metric]:
            break
    plan: Plan = [("get_score", {"product_id": product, "metric": metric}) for product in two]
    return metric, two, plan


@template(kind="workflow")
def score_gap(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, (one, other), plan = _two_scores(world, rng)
    unit = WORDS["metrics"][metric]["unit"]
    gap = abs(world._scores[one, metric] - world._scores[other, metric])
    request = _say("score_gap", rng, product=one, other=other, metric=_title_of(metric), unit=unit)
    return Blueprint(request, plan, f"They differ by {gap} {unit}.", Answer("number", gap))


@template(kind="workflow")
def watch_better(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, two, plan = _two_scores(world, rng)
    best, level = WORDS["metrics"][metric]["best"], rng.choice(("watch", "trial", "adopt"))
    two_by_score = sorted(two, key=lambda product: world._scores[product, metric])
    better = two_by_score[-1 if best == "highest" else 0]
    request = _say(
        "watch_better",
        rng,
        product=two[0],
        other=two[1],
        metric=_title_of(metric),
        best=best,
        level=level,
    )
    plan.append(("watch_product", {"product_id": better, "level": level}))
    return Blueprint(request, plan, f"{better} is better and is listed as {level}.")


@template(kind="workflow")
def cite_figure_of_report(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report, cited = rng.sample(list(world._reports.values()), 2)
    number, which = rng.choice(((0, "chart"), (1, "diagram")))
    figure = cited.figures[number]
    plan: Plan = [
        ("get_report", {"report_id": cited.id}),
        ("cite_figure", {"report_id": report.id, "figure_id": figure}),
    ]
    request = _say("cite_figure_of_report", rng, report=report.id, source=cited.id, which=which)
    return Blueprint(request, plan, f"{report.id} now cites {figure}.")


def _a_measurement(world: ResearchDesk, rng: random.Random) -> tuple[str, Report]:
    """A metric that a report is about, and the report."""
    return rng.choice([(r.metric, r) for r in world._reports.values() if r.metric])


@template(kind="workflow")
def status_by_metric(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, report = _a_measurement(world, rng)
    status = rng.choice([s for s in get_args(Status) if s != report.status])
    plan: Plan = [
        ("find_report", {"metric": metric}),
        ("set_report_status", {"report_id": report.id, "status": status}),
    ]
    facts = {"metric": _title_of(metric), "name": _pick(world._products, rng).name}
    request = _say("status_by_metric", rng, status=status, **facts)
    return Blueprint(request, plan, f"{report.id} is now {status}.")


@template(kind="workflow")
def analyst_by_metric(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, report = _a_measurement(world, rng)
    plan: Plan = [
        ("find_report", {"metric": metric}),
        ("get_report", {"report_id": report.id}),
    ]
    facts = {"metric": _title_of(metric), "name": _pick(world._products, rng).name}
    request = _say("analyst_by_metric", rng, **facts)
    return Blueprint(request, plan, f"It is by {report.analyst}.", Answer("text", report.analyst))
