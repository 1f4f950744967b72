"""The world of the research desk: reports with figures and pages, products and their vendors, and recorded scores.

A world has six products of one category by six vendors, and six reports on them: four benchmark reports, whose
measurements are in a chart and on a results page, and two market reports. Every report also has a diagram. The records
lag behind the reports: for each metric, one score was never entered and one was copied wrongly.

Everything is invented. Names and numbers of train and exam worlds come from disjoint pools. world.yaml holds the words,
figures.py makes the scenes of the reports; textual.py and visual.py hold the task templates.
"""

import random
from functools import cache
from typing import Any

from teacher.domain import (
    Environment,
    day_between,
    get_entry,
    is_same_name,
    is_wide,
    quote,
    require_one_of,
    split_numbers,
    split_pool,
)
from teacher.scenes import Scene

from .figures import WORDS, diagram, market_chart, result_pages, score_chart, spread
from .records import (
    FINDINGS,
    LEVELS,
    METRICS,
    STATUSES,
    Figure,
    Finding,
    Level,
    Metric,
    Product,
    Report,
    Status,
    Vendor,
    old_report,
)

PRODUCTS, ARCHIVED = 6, 24
MAX_VALUE = 1_000_000


@cache
def _stems(split: str) -> list[str]:
    """The invented names of a split."""
    stems = sorted(o + e for o in WORDS["onsets"].split() for e in WORDS["endings"].split())
    return split_pool(stems, split)


class ResearchDesk(Environment):
    """A technology research desk."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        split = task["split"]
        rng = random.Random(f"tech:{split}:{task['seed']}")
        stems = rng.sample(_stems(split), 18 + 6 * 9)
        pool = split_numbers(split, 10_000 if is_wide(split, task["seed"]) else 100)
        numbers = {
            letter: [f"{letter}-{n}" for n in rng.sample(pool, count)]
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
                day_between(rng, "2022-02-01", "2025-06-30").isoformat(),
                rng.randrange(9, 480) * 25,
            )
        analysts = [f"{rng.choice(WORDS['given'].split())} {stem}" for stem in stems[12:18]]
        self._measured = {
            metric: dict(zip(self._products, spread(rng, PRODUCTS, metric), strict=True))
            for metric in self._metrics
        }
        self._scores: dict[tuple[str, str], Any] = {}
        self._slips: dict[str, str] = {}  # metric -> product with a wrong score on record
        self._gaps: dict[str, str] = {}  # metric -> product without a score on record
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
        self._archived: dict[str, Report] = {}
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
                day_between(rng, "2025-09-01", "2026-02-27").isoformat(),
                metric,
                rng.choice(("draft", "published")),
                product=list(self._products)[i],
            )
            self._reports[report.id] = report
            report.figures = numbers["F"][2 * i : 2 * i + 2]
            self._illustrate(report, charts[i], diagrams[i], rng)
        self._notes: dict[str, list[Any]] = {}
        self._marked: set[tuple[str, str]] = set()
        self._citations: set[tuple[str, str]] = set()
        return None

    def _archive(self) -> dict[str, Report]:
        """Older papers, without figures; made when first needed."""
        if not self._archived:
            split, seed = self._task["split"], self._task["seed"]
            rng = random.Random(f"archive:{split}:{seed}")
            pool = split_numbers(split, 10_000 if is_wide(split, seed) else 100)
            free = [number for number in pool if f"R-{number}" not in self._reports]
            people = [f"{rng.choice(WORDS['given'].split())} {stem}" for stem in _stems(split)[:9]]
            subjects = [name.capitalize() for name in sorted(WORDS["categories"])]
            numbers = [f"R-{number}" for number in rng.sample(free, ARCHIVED)]
            self._archived = {n: old_report(n, subjects, people, rng) for n in numbers}
        return self._archived

    def _illustrate(self, report: Report, chart: str, variant: str, rng: random.Random) -> None:
        """Adds the two figures (a chart and a diagram) and the two pages of a report."""
        names = {product.id: product.name for product in self._products.values()}
        measured = self._measured[report.metric] if report.metric else {}
        marks: dict[str, str] = {}
        if report.metric:
            scene, marks = score_chart(chart, report.title, report.metric, measured, names, rng)
        else:
            vendors = [vendor.name for vendor in self._vendors.values()]
            scene = market_chart(chart, self.category, vendors, rng)
        first, second = report.figures
        self._figures[first] = Figure(first, report.id, scene, marks)
        vendor = self._vendors[self._products[report.product].vendor]
        scene = diagram(
            variant,
            rng,
            product=names[report.product],
            vendor=vendor.name,
            people=vendor.people,
            category=self.category,
            split=self._task["split"],
        )
        self._figures[second] = Figure(second, report.id, scene)
        head = {"title": report.title, "number": report.id, "date": report.published}
        report.pages, report.samples = result_pages(
            head, report.analyst, report.metric, measured, names, rng
        )

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

    # ------------------------------------------------------------------------------ tools that read

    def find_product(self, name: str) -> dict:
        """Find a product's number by its name.

        Args:
            name: Full name, e.g. Amberlin Z1
        """
        for product in self._products.values():
            if is_same_name(product.name, name):
                return {"product_id": product.id, "vendor_id": product.vendor}
        raise ValueError(f"no product {quote(name)}: give its full name")

    def get_product(self, product_id: str) -> dict:
        """Get a product's vendor, release date and list price.

        Args:
            product_id: e.g. P-100
        """
        product = get_entry(self._products, product_id, "product")
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
        vendor = get_entry(self._vendors, vendor_id, "vendor")
        return {"name": vendor.name, "contact": vendor.contact}

    def find_report(self, metric: Metric) -> dict:
        """Find the report on a metric.

        Args:
            metric: What was measured
        """
        require_one_of(metric, METRICS, "metric")
        for report in self._reports.values():
            if report.metric == metric:
                return {"report_id": report.id, "title": report.title}
        raise ValueError(f"no report on {metric}: there are reports on {', '.join(self._metrics)}")

    def get_report(self, report_id: str) -> dict:
        """Get a report's analyst, date and figures: first the chart, then the diagram.

        Args:
            report_id: e.g. R-100
        """
        known = isinstance(report_id, str) and report_id in self._reports
        report = get_entry(self._reports if known else self._archive(), report_id, "report")
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
        return get_entry(self._figures, figure_id, "figure").scene

    def get_page(self, report_id: str, page: int) -> Scene:
        """Show a page of a report: 1 the results by sample, 2 which sample is which product.

        Args:
            report_id: e.g. R-100
            page: 1 or 2
        """
        report = get_entry(self._reports, report_id, "report")
        if isinstance(page, bool) or page not in (1, 2):
            raise ValueError(f"page: {quote(page)}: expected 1 or 2")
        return report.pages[int(page) - 1]

    def get_score(self, product_id: str, metric: Metric) -> dict:
        """Get the score of a product that is on record.

        Args:
            product_id: e.g. P-100
            metric: What was measured
        """
        product = get_entry(self._products, product_id, "product")
        key = (product.id, require_one_of(metric, METRICS, "metric"))
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
        product = get_entry(self._products, product_id, "product")
        require_one_of(metric, METRICS, "metric")
        self._scores[product.id, metric] = _positive(score, "score")
        return {"product_id": product.id, "metric": metric, "score": score}

    def set_price(self, product_id: str, price: float) -> dict:
        """Change a product's list price.

        Args:
            product_id: e.g. P-100
            price: In EUR
        """
        product = get_entry(self._products, product_id, "product")
        price = _positive(price, "price")
        product.price = int(price) if price == int(price) else price
        return {"product_id": product.id, "price_eur": product.price}

    def watch_product(self, product_id: str, level: Level) -> dict:
        """Put a product on the watch list.

        Args:
            product_id: e.g. P-100
            level: Our advice
        """
        product = get_entry(self._products, product_id, "product")
        product.level = require_one_of(level, LEVELS, "level")
        return {"product_id": product.id, "level": level}

    def set_contact(self, vendor_id: str, person: str) -> dict:
        """Change our contact at a vendor.

        Args:
            vendor_id: e.g. V-100
            person: Full name
        """
        vendor = get_entry(self._vendors, vendor_id, "vendor")
        contact = next((p for p in vendor.people if is_same_name(p, person)), None)
        if contact is None:
            raise ValueError(f"nobody called {quote(person)} at {vendor.name}")
        vendor.contact = contact
        return {"vendor_id": vendor.id, "contact": contact}

    def note_figure(self, figure_id: str, finding: Finding, shown: float) -> dict:
        """Note on a figure whether our record agrees with a value it shows.

        Args:
            figure_id: e.g. F-100
            finding: confirmed if it agrees, else disputed
            shown: The value as the figure shows it
        """
        figure = get_entry(self._figures, figure_id, "figure")
        require_one_of(finding, FINDINGS, "finding")
        self._notes[figure.id] = [finding, float(_positive(shown, "shown"))]
        return {"figure_id": figure.id, "finding": finding, "shown": shown}

    def mark_component(self, figure_id: str, component: str) -> dict:
        """Mark a box of a diagram for review.

        Args:
            figure_id: The diagram, e.g. F-100
            component: The name in the box
        """
        figure = get_entry(self._figures, figure_id, "figure")
        boxes = figure.scene.data.get("nodes", {}).values()
        box = next((label for label in boxes if is_same_name(label, component)), None)
        if box is None:
            raise ValueError(f"figure {figure.id} has no box {quote(component)}")
        self._marked.add((figure.id, box))
        return {"figure_id": figure.id, "marked": box}

    def cite_figure(self, report_id: str, figure_id: str) -> dict:
        """Cite a figure in a report.

        Args:
            report_id: The citing report, e.g. R-100
            figure_id: e.g. F-100
        """
        report = get_entry(self._reports, report_id, "report")
        figure = get_entry(self._figures, figure_id, "figure")
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
        report = get_entry(self._reports, report_id, "report")
        report.status = require_one_of(status, STATUSES, "status")
        return {"report_id": report.id, "status": status}


def _title(metric: str | None, category: str, number: int) -> str:
    """The title of a report. number: its index, for market reports."""
    if metric:
        return f"{WORDS['metrics'][metric]['title']} of {category}"
    return f"The market for {category}, part {number - 3}"


def _positive(value: Any, what: str) -> float:
    """The argument, if it is a number above 0. Raises ValueError for any other."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_VALUE:
        raise ValueError(f"{what}: {quote(value)}: expected a number above 0, at most {MAX_VALUE}")
    return value
