"""Tasks of the research desk for a swarm: many products or papers, and one merged answer."""

import random

from teacher.domain import Answer, Blueprint, Part, Swarm, join_names, template

from .environment import ResearchDesk
from .records import STATUSES, Product, Report
from .textual import phrase

READER = "paper-reader"
BRIEF = (
    "You look up facts about papers and products on a research desk. Use the tools for every fact. Reply in one short"
    " sentence."
)


def price_part(product: Product) -> Part:
    """The part that finds a product's list price."""
    return Part(
        product.id,
        f"What is the list price of {product.id} in EUR?",
        [("get_product", {"product_id": product.id})],
        f"The list price of {product.id} is EUR {product.price}.",
        Answer("amount", product.price),
    )


def date_part(report: Report) -> Part:
    """The part that finds a paper's date."""
    return Part(
        report.id,
        f"On which date was {report.id} published?",
        [("get_report", {"report_id": report.id})],
        f"{report.id} is dated {report.published}.",
        Answer("date", report.published),
    )


def status_part(report: Report) -> Part:
    """The part that finds a paper's status."""
    return Part(
        report.id,
        f"What is the status of {report.id}?",
        [("get_report", {"report_id": report.id})],
        f"The status of {report.id} is {report.status}.",
        Answer("choice", report.status, options=STATUSES),
    )


@template(kind="swarm")
def compared_prices(world: ResearchDesk, rng: random.Random) -> Blueprint:
    chosen = rng.sample(list(world._products.values()), rng.choice((2, 3, 4)))
    prices = [product.price for product in chosen]
    price, which = (max(prices), "highest") if rng.random() < 0.5 else (min(prices), "lowest")
    request = phrase(
        "compared_prices", rng, which=which, products=join_names([product.id for product in chosen])
    )
    swarm = Swarm(READER, BRIEF, [price_part(product) for product in chosen])
    reply = f"The {which} list price is EUR {price}."
    return Blueprint(request, swarm.plan, reply, Answer("amount", price), swarm=swarm)


@template(kind="swarm")
def latest_paper(world: ResearchDesk, rng: random.Random) -> Blueprint:
    chosen = rng.sample(list(world._reports.values()), rng.choice((2, 3, 4)))
    latest = max(report.published for report in chosen)
    request = phrase("latest_paper", rng, papers=join_names([report.id for report in chosen]))
    swarm = Swarm(READER, BRIEF, [date_part(report) for report in chosen])
    reply = f"The latest of them is dated {latest}."
    return Blueprint(request, swarm.plan, reply, Answer("date", latest), swarm=swarm)


@template(kind="swarm")
def paper_survey(world: ResearchDesk, rng: random.Random) -> Blueprint:
    chosen = rng.sample(list(world._archive().values()), rng.choice((12, 20)))
    status = rng.choice(STATUSES)
    count = sum(report.status == status for report in chosen)
    request = phrase(
        "paper_survey", rng, status=status, papers=join_names([report.id for report in chosen])
    )
    swarm = Swarm(READER, BRIEF, [status_part(report) for report in chosen])
    reply = f"{count} of the {len(chosen)} papers have the status {status}."
    return Blueprint(request, swarm.plan, reply, Answer("number", count), swarm=swarm)
