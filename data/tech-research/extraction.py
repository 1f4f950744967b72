"""Extraction tasks of the research desk: the answer is a JSON object of a schema in schemas/."""

import random
from pathlib import Path

from teacher.domain import Blueprint, Solution, json_task, read_schemas, template

from .environment import ResearchDesk
from .figures import quotation
from .textual import phrase, pick

SCHEMAS = read_schemas(Path(__file__).with_name("schemas"))


@template(kind="extract")
def product_card(world: ResearchDesk, rng: random.Random) -> Blueprint:
    """A product and its vendor, from two tables."""
    product = pick(world._products, rng)
    vendor = world._vendors[product.vendor]
    value = {
        "product": product.id,
        "name": product.name,
        "released": product.released,
        "price_eur": product.price,
        "vendor": {"id": vendor.id, "name": vendor.name, "contact": vendor.contact},
    }
    plan: Solution = [
        ("get_product", {"product_id": product.id}),
        ("get_vendor", {"vendor_id": vendor.id}),
    ]
    return json_task(
        SCHEMAS["product_card"], phrase("product_card", rng, product=product.id), plan, value
    )


@template(kind="extract")
def results_table(world: ResearchDesk, rng: random.Random) -> Blueprint:
    """The table of a report's first page, row by row."""
    report = pick(world._reports, rng)
    data = world.get_page(report.id, 1).data
    table = data["table"]
    value = {
        "column": table["columns"][1],
        "rows": [
            {"sample": sample, "value": float(number.replace(",", "")), "runs": int(runs)}
            for sample, number, runs in table["rows"]
        ],
        "analyst": report.analyst,
    }
    plan: Solution = [("get_page", {"report_id": report.id, "page": 1})]
    request = phrase("results_table", rng, report=report.id)
    return json_task(SCHEMAS["results_table"], request, plan, value)


@template(kind="extract")
def quote(world: ResearchDesk, rng: random.Random) -> Blueprint:
    """A vendor's quotation: its lines in their order; it grants no discount."""
    product = pick(world._products, rng)
    vendor = world._vendors[product.vendor]
    page = quotation(vendor.name, product.name, product.price, rng)
    data = page.data
    value = {
        "number": data["number"],
        "date": data["date"],
        "valid_until": data["fields"]["Valid until"],
        "lines": [
            {"item": item, "quantity": int(count), "unit_price": int(each.replace(",", ""))}
            for item, count, each, _ in data["table"]["rows"]
        ],
        "total_eur": int(data["fields"]["Total"].removeprefix("EUR ").replace(",", "")),
        "discount_percent": None,
    }
    return json_task(
        SCHEMAS["quote"], phrase("quote", rng, vendor=vendor.name), [], value, pictures=[page]
    )
