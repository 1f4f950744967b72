"""The text-only task templates of the research desk. requests.yaml holds the wordings of the requests."""

import random
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import Answer, Blueprint, Solution, template

from .environment import ResearchDesk
from .figures import WORDS
from .records import LEVELS, STATUSES, Report

REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))


def phrase(name: str, rng: random.Random, /, **facts: Any) -> str:
    """A random wording of a request, filled in with the facts."""
    text = rng.choice(REQUESTS[name]).format(**facts)
    return text[0].upper() + text[1:]


def pick(table: dict[str, Any], rng: random.Random) -> Any:
    """A random value of a table."""
    return rng.choice(list(table.values()))


def title_of(metric: str) -> str:
    """The name of a metric in a sentence."""
    return WORDS["metrics"][metric]["title"].lower()


@template(kind="lookup")
def product_released(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = pick(world._products, rng)
    return Blueprint(
        phrase("product_released", rng, product=product.id),
        [("get_product", {"product_id": product.id})],
        f"{product.id} was released on {product.released}.",
        Answer("date", product.released),
    )


@template(kind="lookup")
def product_price(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = pick(world._products, rng)
    return Blueprint(
        phrase("product_price", rng, product=product.id),
        [("get_product", {"product_id": product.id})],
        f"The list price of {product.id} is EUR {product.price}.",
        Answer("amount", product.price),
    )


@template(kind="lookup")
def report_analyst(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report = pick(world._reports, rng)
    return Blueprint(
        phrase("report_analyst", rng, report=report.id),
        [("get_report", {"report_id": report.id})],
        f"{report.id} is by {report.analyst}.",
        Answer("text", report.analyst),
    )


@template(kind="lookup")
def report_published(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report = pick(world._reports, rng)
    return Blueprint(
        phrase("report_published", rng, report=report.id),
        [("get_report", {"report_id": report.id})],
        f"{report.id} is dated {report.published}.",
        Answer("date", report.published),
    )


@template(kind="lookup")
def score_on_record(world: ResearchDesk, rng: random.Random) -> Blueprint:
    (product, metric), score = rng.choice(list(world._scores.items()))
    return Blueprint(
        phrase("score_on_record", rng, product=product, metric=title_of(metric)),
        [("get_score", {"product_id": product, "metric": metric})],
        f"The {title_of(metric)} on record is {score} {WORDS['metrics'][metric]['unit']}.",
        Answer("number", score),
    )


@template(kind="lookup")
def vendor_contact(world: ResearchDesk, rng: random.Random) -> Blueprint:
    vendor = pick(world._vendors, rng)
    return Blueprint(
        phrase("vendor_contact", rng, vendor=vendor.id),
        [("get_vendor", {"vendor_id": vendor.id})],
        f"Our contact is {vendor.contact}.",
        Answer("text", vendor.contact),
    )


@template(kind="lookup")
def price_before_change(world: ResearchDesk, rng: random.Random) -> Blueprint:
    """Sounds like a change of the price and asks for no write."""
    product = pick(world._products, rng)
    return Blueprint(
        phrase("price_before_change", rng, product=product.id),
        [("get_product", {"product_id": product.id})],
        f"It is EUR {product.price} on file.",
        Answer("amount", product.price),
    )


@template(kind="lookup")
def contact_before_change(world: ResearchDesk, rng: random.Random) -> Blueprint:
    """Sounds like a change of the contact and asks for no write."""
    vendor = pick(world._vendors, rng)
    return Blueprint(
        phrase("contact_before_change", rng, vendor=vendor.id),
        [("get_vendor", {"vendor_id": vendor.id})],
        f"{vendor.contact} is our contact.",
        Answer("text", vendor.contact),
    )


@template(kind="workflow")
def price_by_name(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = pick(world._products, rng)
    solution: Solution = [
        ("find_product", {"name": product.name}),
        ("get_product", {"product_id": product.id}),
    ]
    reply = f"The list price is EUR {product.price}."
    request = phrase("price_by_name", rng, name=product.name)
    return Blueprint(request, solution, reply, Answer("amount", product.price))


@template(kind="workflow")
def contact_for_product(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = pick(world._products, rng)
    contact = world._vendors[product.vendor].contact
    solution: Solution = [
        ("find_product", {"name": product.name}),
        ("get_vendor", {"vendor_id": product.vendor}),
    ]
    request = phrase("contact_for_product", rng, name=product.name)
    return Blueprint(request, solution, f"Our contact there is {contact}.", Answer("text", contact))


@template(kind="workflow")
def watch_by_name(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product, level = pick(world._products, rng), rng.choice(LEVELS)
    solution: Solution = [
        ("find_product", {"name": product.name}),
        ("watch_product", {"product_id": product.id, "level": level}),
    ]
    request = phrase("watch_by_name", rng, name=product.name, level=level)
    return Blueprint(request, solution, f"{product.name} is on the watch list as {level}.")


def _two_scores(world: ResearchDesk, rng: random.Random) -> tuple[str, list[str], Solution]:
    """A metric, two products whose recorded scores differ, and the calls that read both scores."""
    while True:
        metric = rng.choice(world._metrics)
        scored = [product for product, of in world._scores if of == metric]
        two = rng.sample(scored, 2)
        if world._scores[two[0], metric] != world._scores[two[1], metric]:
            break
    solution: Solution = [
        ("get_score", {"product_id": product, "metric": metric}) for product in two
    ]
    return metric, two, solution


@template(kind="workflow")
def score_gap(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, (one, other), solution = _two_scores(world, rng)
    unit = WORDS["metrics"][metric]["unit"]
    gap = abs(world._scores[one, metric] - world._scores[other, metric])
    request = phrase("score_gap", rng, product=one, other=other, metric=title_of(metric), unit=unit)
    return Blueprint(request, solution, f"They differ by {gap} {unit}.", Answer("number", gap))


@template(kind="workflow")
def watch_better(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, two, solution = _two_scores(world, rng)
    best, level = WORDS["metrics"][metric]["best"], rng.choice(("watch", "trial", "adopt"))
    two_by_score = sorted(two, key=lambda product: world._scores[product, metric])
    better = two_by_score[-1 if best == "highest" else 0]
    request = phrase(
        "watch_better",
        rng,
        product=two[0],
        other=two[1],
        metric=title_of(metric),
        best=best,
        level=level,
    )
    solution.append(("watch_product", {"product_id": better, "level": level}))
    return Blueprint(request, solution, f"{better} is better and is listed as {level}.")


@template(kind="workflow")
def cite_figure_of_report(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report, cited = rng.sample(list(world._reports.values()), 2)
    number, which = rng.choice(((0, "chart"), (1, "diagram")))
    figure = cited.figures[number]
    solution: Solution = [
        ("get_report", {"report_id": cited.id}),
        ("cite_figure", {"report_id": report.id, "figure_id": figure}),
    ]
    request = phrase("cite_figure_of_report", rng, report=report.id, source=cited.id, which=which)
    return Blueprint(request, solution, f"{report.id} now cites {figure}.")


def _a_measurement(world: ResearchDesk, rng: random.Random) -> tuple[str, Report]:
    """A random benchmark report and its metric."""
    return rng.choice([(r.metric, r) for r in world._reports.values() if r.metric])


@template(kind="workflow")
def status_by_metric(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, report = _a_measurement(world, rng)
    status = rng.choice([s for s in STATUSES if s != report.status])
    solution: Solution = [
        ("find_report", {"metric": metric}),
        ("set_report_status", {"report_id": report.id, "status": status}),
    ]
    facts = {"metric": title_of(metric), "name": pick(world._products, rng).name}
    request = phrase("status_by_metric", rng, status=status, **facts)
    return Blueprint(request, solution, f"{report.id} is now {status}.")


@template(kind="workflow")
def analyst_by_metric(world: ResearchDesk, rng: random.Random) -> Blueprint:
    metric, report = _a_measurement(world, rng)
    solution: Solution = [
        ("find_report", {"metric": metric}),
        ("get_report", {"report_id": report.id}),
    ]
    facts = {"metric": title_of(metric), "name": pick(world._products, rng).name}
    request = phrase("analyst_by_metric", rng, **facts)
    return Blueprint(
        request, solution, f"It is by {report.analyst}.", Answer("text", report.analyst)
    )
